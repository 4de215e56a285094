// Frozen text encoders: against plain double-precision ones, the ways their weights may be stored, what is refused, and
// the cache of captions.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { FrozenTextEncoder } from '../src/models/text-encoder.js';
import { textEncoderConfig } from '../src/models/text-encoder-config.js';
import type { TensorData } from '../src/native/core.js';
import type { TokenBatch } from '../src/native/stickers.js';
import { native } from '../src/native.js';
import { rejection } from './native-support.js';
import {
  bertKind,
  clipKind,
  drawn,
  type EncoderKind,
  modelFolder,
  type TensorSet,
  t5Kind,
  tensorsOf,
} from './support/encoder-folders.js';
import { BF16, expectClose, expectSame, FP32, floats } from './support/reference/check.js';
import { roundToBf16 } from './support/reference/numbers.js';

const kinds: [string, EncoderKind, number][] = [
  ['clip with quick_gelu', clipKind(), 9],
  ['clip with gelu, pooled at its end token', clipKind({ hidden_act: 'gelu', eos_token_id: 7 }), 5],
  ['bert', bertKind(), 11],
  ['t5', t5Kind(), 30],
  ['t5 v1.1', t5Kind('gated-gelu'), 30],
];

/** Two texts; the second has padding. Token 7 ends both, token 39 is the largest. */
function batchOf(length: number): { tokens: TokenBatch; rows: number[][]; masks: number[][] } {
  const rows = [0, 1].map((text) => Array.from({ length }, (_, i) => (i * 5 + text * 3 + 1) % 38));
  rows[0]![3] = 7;
  rows[1]![2] = 7;
  rows[1]![1] = 39;
  const masks = [0, 1].map((text) => Array.from({ length }, (_, i) => Number(text === 0 || i < 3)));
  const inputIds = Int32Array.from(rows.flat());
  return { tokens: { batch: 2, length, inputIds }, rows, masks };
}

describe.each(kinds)('%s', (_name, kind, length) => {
  const { weights, tensors } = drawn(kind.shapes);
  const { tokens, rows, masks } = batchOf(length);
  const masked = kind.config.model_type !== 'clip_text_model';

  test.each(masked ? [false, true] : [false])('against the reference, with a mask: %s', async (mask) => {
    using encoder = await FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors));
    const attentionMask = Uint8Array.from(masks.flat());
    const states = await encoder.encodeTokens(mask ? { ...tokens, attentionMask } : tokens, true);
    const expected = rows.map((ids, i) => kind.reference(weights, ids, mask ? masks[i] : undefined));
    const all = (of: (text: (typeof expected)[number]) => Float64Array) =>
      expected.flatMap((e) => [...of(e)]);
    expect(states.lastHiddenState.shape).toEqual([2, length, kind.shape.width]);
    expectClose(
      floats(states.lastHiddenState),
      all((e) => e.last),
      FP32,
      'last hidden state',
    );
    for (const [i, state] of states.hiddenStates!.entries())
      expectClose(
        floats(state),
        all((e) => e.hidden[i]!),
        FP32,
        `hidden state ${i}`,
      );
    expect(states.hiddenStates!.length).toBe(kind.shape.layers + 1);
    if (expected[0]!.pooled)
      expectClose(
        floats(states.poolerOutput),
        all((e) => e.pooled!),
        FP32,
        'pooled',
      );
    else expect(states.poolerOutput).toBeUndefined();
  });

  test('a text alone is the text in a batch; the states of every layer are extra', async () => {
    using encoder = await FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors));
    const both = floats((await encoder.encodeTokens(tokens)).lastHiddenState);
    const second = { batch: 1, length, inputIds: tokens.inputIds.slice(length) };
    const states = await encoder.encodeTokens(second);
    expect(states.hiddenStates).toBeUndefined();
    expectClose(floats(states.lastHiddenState), both.slice(both.length / 2), FP32, 'the second text');
  });

  test('weights in bf16, compute in bf16', async () => {
    const half: TensorSet = {};
    for (const [name, tensor] of Object.entries(tensors)) {
      const bits = new Uint32Array((tensor.data as Float32Array).map(roundToBf16).buffer);
      half[name] = { ...tensor, dtype: 'bf16', data: Uint16Array.from(bits, (word) => word >>> 16) };
    }
    const rounded = Object.fromEntries(
      Object.entries(weights).map(([name, values]) => [name, values.map(roundToBf16)]),
    );
    const folder = await modelFolder(kind.config, half);
    using encoder = await FrozenTextEncoder.fromPretrained(folder);
    const exact = floats((await encoder.encodeTokens(tokens)).lastHiddenState);
    using plain = await FrozenTextEncoder.fromPretrained(
      await modelFolder(kind.config, tensorsOf(rounded, kind.shapes)),
    );
    expectSame(exact, floats((await plain.encodeTokens(tokens)).lastHiddenState), 'the same values in f32');
    if (native.systemInfo().isa !== 'avx512') {
      console.log('skipped: compute in bf16 needs AVX-512');
      return;
    }
    using quick = await FrozenTextEncoder.fromPretrained(folder, { compute: 'bf16' });
    const fast = floats((await quick.encodeTokens(tokens)).lastHiddenState);
    expectClose(fast, exact, 4 * BF16, 'bf16 against fp32'); // two layers, each rounding a few times
    expect([...fast]).not.toEqual([...exact]);
  });
});

describe('names in files', () => {
  const lastOf = async (kind: EncoderKind, tensors: TensorSet, file?: string) => {
    using encoder = await FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors, file));
    return floats((await encoder.encodeTokens(batchOf(5).tokens)).lastHiddenState);
  };
  const renamed = (tensors: TensorSet, rename: (name: string) => string) =>
    Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [rename(name), tensor]));
  const ids: TensorData = { dtype: 'i64', shape: [1, 2], data: new BigInt64Array(2) };
  const scalar: TensorData = { dtype: 'f32', shape: [1, 1], data: new Float32Array(1) };

  const ways: [string, EncoderKind, (tensors: TensorSet) => TensorSet][] = [
    ['clip: position ids', clipKind(), (t) => ({ ...t, 'text_model.embeddings.position_ids': ids })],
    ['clip: no prefix', clipKind(), (t) => renamed(t, (name) => name.replace('text_model.', ''))],
    [
      'clip: a whole CLIP',
      clipKind(),
      (t) => ({ ...t, 'vision_model.x': scalar, 'text_projection.weight': scalar, logit_scale: scalar }),
    ],
    ['bert: the names of Chinese-CLIP', bertKind(), (t) => renamed(t, (name) => `bert.${name}`)],
    [
      'bert: a whole Chinese-CLIP',
      bertKind(),
      (t) => ({
        ...renamed(t, (name) => `text_model.${name}`),
        'text_model.embeddings.position_ids': ids,
        'vision_model.x': scalar,
      }),
    ],
    [
      'bert: with pooler and head',
      bertKind(),
      (t) => ({ ...t, 'pooler.dense.bias': scalar, 'cls.predictions.bias': scalar }),
    ],
    [
      't5: the table under its tied name, a decoder beside it',
      t5Kind(),
      (t) => ({
        ...renamed(t, (name) => name.replace('shared.', 'encoder.embed_tokens.')),
        'decoder.final_layer_norm.weight': scalar,
        'lm_head.weight': scalar,
      }),
    ],
  ];
  test.each(ways)('%s', async (_name, kind, change) => {
    const { tensors } = drawn(kind.shapes);
    expectSame(await lastOf(kind, change(tensors)), await lastOf(kind, tensors), 'states');
  });

  test("diffusers' file name; a model in parts", async () => {
    const kind = bertKind();
    const { tensors } = drawn(kind.shapes);
    const expected = await lastOf(kind, tensors);
    expectSame(
      await lastOf(kind, tensors, 'diffusion_pytorch_model.safetensors'),
      expected,
      'other file name',
    );

    const folder = await modelFolder(kind.config);
    const names = Object.keys(tensors);
    const map: Record<string, string> = {};
    for (const [part, half] of [names.slice(0, 9), names.slice(9)].entries()) {
      const file = `model-0000${part + 1}-of-00002.safetensors`;
      for (const name of half) map[name] = file;
      await native.writeSafetensors(
        join(folder, file),
        Object.fromEntries(half.map((name) => [name, tensors[name]!])),
        {},
      );
    }
    await writeFile(join(folder, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }));
    using encoder = await FrozenTextEncoder.fromPretrained(folder);
    expectSame(floats((await encoder.encodeTokens(batchOf(5).tokens)).lastHiddenState), expected, 'in parts');
  });

  test('what is missing, left over or of another shape is listed, and nothing is loaded', async () => {
    const kind = clipKind();
    const { tensors } = drawn(kind.shapes);
    const { 'text_model.final_layer_norm.bias': _gone, ...rest } = tensors;
    const wrong = {
      ...rest,
      'text_model.final_layer_norm.weight': {
        dtype: 'f32',
        shape: [4],
        data: new Float32Array(4),
      } as TensorData,
      'text_model.encoder.layers.2.layer_norm1.weight': scalar,
    };
    const error = await rejection(FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, wrong)));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch(
      /Missing: final_layer_norm\.bias\. Unexpected: text_model\.encoder\.layers\.2/,
    );
    expect(error.message).toMatch(/Wrong shape: final_layer_norm\.weight is \[4\], expected \[12\]/);
  });

  test('integers in place of weights', async () => {
    const kind = clipKind();
    const name = 'text_model.final_layer_norm.bias';
    const tensors: TensorSet = {
      ...drawn(kind.shapes).tensors,
      [name]: { dtype: 'i32', shape: [12], data: new Int32Array(12) },
    };
    const error = await rejection(FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors)));
    expect(error).toMatchObject({ code: 'CORRUPT', message: expect.stringMatching(/floating-point .* I32/) });
  });
});

describe('what is refused', () => {
  const kind = bertKind();
  const { tensors } = drawn(kind.shapes);
  const refused = async (folder: string, options = {}) =>
    await rejection(FrozenTextEncoder.fromPretrained(folder, options));

  test('folders without config, weights, or with other things', async () => {
    const empty = await modelFolder(kind.config);
    expect(await refused(join(empty, 'nowhere'))).toMatchObject({ code: 'NOT_FOUND' });
    expect(await refused(empty)).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringMatching(/Expected model\.safetensors or diffusion_pytorch_model\.safetensors/),
    });
    await writeFile(join(empty, 'pytorch_model.bin'), 'x');
    expect(await refused(empty)).toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(/pickle; .*safe_serialization/),
    });
    await writeFile(join(empty, 'model.safetensors'), 'not safetensors');
    expect(await refused(empty)).toMatchObject({ code: 'CORRUPT' });
    await writeFile(join(empty, 'config.json'), '{');
    expect(await refused(empty)).toMatchObject({ code: 'CORRUPT' });
  });

  test('an index that leads out of the folder', async () => {
    const folder = await modelFolder(kind.config);
    const index = join(folder, 'model.safetensors.index.json');
    await writeFile(index, JSON.stringify({ weight_map: { x: '../other.safetensors' } }));
    expect(await refused(folder)).toMatchObject({
      code: 'CORRUPT',
      message: expect.stringMatching(/file name without folders/),
    });
  });

  test.each([
    [{ model_type: 'gpt2' }, 'UNSUPPORTED', /Expected one of clip_text_model.*received gpt2/],
    [{}, 'UNSUPPORTED', /received undefined/],
    [{ model_type: 'bert', hidden_act: 'swish' }, 'INVALID_ARGUMENT', /hidden_act.*"swish"/],
    [{ model_type: 'bert', position_embedding_type: 'relative_key' }, 'INVALID_ARGUMENT', /"absolute"/],
    [{ model_type: 't5', feed_forward_proj: 'gated-silu' }, 'INVALID_ARGUMENT', /"gated-gelu".*"gated-silu"/],
    [{ model_type: 'clip_text_model', hidden_size: 0 }, 'INVALID_ARGUMENT', /at least 1 for hidden_size/],
  ])('config %j', (config, code, says) => {
    const attempt = () => textEncoderConfig(config);
    expect(attempt).toThrow(says);
    expect(attempt).toThrow(expect.objectContaining({ code }));
  });

  test('configs of two towers hold the one of the text', () => {
    const tower = textEncoderConfig({
      model_type: 'clip',
      text_config: { hidden_size: 24, num_attention_heads: 2 },
    });
    expect(tower).toMatchObject({ kind: 'clip', maxLength: 77, shape: { width: 24, layers: 12 } });
    expect(textEncoderConfig({ model_type: 'chinese_clip', text_config: {} }).kind).toBe('bert');
  });

  test('heads that do not divide', async () => {
    const folder = await modelFolder({ ...kind.config, num_attention_heads: 5 }, tensors);
    const error = await refused(folder);
    expect(error.message).toMatch(/hidden_size divisible by num_attention_heads but received 12 and 5/);
  });

  test('token ids outside of the vocabulary, masks and sizes that do not fit, texts that are too long', async () => {
    using encoder = await FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors));
    const { tokens } = batchOf(5);
    const run = (changes: Partial<TokenBatch>) => rejection(encoder.encodeTokens({ ...tokens, ...changes }));
    for (const id of [-1, 40])
      expect((await run({ inputIds: new Int32Array(10).fill(id) })).message).toMatch(
        new RegExp(`from 0 to below 40 but received ${id}; use the tokenizer`),
      );
    expect((await run({ inputIds: new Int32Array(9) })).message).toMatch(/2 x 5 values for inputIds .* 9/);
    expect((await run({ attentionMask: new Uint8Array(4) })).message).toMatch(/2 x 5 .*attentionMask .* 4/);
    expect((await run({ attentionMask: new Uint8Array(10) })).message).toMatch(/visible key/);
    expect((await run({ length: 12, inputIds: new Int32Array(24) })).message).toMatch(
      /at most 11 tokens.* 12/,
    );
    expect((await run({ batch: 0 })).message).toMatch(/batch/);
    expect((await refused(await modelFolder(kind.config, tensors), { length: 12 })).message).toMatch(
      /length of at most 11/,
    );
  });

  test('calls before weights are loaded', async () => {
    const bare = new native.TextEncoder('bert', kind.shape, {});
    await expect(bare.encode(batchOf(5).tokens)).rejects.toThrow(/Expected weights; load them first/);
    bare.dispose();
  });
});

describe('life', () => {
  const kind = t5Kind();
  const { tensors } = drawn(kind.shapes);

  test('cancelled calls reject and the encoder goes on', async () => {
    using encoder = await FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors));
    const { tokens } = batchOf(30);
    const before = floats((await encoder.encodeTokens(tokens)).lastHiddenState);
    // Each takes some tenths of a second, so that one runs and one waits.
    const long = { batch: 8, length: 600, inputIds: new Int32Array(4800) };
    const calls = [encoder.encodeTokens(long), encoder.encodeTokens(long)];
    encoder.cancel();
    for (const call of await Promise.allSettled(calls))
      expect(call).toMatchObject({ status: 'rejected', reason: { code: 'CANCELLED' } });
    expectSame(floats((await encoder.encodeTokens(tokens)).lastHiddenState), before, 'states afterwards');
  });

  test('dispose: what was asked for before still comes, later calls say so', async () => {
    const encoder = await FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors));
    const pending = encoder.encodeTokens(batchOf(30).tokens);
    encoder.dispose();
    encoder.dispose();
    expect((await pending).lastHiddenState.shape).toEqual([2, 30, 10]);
    expect(() => encoder.encodeTokens(batchOf(30).tokens)).toThrow(/disposed of/);
    expect(() => encoder.memory()).toThrow(/disposed of/);
  });

  test('memory counts the weights', async () => {
    using encoder = await FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors));
    const { parameterBytes } = encoder.memory();
    const values = Object.values(tensors).reduce((sum, { data }) => sum + data.length, 0);
    expect(parameterBytes).toBeGreaterThanOrEqual(4 * values);
  });
});
