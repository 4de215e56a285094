// embedding (sums of table rows), gather_rows and add_rows.

import { describe, expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { checkOp, EXACT_ARITHMETIC, floats } from '../support/reference/check.js';
import { type EmbeddingTerm, embedding } from '../support/reference/layers.js';
import { f32, i32, uniform } from '../support/reference/numbers.js';

/** `rows` indices below `entries`, some of them -1 and many repeated. */
function indices(rows: number, entries: number, seed: number): number[] {
  const draw = uniform(seed);
  return Array.from({ length: rows }, () => (draw() < 0.1 ? -1 : Math.floor(draw() * entries)));
}

/** `rows` different indices below `entries`. */
function distinct(rows: number, entries: number, seed: number): number[] {
  const draw = uniform(seed);
  const left = Array.from({ length: entries }, (_, i) => i);
  return Array.from({ length: rows }, () => left.splice(Math.floor(draw() * left.length), 1)[0]!);
}

describe('embedding', () => {
  test.each([
    { name: 'one row of one', rows: 1, width: 1, entries: [1], weighted: [] },
    { name: 'three tables', rows: 13, width: 17, entries: [9, 2, 30], weighted: [] },
    { name: 'four weighted corners', rows: 20, width: 16, entries: [9, 9, 9, 9], weighted: [0, 1, 2, 3] },
    { name: 'a table with and one without weights', rows: 7, width: 33, entries: [4, 5], weighted: [1] },
    { name: 'more than one thread takes', rows: 300, width: 70, entries: [6, 500], weighted: [0] },
  ])('$name', async ({ rows, width, entries, weighted }) => {
    const inputs: Record<string, TensorData> = {};
    entries.forEach((count, i) => {
      inputs[`table.${i}`] = f32([count, width], i + 1);
      inputs[`index.${i}`] = i32(indices(rows, count, i + 20));
      if (weighted.includes(i)) inputs[`weight.${i}`] = f32([rows], i + 40);
    });
    await checkOp({
      op: 'embedding',
      inputs,
      gradients: entries.map((_, i) => `table.${i}`),
      // One rounding a term and, backwards, one a row that names the entry.
      tolerance: EXACT_ARITHMETIC,
      samples: 10,
      reference: (v) => {
        const terms = entries.map((_, i): EmbeddingTerm => {
          const term = { table: v[`table.${i}`]!, index: v[`index.${i}`]! };
          return v[`weight.${i}`] ? { ...term, weight: v[`weight.${i}`]! } : term;
        });
        return embedding(terms, width);
      },
    });
  });

  test('rows that no index names get no gradient', async () => {
    const results = await checkOp({
      op: 'embedding',
      inputs: { 'table.0': f32([3, 2], 1), 'index.0': i32([2, 0, 2, -1]) },
      reference: (v) => embedding([{ table: v['table.0']!, index: v['index.0']! }], 2),
    });
    expect([...floats(results['grad.table.0'])].slice(2, 4)).toEqual([0, 0]);
    expect([...floats(results.out)].slice(6)).toEqual([0, 0]);
  });
});

describe.each([
  { rows: 1, picked: 1, width: 1 },
  { rows: 9, picked: 4, width: 17 },
  { rows: 40, picked: 40, width: 16 },
  { rows: 900, picked: 700, width: 33 },
])('$picked of $rows rows of $width', ({ rows, picked, width }) => {
  const index = distinct(picked, rows, 6);

  test('gather_rows', async () => {
    await checkOp({
      op: 'gather_rows',
      inputs: { x: f32([rows, width], 1), index: i32(index) },
      tolerance: EXACT_ARITHMETIC,
      samples: 10,
      reference: ({ x }) =>
        Float64Array.from(index.flatMap((row) => [...x!.subarray(row * width, (row + 1) * width)])),
    });
  });

  test('add_rows', async () => {
    await checkOp({
      op: 'add_rows',
      inputs: { base: f32([rows, width], 1), x: f32([picked, width], 2), index: i32(index) },
      tolerance: EXACT_ARITHMETIC,
      samples: 10,
      reference: ({ base, x }) => {
        const y = Float64Array.from(base!);
        index.forEach((row, i) => {
          for (let j = 0; j < width; j++) y[row * width + j]! += x![i * width + j]!;
        });
        return y;
      },
    });
  });
});
