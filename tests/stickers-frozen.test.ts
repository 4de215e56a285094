// Sticker trainings beside frozen parts: latents of an autoencoder, texts of CLIP, BERT and T5. All of them tiny, with drawn weights.

import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { StickerDataset } from '../src/data/stickers/dataset.js';
import { AutoencoderKl } from '../src/models/autoencoder.js';
import { FrozenTextEncoder } from '../src/models/text-encoder.js';
import { native } from '../src/native.js';
import type { Curriculum } from '../src/stickers/curriculum/curriculum.js';
import { StickerPipeline } from '../src/stickers/pipeline.js';
import type { StickerTrainerOptions } from '../src/stickers/settings.js';
import { LatentSpace } from '../src/stickers/space.js';
import { generateStickers } from '../src/stickers/synthetic/generate.js';
import { TASKS } from '../src/stickers/tasks.js';
import { PretrainedText } from '../src/stickers/text-source.js';
import { StickerTrainer } from '../src/stickers/trainer.js';
import { temporaryFolder } from './data-support.js';
import { allSteps, lastWeights, tinyNetwork, withoutMetrics } from './sticker-support.js';
import { AUTOENCODER, autoencoderFolder, encoderFolder } from './support/encoder-folders.js';

let folder: string;
let data: StickerDataset;
let autoencoder: string;
let encoders: Record<'clip' | 'bert' | 't5', string>;

beforeAll(async () => {
  folder = await temporaryFolder();
  await generateStickers(join(folder, 'drawn'), { size: 16, frames: 4 });
  data = await (await StickerDataset.fromFolder(join(folder, 'drawn'), { frames: 4, size: 16 })).prepare();
  autoencoder = await autoencoderFolder();
  encoders = {
    clip: await encoderFolder('clip'),
    bert: await encoderFolder('bert'),
    t5: await encoderFolder('t5'),
  };
});

const inLatents = { network: { ...tinyNetwork, in_channels: AUTOENCODER.latent_channels }, patch: 1 };

/** Text-to-sticker alone, so that every step sees the text. */
const textOnly: Curriculum = {
  name: 'text only',
  weights: () => TASKS.map((task) => Number(task === 't2v')),
  observe: () => {},
  state: () => ({}),
  restore: () => {},
};

function trainer(changes: Partial<StickerTrainerOptions> = {}): StickerTrainer {
  return new StickerTrainer({
    network: tinyNetwork,
    data,
    patch: 2,
    steps: 2,
    batchSize: 2,
    learningRate: 1e-3,
    seed: 3,
    threads: 1,
    ...changes,
  });
}

describe('latents of an autoencoder', () => {
  const options = () => ({ ...inLatents, space: { autoencoder } });

  test('stopped and resumed gives the bits of a training that was not', async () => {
    const [whole, cut] = [join(folder, 'whole'), join(folder, 'cut')];
    const wanted = await allSteps(trainer({ ...options(), runDir: whole }));
    const abort = new AbortController();
    const seen: typeof wanted = [];
    const run = async () => {
      for await (const step of trainer({ ...options(), runDir: cut }).run({ signal: abort.signal })) {
        seen.push(step);
        abort.abort();
      }
    };
    await expect(run()).rejects.toMatchObject({ code: 'CANCELLED' });
    seen.push(...(await allSteps(trainer({ ...options(), runDir: cut, resume: true }))));
    expect(withoutMetrics(seen)).toEqual(withoutMetrics(wanted));
    expect((await lastWeights(cut)).equals(await lastWeights(whole))).toBe(true);
  });

  test('are those of the autoencoder: its mean and deviation with fresh noise, scaled', async () => {
    const space = await LatentSpace.open(autoencoder, { threads: 1 });
    const batch = await data.batch(data.samples.slice(0, 2));
    const shape = { clips: 2, frames: 4, height: 16, width: 16 };
    const draws = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i));
    using model = await AutoencoderKl.fromPretrained(autoencoder, { threads: 1 });
    const noise = draws(2 * 2 * 4 * 16);
    for (const _ of ['fresh', 'kept']) {
      const latents = await space.enter(batch!, shape, draws);
      const expected = await model.encode(batch!.values, shape, { noise });
      for (const [i, x] of latents.entries()) expect(x).toBeCloseTo(expected[i]!, 5);
    }
    space.dispose();
  });

  test('are kept on disk: a clip is encoded once over all runs, damaged and foreign files are made again', async () => {
    const cache = join(await temporaryFolder(), 'clips');
    const batch = await data.batch(data.samples.slice(0, 3));
    const shape = { clips: 3, frames: 4, height: 16, width: 16 };
    const encode = vi.spyOn(AutoencoderKl.prototype, 'moments');
    const enter = async (changes: Parameters<typeof LatentSpace.open>[1] = {}, from = autoencoder) => {
      encode.mockClear();
      const space = await LatentSpace.open(from, { threads: 1, cache, ...changes });
      const latents = await space.enter(batch!, shape, (length) => new Float32Array(length).fill(1));
      const { cacheProblem } = space;
      space.dispose();
      return { latents, encoded: encode.mock.calls.length, cacheProblem };
    };
    const { latents } = await enter({ cache: undefined });
    expect(await enter()).toEqual({ latents, encoded: 3, cacheProblem: undefined });
    const files = (await readdir(cache)).map((name) => join(cache, name));
    expect(files.map((name) => name.endsWith('.latents'))).toEqual([true, true, true]);
    expect(await enter()).toEqual({ latents, encoded: 0, cacheProblem: undefined });
    const damaged = await readFile(files[0]!);
    damaged[damaged.length - 3]! ^= 1;
    await writeFile(files[0]!, damaged);
    await cp(files[2]!, files[1]!);
    expect(await enter()).toMatchObject({ latents, encoded: 2 });
    expect(await enter()).toMatchObject({ latents, encoded: 0 });
    const other = await autoencoderFolder({ scaling_factor: 0.25 });
    expect((await enter({}, other)).encoded).toBe(3);
    expect((await enter({ threads: 2 })).encoded).toBe(3);
    expect(await enter({ cache: '/dev/null/clips' })).toMatchObject({
      latents,
      encoded: 3,
      cacheProblem: expect.stringMatching(/^Latents are no longer kept in \/dev\/null\/clips: /),
    });
    encode.mockRestore();
  });

  test('a second training takes them from the cache of the data, with the same bits', async () => {
    const cache = join(await temporaryFolder(), 'clips');
    const cached = await StickerDataset.fromFolder(join(folder, 'drawn'), { frames: 4, size: 16, cache });
    const encode = vi.spyOn(AutoencoderKl.prototype, 'moments');
    const first = await allSteps(trainer({ ...options(), data: cached }));
    expect(encode).toHaveBeenCalled();
    encode.mockClear();
    const second = await allSteps(trainer({ ...options(), data: cached }));
    expect(encode).not.toHaveBeenCalled();
    expect(withoutMetrics(second)).toEqual(withoutMetrics(first));
    encode.mockRestore();
  });

  test('become stickers again; given frames come back exactly', async () => {
    const runDir = join(folder, 'whole');
    using pipeline = await StickerPipeline.load(runDir, { threads: 1 });
    const batch = await data.batch(data.samples.slice(0, 1));
    const truth = await native.framesFromValues(batch!.values, 4, 16, 16, 3);
    const keep = { 0: { width: 16, height: 16, rgba: truth.slice(0, 1024) } };
    const { width, rgba, delays } = await pipeline.generate({ prompt: 'a red ball', keep, steps: 2 });
    expect([width, delays.length]).toEqual([16, 4]);
    expect(rgba.subarray(0, 1024)).toEqual(keep[0].rgba);
    expect(rgba.subarray(1024)).not.toEqual(truth.subarray(1024));
  });

  test('the run folder opens from anywhere, and goes on when the autoencoder lies elsewhere', async () => {
    const runDir = join(folder, 'relative');
    const options = { ...inLatents, runDir, steps: 1 };
    await allSteps(trainer({ ...options, space: { autoencoder: relative('.', autoencoder) } }));
    const { settings } = await StickerPipeline.load(runDir, { threads: 1 });
    expect(settings.space).toEqual({ autoencoder });
    const moved = join(await temporaryFolder(), 'autoencoder');
    await cp(autoencoder, moved, { recursive: true });
    expect(await allSteps(trainer({ ...options, space: { autoencoder: moved }, resume: true }))).toEqual([]);
    const { settings: now } = await StickerPipeline.load(runDir, { threads: 1 });
    expect(now.space).toEqual({ autoencoder: moved });
  });

  test('another autoencoder in its place is noticed', async () => {
    const other = await autoencoderFolder({ scaling_factor: 0.25 });
    const moved = join(await temporaryFolder(), 'autoencoder');
    await cp(autoencoder, moved, { recursive: true });
    const runDir = join(folder, 'moved');
    const space = { autoencoder: moved };
    await allSteps(trainer({ ...inLatents, space, runDir, steps: 1 }));
    for (const file of ['diffusion_pytorch_model.safetensors', 'config.json'])
      await cp(join(other, file), join(moved, file));
    const resumed = allSteps(trainer({ ...inLatents, space, runDir, steps: 1, resume: true }));
    await expect(resumed).rejects.toThrow(/other settings: encoders.space/);
  });
});

describe('texts of frozen encoders', () => {
  const kinds = {
    clip: () => ({ network: { ...tinyNetwork, cross_attention_dim: 12 }, text: { encoder: encoders.clip } }),
    bert: () => ({ network: { ...tinyNetwork, cross_attention_dim: 12 }, text: { encoder: encoders.bert } }),
    t5: () => ({
      network: { ...tinyNetwork, cross_attention_dim: 10 },
      text: { encoder: encoders.t5, length: 6 },
    }),
    'clip and t5': () => ({
      network: { ...tinyNetwork, cross_attention_dim: 12, t5_dim: 10 },
      text: { encoder: encoders.clip, second: encoders.t5, length: 6 },
    }),
  };

  test.each(Object.entries(kinds))('%s: trains, and a prompt matters', async (name, options) => {
    const runDir = join(folder, name);
    const steps = await allSteps(trainer({ ...options(), runDir, curriculum: textOnly }));
    expect(steps).toHaveLength(2);
    expect(await allSteps(trainer({ ...options(), curriculum: textOnly, wordDrop: 1 }))).not.toEqual(steps);
    using pipeline = await StickerPipeline.load(runDir, { threads: 1 });
    const made = await pipeline.generate({ prompt: 'a cat', steps: 2, guidance: 1 });
    const other = await pipeline.generate({ prompt: 'a red ball', steps: 2, guidance: 1 });
    expect(made.rgba).not.toEqual(other.rgba);
  });

  test('another encoder in its place is noticed', async () => {
    const runDir = join(folder, 'other');
    const { network } = kinds.clip();
    await allSteps(trainer({ network, text: { encoder: encoders.clip }, runDir, steps: 1 }));
    const other = trainer({ network, text: { encoder: encoders.bert }, runDir, steps: 1, resume: true });
    await expect(allSteps(other)).rejects.toThrow(/other settings: encoders.text was/);
  });

  test.each([
    ['clip', 'merges.txt', '#version: 0.2\n'],
    ['bert', 'vocab.txt', '[PAD]\n[UNK]\n[CLS]\n[SEP]\nball\na\n##s\nstar\nred\n'],
    ['bert', 'tokenizer_config.json', '{"do_lower_case": false}'],
  ] as const)('%s: another vocabulary in its place is noticed (%s)', async (kind, file, content) => {
    const encoder = await encoderFolder(kind);
    const options = { ...kinds[kind](), text: { encoder }, runDir: join(encoder, 'run'), steps: 1 };
    await allSteps(trainer(options));
    expect(await allSteps(trainer({ ...options, resume: true }))).toEqual([]);
    await writeFile(join(encoder, file), content);
    await expect(allSteps(trainer({ ...options, resume: true }))).rejects.toThrow(
      /other settings: encoders.text was/,
    );
  });

  test('without a tokenizer it is refused before there is a run folder', async () => {
    const encoder = await encoderFolder('bert');
    await rm(join(encoder, 'vocab.txt'));
    const options = { ...kinds.bert(), text: { encoder }, runDir: join(encoder, 'run') };
    await expect(allSteps(trainer(options))).rejects.toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringContaining(`Expected a tokenizer in the text encoder's folder ${encoder} but`),
    });
    expect(await readdir(encoder)).not.toContain('run');
  });

  test('two encoders: the states of the first as they are, those of the second beside them', async () => {
    const { text: settings } = kinds['clip and t5']();
    const text = await PretrainedText.open(settings, { text: 12, t5: 10 }, { threads: 1 });
    const states = await text.encode(['a cat', 'a red ball']);
    expect(states).toMatchObject({ textTokens: 6, t5Tokens: 6 });
    using clip = await FrozenTextEncoder.fromPretrained(encoders.clip, { length: 6, threads: 1 });
    using t5 = await FrozenTextEncoder.fromPretrained(encoders.t5, { length: 6, threads: 1 });
    expect(states.text).toEqual((await clip.encode(['a cat', 'a red ball'])).states);
    expect(states.t5).toEqual((await t5.encode(['a cat', 'a red ball'])).states);
    text.dispose();
  });
});

describe('what does not fit is refused', () => {
  const text = (kind: 'clip' | 'bert' | 't5', second?: 't5') => ({
    encoder: encoders[kind],
    ...(second && { second: encoders[second] }),
  });
  const cases: [string, () => Promise<Partial<StickerTrainerOptions>>, RegExp][] = [
    [
      'a network of other channels',
      async () => ({ space: { autoencoder }, patch: 1 }),
      /Expected in_channels 2 \(of the space\) for the network but received 4/,
    ],
    [
      'transparency',
      async () => ({
        ...inLatents,
        space: { autoencoder },
        data: await StickerDataset.fromFolder(join(folder, 'drawn'), { frames: 4, size: 16, channels: 4 }),
      }),
      /Expected data of 3 channels and patch 1 with an autoencoder but received 4 and 1/,
    ],
    [
      'a size that is no multiple',
      async () => ({
        ...inLatents,
        space: { autoencoder },
        data: await StickerDataset.fromFolder(join(folder, 'drawn'), { frames: 4, size: 18 }),
      }),
      /Expected a size divisible by 4 \(the autoencoder's reduction\) for the data but received 18/,
    ],
    [
      'an autoencoder of grey pictures',
      async () => ({
        ...inLatents,
        space: { autoencoder: await autoencoderFolder({ in_channels: 1, out_channels: 1 }) },
      }),
      /Expected an autoencoder of RGB pictures in .* but it takes 1 channels/,
    ],
    [
      'an encoder of another width',
      async () => ({ text: text('clip') }),
      /Expected a text encoder of width 16 \(cross_attention_dim of the network\) but .* has 12/,
    ],
    [
      'a second encoder the network does not project',
      async () => ({ network: { ...tinyNetwork, cross_attention_dim: 12 }, text: text('clip', 't5') }),
      /Expected no second text encoder for a network with t5_dim null but received/,
    ],
    [
      'none where it projects one',
      async () => ({ network: { ...tinyNetwork, cross_attention_dim: 12, t5_dim: 10 }, text: text('clip') }),
      /Expected a second text encoder for a network with t5_dim 10 but received none/,
    ],
    [
      'more tokens than an encoder has positions',
      async () => ({
        network: { ...tinyNetwork, cross_attention_dim: 12 },
        text: { ...text('clip'), length: 40 },
      }),
      /Expected length of at most 9 .* but received 40/,
    ],
    [
      'a text encoder in place of the autoencoder',
      async () => ({ ...inLatents, space: { autoencoder: encoders.bert } }),
      /do not fit the model of its config.json. Missing: encoder.conv_in.weight/,
    ],
  ];
  test.each(cases)('%s', async (_, changes, message) => {
    const runDir = join(await temporaryFolder(), 'run');
    const options = { ...(await changes()), runDir };
    await expect((async () => allSteps(trainer(options)))()).rejects.toThrow(message);
    await expect(readFile(join(runDir, 'config.json'))).rejects.toThrow(/ENOENT/);
  });

  test('weights that are not those of the config', async () => {
    const other = await encoderFolder('clip');
    const config = JSON.parse(await readFile(join(other, 'config.json'), 'utf8'));
    await writeFile(join(other, 'config.json'), JSON.stringify({ ...config, num_hidden_layers: 3 }));
    const network = { ...tinyNetwork, cross_attention_dim: 12 };
    await expect(allSteps(trainer({ network, text: { encoder: other } }))).rejects.toThrow(
      /Missing: encoder\.layers\.2\..*Check that both files belong together/,
    );
  });
});
