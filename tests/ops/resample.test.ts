// upsampleNearest and averagePool: changes of picture size without parameters, and concatColumns.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { checkOp, floats } from '../support/reference/check.js';
import { f32 } from '../support/reference/numbers.js';
import { averagePool, rowsOf, upsampleNearest } from '../support/reference/pictures.js';

describe('upsampleNearest', () => {
  for (const compute of ['f32', 'bf16'])
    test.each([
      [2, 3, 4, 6, 17],
      [2, 3, 4, 6, 16],
      [3, 2, 5, 7, 17],
      [1, 1, 3, 2, 17],
      [4, 5, 4, 5, 12],
      [5, 4, 3, 2, 17],
    ])(`${compute}: %i x %i to %i x %i, %i channels`, async (height, width, toHeight, toWidth, channels) => {
      const at = { clips: 2, frames: 2, height, width };
      await checkOp({
        op: 'upsampleNearest',
        inputs: { x: f32([rowsOf(at), channels], 1) },
        attributes: { ...at, toHeight, toWidth, compute },
        reference: ({ x }) => upsampleNearest(x!, at, toHeight, toWidth),
      });
    });
});

describe('averagePool', () => {
  for (const compute of ['f32', 'bf16'])
    test.each([
      [2, 2, 18],
      [4, 6, 18],
      [4, 6, 16],
      [5, 3, 18],
      [5, 3, 8],
      [2, 7, 18],
    ])(`${compute}: %i x %i, %i channels`, async (height, width, channels) => {
      const at = { clips: 2, frames: 3, height, width };
      await checkOp({
        op: 'averagePool',
        inputs: { x: f32([rowsOf(at), channels], 1) },
        attributes: { ...at, compute },
        samples: 60,
        reference: ({ x }) => averagePool(x!, at),
      });
    });

  test('nothing flows back to an odd last row', async () => {
    const at = { clips: 1, frames: 1, height: 3, width: 2 };
    const x = f32([6, 1], [1, 2, 3, 4, 5, 6]);
    const results = await native.runOp('averagePool', { x }, at, f32([1, 1], [4]));
    expect([...floats(results.out)]).toEqual([2.5]);
    expect([...floats(results['grad.x'])]).toEqual([1, 1, 1, 1, 0, 0]);
  });
});

describe('concatColumns', () => {
  test.each(['f32', 'bf16'])('%s', async (compute) => {
    await checkOp({
      op: 'concatColumns',
      inputs: { a: f32([5, 3], 1), b: f32([5, 17], 2) },
      attributes: { compute },
      reference: ({ a, b }) =>
        Float64Array.from({ length: 100 }, (_, i) => {
          const row = Math.floor(i / 20);
          return i % 20 < 3 ? a![row * 3 + (i % 20)]! : b![row * 17 + (i % 20) - 3]!;
        }),
    });
  });
});
