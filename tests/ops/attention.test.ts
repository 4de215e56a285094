// attention over sequences laid end to end: self attention on stacked q, k, v and cross attention on q and stacked k, v.

import { describe, expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import { attention, columnsOf } from '../support/reference/attention.js';
import {
  type Attributes,
  BF16,
  checkOp,
  expectClose,
  FP32,
  floats,
  type OpCase,
} from '../support/reference/check.js';
import { f32, i32, inBf16, u8, uniform } from '../support/reference/numbers.js';

interface Setting {
  name: string;
  queries: number;
  keys: number;
  heads: number;
  headSize: number;
  spans?: number[][];
  keyMask?: number[];
  causal?: boolean;
  scale?: number;
  samples?: number;
  floor?: number;
}

type Keep = (queryRow: number, head: number, key: number) => number;

/** `qkv` for self attention (keys = queries), `q` and `kv` otherwise; attributes and the reference that goes with them. */
function problem(kind: 'self' | 'cross', s: Setting, attributes: Attributes = {}, keep?: Keep): OpCase {
  const width = s.heads * s.headSize;
  const inputs: Record<string, TensorData> =
    kind === 'self'
      ? { qkv: f32([s.queries, 3 * width], 1) }
      : { q: f32([s.queries, width], 2), kv: f32([s.keys, 2 * width], 3) };
  const gradients = Object.keys(inputs);
  if (s.spans) inputs.spans = i32(s.spans.flat(), [s.spans.length, 4]);
  if (s.keyMask) inputs.keyMask = u8(s.keyMask);
  const spans = s.spans ?? [[0, s.queries, 0, s.keys]];
  return {
    op: 'attention',
    inputs,
    attributes: {
      heads: s.heads,
      ...(s.causal ? { causal: true } : {}),
      ...(s.scale ? { scale: s.scale } : {}),
      ...attributes,
    },
    gradients,
    ...(s.samples ? { samples: s.samples } : {}),
    ...(s.floor ? { floor: s.floor } : {}),
    reference: ({ qkv, q, kv, bias }) => {
      const part = (x: Float64Array, of: number, i: number) =>
        columnsOf(x, of * width, i * width, (i + 1) * width);
      const [queries, keys, values] = qkv
        ? [part(qkv, 3, 0), part(qkv, 3, 1), part(qkv, 3, 2)]
        : [q!, part(kv!, 2, 0), part(kv!, 2, 1)];
      const mask = s.keyMask ? { keyMask: s.keyMask } : {};
      return attention({
        q: queries,
        k: keys,
        v: values,
        width,
        heads: s.heads,
        spans,
        ...mask,
        ...(s.causal ? { causal: true } : {}),
        ...(s.scale ? { scale: s.scale } : {}),
        ...(bias ? { bias } : {}),
        ...(keep ? { keep } : {}),
      });
    },
  };
}

/** A mask that hides every third key but never the first of a sequence. */
const everyThird = (keys: number) => Array.from({ length: keys }, (_, i) => (i % 3 === 2 ? 0 : 1));

const own = (...lengths: number[]) => {
  let begin = 0;
  return lengths.map((length) => {
    const span = [begin, begin + length, begin, begin + length];
    begin += length;
    return span;
  });
};

const selfSettings: Setting[] = [
  { name: 'a single row', queries: 1, keys: 1, heads: 1, headSize: 1 },
  { name: 'a head of one column', queries: 5, keys: 5, heads: 3, headSize: 1 },
  { name: 'heads of 5, 7 rows', queries: 7, keys: 7, heads: 2, headSize: 5 },
  { name: 'heads of 16, 16 rows', queries: 16, keys: 16, heads: 2, headSize: 16 },
  { name: 'heads of 17, 33 rows', queries: 33, keys: 33, heads: 1, headSize: 17 },
  { name: 'heads of 70, 71 rows', queries: 71, keys: 71, heads: 1, headSize: 70, samples: 8 },
  { name: 'more rows than a block of 48', queries: 101, keys: 101, heads: 2, headSize: 9, samples: 10 },
  {
    name: 'sequences of different lengths',
    queries: 60,
    keys: 60,
    heads: 2,
    headSize: 6,
    spans: own(1, 17, 40, 2),
  },
  {
    name: 'rows of no sequence',
    queries: 20,
    keys: 20,
    heads: 2,
    headSize: 4,
    spans: [
      [2, 9, 2, 9],
      [11, 18, 11, 18],
    ],
  },
  {
    name: 'rows that are only keys',
    queries: 20,
    keys: 20,
    heads: 2,
    headSize: 4,
    spans: [
      [2, 5, 0, 12],
      [15, 16, 12, 20],
    ],
  },
  {
    name: 'rows that are only queries',
    queries: 20,
    keys: 20,
    heads: 2,
    headSize: 4,
    spans: [[0, 20, 3, 9]],
  },
  { name: 'a key mask', queries: 19, keys: 19, heads: 3, headSize: 4, keyMask: everyThird(19) },
  {
    name: 'a key mask over sequences',
    queries: 30,
    keys: 30,
    heads: 1,
    headSize: 8,
    spans: own(6, 24),
    keyMask: everyThird(30),
  },
  { name: 'causal, more rows than a block', queries: 61, keys: 61, heads: 2, headSize: 5, causal: true },
  {
    name: 'causal sequences with a key mask and another scale',
    queries: 30,
    keys: 30,
    heads: 2,
    headSize: 8,
    spans: own(6, 24),
    keyMask: everyThird(30),
    causal: true,
    scale: 1,
  },
  {
    name: 'heads of 64, more rows than two tiles of 64',
    queries: 150,
    keys: 150,
    heads: 2,
    headSize: 64,
    samples: 6,
  },
  {
    name: 'heads of 72, causal with a key mask',
    queries: 70,
    keys: 70,
    heads: 2,
    headSize: 72,
    keyMask: everyThird(70),
    causal: true,
    samples: 6,
  },
  { name: 'a head of 67', queries: 5, keys: 5, heads: 1, headSize: 67, samples: 6 },
  { name: 'a head of 328', queries: 66, keys: 66, heads: 1, headSize: 328, samples: 6 },
];

const crossSettings: Setting[] = [
  { name: 'one query', queries: 1, keys: 37, heads: 2, headSize: 5 },
  // One key has probability 1 whatever the query is: the gradient of the query is 0 but for rounding.
  { name: 'one key', queries: 23, keys: 1, heads: 2, headSize: 5, floor: 0.1 },
  { name: 'more keys than queries', queries: 9, keys: 70, heads: 2, headSize: 8 },
  { name: 'more queries than keys', queries: 70, keys: 9, heads: 2, headSize: 8 },
  {
    name: 'one pooled query a sequence',
    queries: 3,
    keys: 40,
    heads: 4,
    headSize: 3,
    spans: [
      [0, 1, 0, 5],
      [1, 2, 5, 6],
      [2, 3, 6, 40],
    ],
  },
  {
    name: 'sequences out of order, keys left over',
    queries: 10,
    keys: 20,
    heads: 1,
    headSize: 7,
    spans: [
      [4, 10, 0, 3],
      [0, 4, 5, 18],
    ],
  },
  { name: 'heads of 130, more keys than queries', queries: 3, keys: 66, heads: 2, headSize: 130, samples: 6 },
  { name: 'a key mask', queries: 6, keys: 50, heads: 2, headSize: 6, keyMask: everyThird(50) },
  {
    name: 'a sequence without queries',
    queries: 4,
    keys: 9,
    heads: 1,
    headSize: 4,
    spans: [
      [0, 0, 0, 5],
      [0, 4, 5, 9],
    ],
  },
];

for (const compute of ['f32', 'bf16']) {
  describe(`attention in ${compute}`, () => {
    test.each(selfSettings)('self: $name', async (setting) => {
      await checkOp(problem('self', setting, { compute }));
    });
    test.each(crossSettings)('cross: $name', async (setting) => {
      await checkOp(problem('cross', setting, { compute }));
    });
  });
}

describe('attention with a bias of its scores', () => {
  const settings: Setting[] = [
    { name: 'one sequence', queries: 61, keys: 61, heads: 3, headSize: 5, scale: 1 },
    { name: 'shorter sequences', queries: 30, keys: 30, heads: 3, headSize: 8, spans: own(6, 24) },
    {
      name: 'causal, masked',
      queries: 19,
      keys: 19,
      heads: 3,
      headSize: 4,
      causal: true,
      keyMask: everyThird(19),
    },
  ];
  for (const compute of ['f32', 'bf16']) {
    test.each(settings)(`${compute}: $name`, async (setting) => {
      const given = problem('self', setting, { compute });
      const bias = f32([3, setting.queries, setting.queries], 4);
      const qkv = compute === 'bf16' ? inBf16(given.inputs.qkv!) : given.inputs.qkv!;
      const { out } = await native.runOp('attention', { ...given.inputs, qkv, bias }, given.attributes!);
      const inDouble = (tensor: TensorData) => Float64Array.from(tensor.data as Float32Array);
      const expected = given.reference({ qkv: inDouble(qkv), bias: inDouble(bias) });
      expectClose(floats(out), expected, compute === 'bf16' ? BF16 : FP32, 'out');
    });
  }

  test('has no gradient', async () => {
    const inputs = { qkv: f32([4, 12], 1), bias: f32([2, 4, 4], 2) };
    const run = native.runOp('attention', inputs, { heads: 2 }, f32([4, 4], 3));
    await expect(run).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching('no gradient'),
    });
  });
});

describe('attention, difficult numbers', () => {
  test('scores of +-1e4 neither overflow nor leave 0 and 1', async () => {
    const q = f32([2, 4], [1e4, 0, 0, 0, -1e4, 0, 0, 0]);
    const kv = f32([3, 8], [2, 0, 0, 0, 1, 2, 3, 4, -2, 0, 0, 0, 5, 6, 7, 8, 1, 0, 0, 0, 9, 9, 9, 9]);
    const upstream = f32([2, 4], 8);
    const results = await native.runOp('attention', { q, kv }, {}, upstream);
    expect([...floats(results.out)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    expect([...floats(results['grad.q'])]).toEqual(new Array(8).fill(0));
    expect([...floats(results['grad.kv'])].every(Number.isFinite)).toBe(true);
  });

  test('what hidden keys hold does not matter, whatever it is', async () => {
    const given = problem('cross', { ...crossSettings.find(({ name }) => name === 'a key mask')!, name: '' });
    const before = await native.runOp('attention', given.inputs, given.attributes!, f32([6, 12], 4));
    const kv = { ...given.inputs.kv!, data: Float32Array.from(given.inputs.kv!.data as Float32Array) };
    everyThird(50).forEach((shown, row) => {
      if (!shown) kv.data.fill(row % 2 ? 1e30 : -3e4, row * 24, row * 24 + 24);
    });
    const after = await native.runOp(
      'attention',
      { ...given.inputs, kv },
      given.attributes!,
      f32([6, 12], 4),
    );
    expect([...floats(after.out)]).toEqual([...floats(before.out)]);
    expect([...floats(after['grad.q'])]).toEqual([...floats(before['grad.q'])]);
  });

  test.each([
    ['canonical', 0x7fc00000],
    ['negative', 0xffc00000],
    ['all ones', 0x7fffffff],
    ['with a payload', 0x7fc00123],
  ])('a NaN score shows in its rows: %s', async (_name, bits) => {
    const setting: Setting = { name: '', queries: 2, keys: 40, heads: 1, headSize: 4 };
    for (const column of [0, 4]) {
      const { q, kv } = problem('cross', setting).inputs;
      new Uint32Array((kv!.data as Float32Array).buffer)[3 * 8 + column] = bits;
      for (const compute of ['f32', 'bf16']) {
        const out = [...floats((await native.runOp('attention', { q: q!, kv: kv! }, { compute })).out)];
        // A key spoils every probability, a value its own column.
        expect(out.map(Number.isNaN)).toEqual(out.map((_, i) => column === 0 || i % 4 === 0));
      }
    }
  });
});

describe('attention dropout', () => {
  const setting: Setting = { name: '', queries: 9, keys: 50, heads: 2, headSize: 50 };
  const dropped = { dropout: 0.3, seed: 12 };

  /** Equal scores and one-hot values show the draw itself: out[row, head, j] = keep / keys. */
  async function draw(attributes: Attributes): Promise<Float64Array> {
    const { queries, keys, heads, headSize } = setting;
    const width = heads * headSize;
    const kv = new Float32Array(keys * 2 * width);
    for (let j = 0; j < keys; j++)
      for (let h = 0; h < heads; h++) kv[j * 2 * width + width + h * headSize + j] = 1;
    const q = f32([queries, width], new Float32Array(queries * width));
    const { out } = await native.runOp(
      'attention',
      { q, kv: f32([keys, 2 * width], kv) },
      { heads, ...attributes },
    );
    return Float64Array.from(floats(out), (p) => p * keys);
  }

  test('keeps with the probability asked for and divides by it', async () => {
    const keep = await draw(dropped);
    const kept = [...keep].filter((factor) => factor !== 0);
    expectClose(
      kept,
      kept.map(() => 1 / 0.7),
      1e-6,
      'factors of what is kept',
    );
    // 900 draws: a standard deviation of 0.015
    expect(Math.abs(kept.length / keep.length - 0.7)).toBeLessThan(0.06);
    expect(new Set([0, 1].map((head) => keep.slice(head * 50, head * 50 + 50).join())).size).toBe(2);
  });

  test('the draw is the seed and repeats', async () => {
    const keep = await draw(dropped);
    expect(await draw(dropped)).toEqual(keep);
    expect(await draw({ ...dropped, seed: 13 })).not.toEqual(keep);
  });

  test('forward and backward use the same draw', async () => {
    const keep = await draw(dropped);
    const factor: Keep = (row, head, key) => (keep[(row * 2 + head) * 50 + key]! > 0 ? 1 / 0.7 : 0);
    for (const compute of ['f32', 'bf16']) {
      await checkOp(problem('cross', { ...setting, samples: 16 }, { ...dropped, compute }, factor));
    }
  });

  test('the draw of a place is the same in any tile', async () => {
    const keep = Uint8Array.from({ length: 70 * 140 }, () => 0);
    const sizes = { queries: 70, keys: 140, heads: 1, headSize: 140 };
    const kv = new Float32Array(140 * 280);
    for (let j = 0; j < 140; j++) kv[j * 280 + 140 + j] = 1;
    const q = f32([70, 140], new Float32Array(70 * 140));
    const { out } = await native.runOp('attention', { q, kv: f32([140, 280], kv) }, dropped);
    floats(out).forEach((p, i) => {
      keep[i] = p > 0 ? 1 : 0;
    });
    const factor: Keep = (row, _head, key) => keep[row * 140 + key]! / 0.7;
    for (const headSize of [8, 64]) {
      const setting = { ...sizes, name: '', headSize, samples: 6 };
      for (const compute of ['f32', 'bf16'])
        await checkOp(problem('cross', setting, { ...dropped, compute }, factor));
    }
  });

  test('rows that differ only in their place are dropped differently', async () => {
    const keep = await draw(dropped);
    const lines = Array.from({ length: 18 }, (_, i) => keep.slice(i * 50, i * 50 + 50).join());
    expect(new Set(lines).size).toBe(18);
  });
});

test('attention over 5000 keys', async () => {
  const setting = { name: '', queries: 2, keys: 5000, heads: 1, headSize: 3, samples: 6 };
  const mask = Array.from(
    { length: 5000 },
    (
      (draw) => () =>
        draw() < 0.5 ? 0 : 1
    )(uniform(3)),
  );
  await checkOp(problem('cross', { ...setting, keyMask: mask }));
});
