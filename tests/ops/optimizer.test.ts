// adamw, gradient_norm and the weighted average.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { EXACT_ARITHMETIC, expectClose, expectEachClose, floats } from '../support/reference/check.js';
import { f32, normals } from '../support/reference/numbers.js';
import { AdamW } from '../support/reference/optimizer.js';

describe('adamw', () => {
  // Five updates of a handful of fp32 roundings each; the last one divides by a root, which halves relative errors.
  test.each([
    { count: 1, weightDecay: 0.01, epsilon: 1e-8, learningRate: 1e-3 },
    { count: 17, weightDecay: 0, epsilon: 1e-8, learningRate: 1e-2 },
    { count: 33, weightDecay: 0.5, epsilon: 1e-3, learningRate: 0.1 },
    { count: 20_001, weightDecay: 0.01, epsilon: 1e-8, learningRate: 1e-4 },
  ])('five updates of $count elements, decay $weightDecay, epsilon $epsilon', async ({ count, ...rest }) => {
    const options = { ...rest, betas: [0.9, 0.98] as [number, number] };
    const reference = new AdamW(normals(count, 1));
    const state = {
      parameter: f32([count], 1),
      average: f32([count], new Float32Array(count)),
      averageSquare: f32([count], new Float32Array(count)),
    };
    const attributes = { ...rest, beta1: 0.9, beta2: 0.98 };
    for (let step = 1; step <= 5; step++) {
      const gradient = f32([count], normals(count, 10 + step, 10 ** (step - 3)));
      const results = await native.runOp('adamw', { ...state, gradient }, { ...attributes, step });
      reference.update(floats(gradient), options);
      expectClose(floats(results.out), reference.value, EXACT_ARITHMETIC, `parameters after update ${step}`);
      expectClose(
        floats(results.average),
        reference.average,
        EXACT_ARITHMETIC,
        `averages after update ${step}`,
      );
      expectEachClose(
        floats(results.averageSquare),
        reference.averageSquare,
        EXACT_ARITHMETIC,
        `squares after ${step}`,
      );
      Object.assign(state, {
        parameter: results.out,
        average: results.average,
        averageSquare: results.averageSquare,
      });
    }
  });

  test('a gradient of 0 only decays; the first update has the size of the learning rate', async () => {
    const zeros = f32([3], [0, 0, 0]);
    const inputs = {
      parameter: f32([3], [1, -2, 0.5]),
      gradient: f32([3], [0, 1e-3, -1e3]),
      average: zeros,
      averageSquare: zeros,
    };
    const { out } = await native.runOp('adamw', inputs, {
      learningRate: 0.1,
      weightDecay: 0.01,
      step: 1,
      epsilon: 1e-12,
    });
    expectEachClose(floats(out), [0.999, -2 * 0.999 - 0.1, 0.5 * 0.999 + 0.1], EXACT_ARITHMETIC, 'out');
  });

  test('NaN in a gradient reaches its parameter and no other', async () => {
    const zeros = f32([2], [0, 0]);
    const inputs = {
      parameter: f32([2], [1, 1]),
      gradient: f32([2], [Number.NaN, 1]),
      average: zeros,
      averageSquare: zeros,
    };
    const { out } = await native.runOp('adamw', inputs, {});
    expect(Array.from(floats(out), Number.isNaN)).toEqual([true, false]);
  });
});

// Pieces of odd sizes begin anywhere, are empty where there are more of them than elements, and are of one call.
describe('many tensors at once are treated as each alone', () => {
  test.each([
    [5, 9],
    [9_001, 2],
    [20_003, 37],
    [20_003, 3000],
  ])('%i elements in %i pieces', async (count, pieces) => {
    const inputs = {
      parameter: f32([count], normals(count, 1)),
      gradient: f32([count], normals(count, 2)),
      average: f32([count], normals(count, 3)),
      averageSquare: f32([count], normals(count, 4).map(Math.abs)),
    };
    const whole = await native.runOp('adamw', inputs, { step: 3 });
    expect(await native.runOp('adamw', inputs, { step: 3, pieces })).toEqual(whole);

    const averages = { average: inputs.average, value: inputs.parameter };
    const average = await native.runOp('movingAverage', averages, {});
    expect(await native.runOp('movingAverage', averages, { pieces })).toEqual(average);

    const x = inputs.gradient;
    const [norm, ofPieces, again] = [
      await native.runOp('gradient_norm', { x }, {}),
      await native.runOp('gradient_norm', { x }, { pieces }),
      await native.runOp('gradient_norm', { x }, { pieces }),
    ];
    expectEachClose(floats(ofPieces.out), floats(norm.out), EXACT_ARITHMETIC, 'norm', 0);
    expect(again).toEqual(ofPieces);
  });
});

describe('gradient_norm', () => {
  test.each([
    [1, 1],
    [17, 1],
    [100_003, 1],
    [5, 1e30],
    [5, 1e-30],
  ])('%i elements of size %d', async (count, size) => {
    const x = normals(count, 1, size);
    const expected = Math.sqrt(x.reduce((sum, value) => sum + (value / size) ** 2, 0)) * size;
    const { out } = await native.runOp('gradient_norm', { x: f32([count], x) }, {});
    expectEachClose(floats(out), [expected], EXACT_ARITHMETIC, 'norm', 0);
  });

  test('NaN and infinity show', async () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const { out } = await native.runOp('gradient_norm', { x: f32([3], [1, value, 1]) }, {});
      expect(floats(out)[0]).toBe(value);
    }
  });
});

describe('weightedAverage', () => {
  test.each([1, 17, 20_001])('of %i elements adds value * weight, set after set', async (count) => {
    const sets = [1, 2, 3].map((seed) => normals(count, seed));
    const weights = [0.2, 0.5, 0.3];
    const expected = new Float64Array(count);
    for (const [i, set] of sets.entries()) {
      for (const [j, value] of set.entries()) expected[j]! += value * weights[i]!;
    }
    expectClose(await native.weightedAverage(sets, weights), expected, EXACT_ARITHMETIC, 'average');
  });

  test('accumulate adds one set at a time to the same bits', async () => {
    const sets = [1, 2, 3].map((seed) => normals(20_001, seed));
    const weights = [0.2, 0.5, 0.3];
    const sum = new Float32Array(20_001);
    for (const [i, set] of sets.entries()) await native.accumulate(sum, set, weights[i]!);
    expect(sum).toEqual(await native.weightedAverage(sets, weights));
    await expect(native.accumulate(sum, new Float32Array(3), 1)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });

  test('distance is Euclidean, and not finite when an element is not', async () => {
    expect(await native.distance(new Float32Array([1, 2, 3]), new Float32Array([1, 5, 7]))).toBe(5);
    expect(await native.distance(new Float32Array([3e38]), new Float32Array([-3e38]))).toBeCloseTo(6e38, -33);
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY])
      expect(await native.distance(new Float32Array([value]), new Float32Array(1))).toBe(value);
    await expect(native.distance(new Float32Array(1), new Float32Array(2))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
  });

  test('sets that do not fit are refused', async () => {
    const one = new Float32Array(3);
    const wrong = { code: 'INVALID_ARGUMENT' };
    await expect(native.weightedAverage([], [])).rejects.toMatchObject(wrong);
    await expect(native.weightedAverage([one], [1, 2])).rejects.toMatchObject(wrong);
    await expect(native.weightedAverage([one, new Float32Array(4)], [1, 2])).rejects.toMatchObject(wrong);
    await expect(native.weightedAverage([one], [Number.NaN])).rejects.toMatchObject(wrong);
  });
});
