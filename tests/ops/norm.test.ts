// layer_norm over the last dimension.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { BF16, checkOp, expectClose, FP32, floats } from '../support/reference/check.js';
import { layerNorm } from '../support/reference/layers.js';
import { f32, normals } from '../support/reference/numbers.js';

const inputs = (rows: number, columns: number) => ({
  x: f32([rows, columns], 1),
  weight: f32([columns], normals(columns, 2, 0.5, 1)),
  bias: f32([columns], 3),
});

describe('layer_norm', () => {
  for (const compute of ['f32', 'bf16']) {
    test.each([
      [1, 2],
      [3, 15],
      [2, 16],
      [1, 17],
      [40, 33],
      [2, 768],
      [2, 5000],
      [2, 1001],
      [200, 5],
    ])(`${compute}, %i rows of %i`, async (rows, columns) => {
      await checkOp({
        op: 'layer_norm',
        inputs: inputs(rows, columns),
        attributes: { epsilon: 1e-5, compute },
        reference: ({ x, weight, bias }) => layerNorm(x!, weight!, bias!, 1e-5),
        floor: 1, // dx is what is left of the upstream gradient without its mean and its share along x
      });
    });
  }

  test('one column is its bias, and nothing flows back to it', async () => {
    await checkOp({
      op: 'layer_norm',
      inputs: inputs(5, 1),
      attributes: { epsilon: 1e-5 },
      reference: ({ x, weight, bias }) => layerNorm(x!, weight!, bias!, 1e-5),
      floor: 1 / Math.sqrt(1e-5), // without a variance the norm divides by the root of epsilon
    });
  });

  test('constant rows stay finite with the smallest epsilon in use', async () => {
    const x = f32([2, 24], new Float32Array(48).fill(3));
    const { weight, bias } = inputs(2, 24);
    const { out } = await native.runOp('layer_norm', { x, weight, bias }, { epsilon: 1e-12 });
    expect([...floats(out)]).toEqual([...floats(bias), ...floats(bias)]);
  });

  test('a mean far from 0 costs only the digits it takes from the input', async () => {
    // The variance comes from the differences to the mean. With a mean of 1000 deviations those differences carry the
    // rounding of the fp32 mean, 1000 u = 6e-5; a variance from E[x^2] - mean^2 would be off by 1000^2 u = 6e-2.
    await checkOp({
      op: 'layer_norm',
      inputs: { ...inputs(3, 100), x: f32([3, 100], normals(300, 1, 1, 1000)) },
      attributes: { epsilon: 1e-5 },
      reference: ({ x, weight, bias }) => layerNorm(x!, weight!, bias!, 1e-5),
      tolerance: 3e-4,
    });
  });

  test('a NaN spoils its own row and no other', async () => {
    const { x, weight, bias } = inputs(3, 20);
    (x.data as Float32Array)[25] = Number.NaN;
    const values = floats((await native.runOp('layer_norm', { x, weight, bias }, {})).out);
    expect(Array.from(values, Number.isNaN)).toEqual(Array.from(values, (_, i) => i >= 20 && i < 40));
  });
});

describe('rms_norm', () => {
  for (const [compute, tolerance] of [
    ['f32', FP32],
    ['bf16', BF16],
  ] as const) {
    test.each([
      [1, 1],
      [3, 17],
      [2, 768],
    ])(`${compute}, %i rows of %i`, async (rows, columns) => {
      const x = f32([rows, columns], 1);
      const weight = f32([columns], normals(columns, 2, 0.5, 1));
      const { out } = await native.runOp('rms_norm', { x, weight }, { epsilon: 1e-6, compute });
      const values = x.data as Float32Array;
      const expected = Float64Array.from(values, (value, i) => {
        const row = values.subarray(i - (i % columns), i - (i % columns) + columns);
        const square = row.reduce((sum, v) => sum + v * v, 0) / columns;
        return (value / Math.sqrt(square + 1e-6)) * (weight.data[i % columns] as number);
      });
      expectClose(floats(out), expected, tolerance, 'out');
    });
  }

  test('rows of zeros stay zero', async () => {
    const x = f32([2, 5], new Float32Array(10));
    const { out } = await native.runOp('rms_norm', { x, weight: f32([5], 1) }, {});
    expect([...floats(out)].every((value) => value === 0)).toBe(true);
  });
});
