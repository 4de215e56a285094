// The text encoder that is a part of a frame generation network: its parameters, its gradients, that padding and dropped captions
// influence nothing, files, and that it learns.

import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { Dfgn } from '../src/models/dfgn.js';
import type { Tensors } from '../src/native/core.js';
import type { PredictionBatch } from '../src/native/stickers.js';
import { CaptionVocabulary } from '../src/stickers/caption-vocabulary.js';
import { temporaryFolder } from './data-support.js';
import {
  CAPTIONS,
  captionNetwork,
  ENCODER,
  prediction,
  TARGET,
  TRAINING,
  twins,
  wave,
} from './dfgn-caption-support.js';
import { rejection } from './native-support.js';

const PREFIX = 'caption_encoder.';
const opened: Dfgn[] = [];
afterEach(() => {
  for (const network of opened.splice(0)) network.dispose();
});

function open(...given: Parameters<typeof captionNetwork>): Dfgn {
  const network = captionNetwork(...given);
  opened.push(network);
  return network;
}

function largestDifference(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] as number))), 0);
}

const captionNames = (network: Dfgn) => [...network.shapes.keys()].filter((name) => name.startsWith(PREFIX));

/** Makes the captions matter more than PyTorch's initial values let them. */
async function louder(network: Dfgn): Promise<Dfgn> {
  const names = [...network.shapes.keys()].filter((name) => /embedding\.weight|attn2|proj_out/.test(name));
  const values = await network.read(names);
  for (const tensor of Object.values(values))
    for (let i = 0; i < tensor.length; i++) tensor[i] = 3 * (tensor[i] as number);
  await network.write(values);
  return network;
}

describe('parameters', () => {
  test('have their names and shapes; a network without an encoder has none of them', () => {
    const network = open();
    const shapes = Object.fromEntries(captionNames(network).map((name) => [name, network.shapes.get(name)]));
    expect(shapes[`${PREFIX}token_embedding.weight`]).toEqual([12, 16]);
    expect(shapes[`${PREFIX}position_embedding.weight`]).toEqual([6, 16]);
    expect(shapes[`${PREFIX}layers.1.self_attn.v_proj.weight`]).toEqual([16, 16]);
    expect(shapes[`${PREFIX}layers.0.mlp.fc1.weight`]).toEqual([64, 16]);
    expect(shapes[`${PREFIX}final_layer_norm.bias`]).toEqual([16]);
    // two tables, the last norm, and in every layer two norms, q, k, v, and three layers with bias
    expect(captionNames(network)).toHaveLength(2 + 2 + ENCODER.num_layers * (4 + 3 + 6));
    expect(captionNames(open({ caption_encoder: null }))).toEqual([]);
  });

  test('start as embeddings do, and change no other initial value', async () => {
    const [network, plain] = [open(), open({ caption_encoder: null })];
    const table = (await network.read([`${PREFIX}token_embedding.weight`]))[
      `${PREFIX}token_embedding.weight`
    ];
    const deviation = Math.sqrt((table as Float32Array).reduce((sum, x) => sum + x * x, 0) / 192);
    expect(deviation).toBeGreaterThan(0.016);
    expect(deviation).toBeLessThan(0.024);
    const names = [...plain.shapes.keys()];
    expect(await network.read(names)).toEqual(await plain.read(names));
  });

  test('padding is id 0 of a caption vocabulary', () => {
    expect(CaptionVocabulary.fromCaptions(['a cat', 'a dog']).padId).toBe(0);
  });
});

describe('gradients', () => {
  test('agree with central differences', async () => {
    const network = await louder(open());
    const lossOf = async () => (await network.differentiate(prediction(), TARGET)).loss;
    await lossOf();
    const gradients = await network.gradients();
    for (const name of captionNames(network)) {
      const gradient = gradients[name] as Float32Array;
      const { [name]: before } = (await network.read([name])) as { [name: string]: Float32Array };
      // the entry that matters most
      const at = gradient.reduce(
        (best, x, i) => (Math.abs(x) > Math.abs(gradient[best] as number) ? i : best),
        0,
      );
      const step = name.includes('embedding') ? 2e-3 : 2e-2; // the tables' values are small
      const loss = async (sign: number) => {
        const moved = Float32Array.from(before as Float32Array);
        moved[at] = (moved[at] as number) + sign * step;
        await network.write({ [name]: moved });
        return lossOf();
      };
      const difference = ((await loss(1)) - (await loss(-1))) / (2 * step);
      await network.write({ [name]: before as Float32Array });
      const expected = gradient[at] as number;
      expect(
        Math.abs(difference - expected),
        `${name}[${at}]: ${expected}, differences ${difference}`,
      ).toBeLessThan(0.03 * Math.abs(expected) + 2e-6);
    }
  });

  test('are the same with checkpointing', async () => {
    const network = open();
    await network.differentiate(prediction(), TARGET);
    const plain = await network.gradients();
    await network.differentiate(prediction(), TARGET, true);
    expect(await network.gradients()).toEqual(plain);
  });

  test('do not flow through dropped captions', async () => {
    const network = open();
    await network.differentiate(prediction(CAPTIONS, { dropText: Uint8Array.of(1, 1) }), TARGET);
    const none = await network.gradients();
    for (const name of captionNames(network))
      expect(
        none[name]?.some((x) => x !== 0),
        name,
      ).toBe(false);

    const onlyFirst = async (second: number[]) => {
      const batch = prediction([CAPTIONS[0] as number[], second], { dropText: Uint8Array.of(0, 1) });
      await network.differentiate(batch, TARGET);
      return network.gradients();
    };
    const some = await onlyFirst([2, 9, 10, 11]);
    const table = some[`${PREFIX}token_embedding.weight`] as Float32Array;
    expect(table.subarray(5 * 16, 6 * 16).some((x) => x !== 0)).toBe(true);
    expect(table.subarray(9 * 16).some((x) => x !== 0)).toBe(false);
    expect(await onlyFirst([0, 0, 0, 0])).toEqual(some); // what is dropped may be padding only
  });
});

describe('captions', () => {
  test('may be padded to any length', async () => {
    const network = await louder(open());
    const short = await network.predict(prediction());
    const long = await network.predict(prediction(CAPTIONS.map((ids) => [...ids, 0, 0])));
    const other = await network.predict(prediction([[2, 5, 8, 3], CAPTIONS[1] as number[]]));
    expect(largestDifference(short, long)).toBeLessThan(2e-6);
    expect(largestDifference(short, other)).toBeGreaterThan(1e-4);
  });

  test('are zeros where they are dropped, as given states are', async () => {
    const network = await louder(open());
    const { tokens: _, ...zeros } = { ...prediction(), text: new Float32Array(2 * 4 * 16) };
    const dropped = await network.predict(prediction(CAPTIONS, { dropText: Uint8Array.of(1, 1) }));
    expect(largestDifference(dropped, await network.predict(zeros))).toBeLessThan(1e-6);
    const states = { ...zeros, text: wave(2 * 4 * 16) };
    const given = await network.predict({ ...states, dropText: Uint8Array.of(1, 1) });
    expect(given).toEqual(await network.predict(zeros));
  });

  test('come twice for guidance, the dropped ones first', async () => {
    const network = await louder(open());
    const twice = prediction([...CAPTIONS, ...CAPTIONS], { dropText: Uint8Array.of(1, 1, 0, 0) });
    const without = await network.predict(prediction(CAPTIONS, { dropText: Uint8Array.of(1, 1) }));
    const withText = await network.predict(prediction());
    const expected = without.map((e0, i) => e0 + 3 * ((withText[i] as number) - e0));
    expect(largestDifference(await network.predict(twice, 3), expected)).toBeLessThan(1e-5);
  });

  test('are encoded again when they or the weights change', async () => {
    const network = await louder(open());
    const first = await network.predict(prediction());
    expect(await network.predict(prediction())).toEqual(first);
    const one = prediction(CAPTIONS, { dropText: Uint8Array.of(0, 1) });
    expect(largestDifference(await network.predict(one), first)).toBeGreaterThan(1e-4);
    const name = `${PREFIX}position_embedding.weight`;
    await network.write({ [name]: wave(6 * 16) });
    expect(largestDifference(await network.predict(prediction()), first)).toBeGreaterThan(1e-4);
  });

  test('stand behind the states of a second encoder', async () => {
    const network = await louder(open({ t5_dim: 5 }));
    const t5 = { t5Tokens: 3, t5: wave(2 * 3 * 5) };
    const short = await network.predict(prediction(CAPTIONS, t5));
    const long = await network.predict(
      prediction(
        CAPTIONS.map((ids) => [...ids, 0]),
        t5,
      ),
    );
    expect(largestDifference(short, long)).toBeLessThan(2e-6);
    await network.differentiate(prediction(CAPTIONS, t5), TARGET, true);
    const table = (await network.gradients())[`${PREFIX}token_embedding.weight`] as Float32Array;
    expect(table.some((x) => x !== 0)).toBe(true);
  });

  test.each<[string, Partial<PredictionBatch>]>([
    ['either text (states of an encoder) or tokens (.*) but received both', { text: wave(2 * 4 * 16) }],
    [
      'token ids from 0 to 11 .* token 1 of caption 1 is 12',
      { tokens: Int32Array.of(2, 5, 6, 3, 2, 12, 3, 0) },
    ],
    [
      'token ids from 0 to 11 .* token 0 of caption 0 is -1',
      { tokens: Int32Array.of(-1, 5, 6, 3, 2, 1, 3, 0) },
    ],
    ['at least one token in every caption but caption 1', { tokens: Int32Array.of(2, 5, 6, 3, 0, 0, 0, 0) }],
    ['at most 6 tokens .* received 7', { textTokens: 7, tokens: new Int32Array(14).fill(1) }],
    ['2 x 4 x 1 values for tokens or a multiple but received 7', { tokens: new Int32Array(7).fill(1) }],
    ['2 values for dropText but received 1', { dropText: Uint8Array.of(1) }],
  ])('refused: expected %s', async (message, changes) => {
    const error = await rejection(open().predict(prediction(CAPTIONS, changes)));
    expect(error.message).toMatch(new RegExp(message.replaceAll(' (', ' \\(').replaceAll(') ', '\\) ')));
    expect(error.code).toBe('INVALID_ARGUMENT');
  });

  test('refused: none at all, ids for a network without an encoder, states for training one', async () => {
    const { tokens: _, ...nothing } = prediction();
    expect((await rejection(open().predict(nothing))).message).toContain('but received neither');
    const plain = open({ caption_encoder: null });
    expect((await rejection(plain.predict(prediction()))).message).toContain('without a caption_encoder');
    const network = open();
    await network.startTraining(TRAINING);
    const { tokens: _t, ...states } = twins({ text: wave(2 * 4 * 16) });
    expect((await rejection(network.step(states))).message).toContain('Expected tokens for training');
    expect(() => open({ caption_encoder: { ...ENCODER, num_heads: 3 } })).toThrow(/num_heads.*received 3/);
  });
});

describe('training', () => {
  test('tells clips apart that only differ in their captions', async () => {
    const learn = async (dropped: 0 | 1) => {
      const network = open();
      await network.startTraining(TRAINING);
      const batch = twins({ dropText: new Uint8Array(2).fill(dropped) });
      let loss = 0;
      for (let step = 0; step < 150; step++) loss = (await network.step(batch)).loss;
      return loss;
    };
    expect(await learn(1)).toBeGreaterThan(0.95); // the best guess without a caption is 0
    expect(await learn(0)).toBeLessThan(0.1);
  });

  test('goes on from files with the same bits', async () => {
    const folder = await temporaryFolder();
    const path = (part: string) => join(folder, `${part}.safetensors`);
    const options = { ...TRAINING, emaDecay: 0.9 };
    const network = open();
    await network.startTraining(options);
    for (let step = 0; step < 3; step++) await network.step(twins());
    await network.save(join(folder, 'network'));
    for (const part of ['average', 'firstMoment', 'secondMoment'] as const)
      await network.saveFile(path(part), part);
    const others = await Dfgn.fromPretrained(join(folder, 'network'), { threads: 1 });
    opened.push(others);
    expect(others.config.caption_encoder).toEqual(ENCODER);
    expect(await others.read()).toEqual(await network.read());
    await others.startTraining(options);
    for (const part of ['average', 'firstMoment', 'secondMoment'] as const)
      await others.load(path(part), part);
    await others.setSteps(3);
    const half = twins({ dropText: Uint8Array.of(1, 0) });
    for (const one of [network, others]) await one.step(half);
    expect(await others.read()).toEqual(await network.read());
    expect(await others.optimizerState()).toEqual(await network.optimizerState());
    await network.swapAverages();
    const name = `${PREFIX}layers.0.mlp.fc2.weight`;
    const average = (await network.read([name])) as Tensors;
    expect(average).not.toEqual(await others.read([name]));
  });

  test('evaluates captions without learning', async () => {
    const network = open();
    await network.startTraining(TRAINING);
    const before = await network.read();
    const { loss } = await network.evaluate(twins());
    expect(loss).toBeCloseTo((await network.step(twins())).loss, 12);
    expect(await network.read()).not.toEqual(before);
  });
});
