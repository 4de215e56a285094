// product: C (+)= A B (+ bias) (+ residual), stored either way, inside larger matrices whose margins are NaN and must not matter.

import { describe, expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import { type Attributes, BF16, expectClose, expectSame, FP32, floats } from '../support/reference/check.js';
import { f32, inBf16, normals, roundToBf16 } from '../support/reference/numbers.js';

const device = process.env.DUET_TEST_DEVICE ?? 'cpu';

/**
 * m, n, k: one, odd, at and about the tiles of a GPU (64 and 128; 16 and 32 along K), and a K so long that it is taken in
 * parts. The emulated GPU has four multiprocessors, so that these take every kind of tile; a real one needs more.
 */
const sizes: [number, number, number][] = [
  [1, 1, 1],
  [3, 5, 7],
  [16, 8, 16],
  [64, 64, 32],
  [65, 63, 33],
  [130, 65, 40],
  [257, 129, 20],
  [18, 12, 1100],
  ...((device.startsWith('cuda')
    ? [
        [1480, 768, 96],
        [1481, 2304, 65],
        [3072, 1027, 40],
        [48, 768, 6000],
      ]
    : []) as [number, number, number][]),
];

/**
 * bf16 alone: what Hopper's own instructions take where rows are aligned, in tiles of 128 x 192, 128 (K in parts) and 256 on
 * the emulated GPU.
 */
const hopperSizes: typeof sizes =
  device === 'cpu'
    ? []
    : [
        [136, 264, 200],
        [72, 136, 520],
        [392, 200, 72],
      ];
const sizesOf = (compute: string) => (compute === 'bf16' ? [...sizes, ...hopperSizes] : sizes);

/** A stored matrix whose margins hold `outside`. */
function stored(rows: number, columns: number, margin: number, seed: number, outside = Number.NaN) {
  const width = columns + 2 * margin;
  const inside = normals(rows * columns, seed);
  const data = new Float32Array(rows * width).fill(outside);
  for (let row = 0; row < rows; row++)
    data.set(inside.subarray(row * columns, (row + 1) * columns), row * width + margin);
  return f32([rows, width], data);
}

/** Element (row, column) of what is stored, maybe transposed, inside margins. */
function reader(tensor: TensorData, margin: number, transposed: unknown = false) {
  const data = floats(tensor);
  const width = tensor.shape.at(-1)!;
  const [down, across] = transposed ? [1, width] : [width, 1];
  return (row: number, column: number) => data[row * down + column * across + margin]!;
}

interface Case {
  m: number;
  n: number;
  k: number;
  margin?: number;
  attributes: Attributes;
  added?: boolean;
}

async function check({ m, n, k, margin = 0, attributes, added = false }: Case) {
  const { compute, transposedA = false, transposed = false, accumulate = false, out = 'f32' } = attributes;
  const half = compute === 'bf16';
  const rounded = (tensor: TensorData) => (half ? inBf16(tensor) : tensor);
  const a = rounded(transposedA ? stored(k, m, margin, 1) : stored(m, k, margin, 1));
  const bMargin = attributes.packed ? 0 : margin;
  const b = rounded(transposed ? stored(n, k, bMargin, 2) : stored(k, n, bMargin, 2));
  const before = out === 'bf16' ? inBf16(stored(m, n, margin, 3, 7)) : stored(m, n, margin, 3, 7);
  const inputs: Record<string, TensorData> = { a, b, c: before };
  if (added) inputs.bias = { ...stored(1, n, margin, 4), shape: [n + 2 * margin] };
  if (added) inputs.residual = stored(m, n, margin, 5);
  const call = () => native.runOp('product', inputs, { ...attributes, margin });

  const width = n + 2 * margin;
  const expected = Float64Array.from(floats(before));
  const [left, right] = [reader(a, margin, transposedA), reader(b, bMargin, transposed)];
  const add = added && [
    reader(inputs.residual!, margin),
    reader({ ...inputs.bias!, shape: [1, width] }, margin),
  ];
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      const place = i * width + margin + j;
      let sum = accumulate ? expected[place]! : 0;
      if (add) sum += add[0]!(i, j) + add[1]!(0, j);
      for (let l = 0; l < k; l++) sum += left(i, l) * right(l, j);
      expected[place] = out === 'bf16' ? roundToBf16(sum) : sum;
    }
  const actual = floats((await call()).out);
  const what = `${m} x ${n} x ${k}, ${JSON.stringify({ ...attributes, margin, added })}`;
  const margins = actual.filter((_, i) => i % width < margin || i % width >= margin + n);
  expect(new Set(margins), `${what}: margins`).toEqual(new Set(margin > 0 ? [7] : []));
  expectClose(actual, expected, out === 'bf16' ? BF16 : FP32, what);
  if (out === 'f32') {
    const squares = (values: (i: number) => number) =>
      expected.reduce((sum, _, i) => sum + values(i) ** 2, 0);
    const error = Math.sqrt(squares((i) => actual[i]! - expected[i]!) / squares((i) => expected[i]!));
    expect(error, `${what}: relative error`).toBeLessThan(2e-6);
  }
  expectSame(floats((await call()).out), actual, `${what}: again`);
}

describe.each(['f32', 'bf16'])('%s', (compute) => {
  test.each(sizesOf(compute))('%i x %i x %i, stored either way', async (m, n, k) => {
    for (const transposedA of [false, true])
      for (const transposed of [false, true])
        await check({ m, n, k, attributes: { compute, transposedA, transposed } });
  });

  test.each(sizesOf(compute))(
    '%i x %i x %i, inside larger matrices, with all that can be added',
    async (m, n, k) => {
      for (const transposed of [false, true]) {
        await check({ m, n, k, margin: 8, added: true, attributes: { compute, transposed } });
        await check({
          m,
          n,
          k,
          margin: 3,
          added: true,
          attributes: { compute, transposed, transposedA: transposed, accumulate: true },
        });
      }
    },
  );

  test.each(sizesOf(compute))('%i x %i x %i, packed', async (m, n, k) => {
    for (const transposed of [false, true])
      await check({ m, n, k, margin: 1, attributes: { compute, transposed, packed: true } });
  });

  test('packed of blocks of rows', async () => {
    const [m, n, rows, blocks] = [9, 6, 5, 3];
    const beside = f32([rows, blocks * n], 2);
    const below = f32(
      [rows * blocks, n],
      Array.from({ length: rows * blocks * n }, (_, i) => {
        const row = Math.floor(i / n);
        return floats(beside)[(row % rows) * blocks * n + Math.floor(row / rows) * n + (i % n)]!;
      }),
    );
    const [a, c] = [f32([m, rows * blocks], 1), f32([m, n], 3)];
    const product = (b: TensorData, attributes: Attributes) =>
      native.runOp('product', { a, b, c }, { compute, packed: true, ...attributes });
    const expected = floats((await product(below, {})).out);
    expectClose(floats((await product(beside, { blocks })).out), expected, FP32, 'blocks');
  });

  test('a row of NaN is NaN and leaves the others alone', async () => {
    const a = f32([70, 40], 1);
    floats(a).fill(Number.NaN, 40, 80);
    const { out } = await native.runOp(
      'product',
      { a, b: f32([40, 30], 2), c: f32([70, 30], 3) },
      { compute },
    );
    const rows = Array.from({ length: 70 }, (_, row) => floats(out).subarray(row * 30, row * 30 + 30));
    expect(rows.map((row) => row.every(Number.isNaN))).toEqual(rows.map((_, row) => row === 1));
    expect(rows.map((row) => row.some(Number.isNaN))).toEqual(rows.map((_, row) => row === 1));
  });
});

test.each(sizesOf('bf16'))('bf16: %i x %i x %i into bf16', async (m, n, k) => {
  for (const accumulate of [false, true])
    for (const margin of [3, 4])
      await check({ m, n, k, margin, attributes: { compute: 'bf16', out: 'bf16', accumulate } });
});
