// activation on its own: exact gelu and its two approximations, relu, tanh, silu, none.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { BF16, checkOp, EXACT_ARITHMETIC, expectEachClose, floats } from '../support/reference/check.js';
import { type Activation, activate, activations, erf, slopes } from '../support/reference/layers.js';
import { f32, normals } from '../support/reference/numbers.js';

const kinds: Activation[] = ['none', 'gelu', 'relu', 'tanh', 'silu', 'quick_gelu', 'gelu_tanh'];

test('the reference of erf agrees with published values', () => {
  // Abramowitz & Stegun, table 7.1, and the complement at 3
  expect(erf(0.5)).toBeCloseTo(0.5204998778130465, 15);
  expect(erf(1)).toBeCloseTo(0.8427007929497149, 15);
  expect(erf(-2)).toBeCloseTo(-0.9953222650189527, 15);
  expect(1 - erf(3)).toBeCloseTo(2.209049699858544e-5, 15);
  expect(erf(2.4999999)).toBeCloseTo(erf(2.5000001), 7);
});

describe.each(kinds)('activation %s', (activation) => {
  for (const compute of ['f32', 'bf16']) {
    test.each([1, 15, 16, 17, 4099])(`${compute}, %i elements`, async (count) => {
      await checkOp({
        op: 'activation',
        inputs: { x: f32([count], normals(count, 5, 2)) },
        attributes: { activation, compute },
        reference: ({ x }) => activate(x!, activation),
        tolerance: compute === 'bf16' ? BF16 : EXACT_ARITHMETIC,
        samples: 6,
        floor: 1, // 1 - tanh^2 cancels
      });
    });
  }

  test('every element over a wide range, with its slope', async () => {
    // gelu's distribution function is accurate to 1e-7 absolute, so the product with x to 1e-7 |x| beside its rounding.
    const values = Float32Array.from({ length: 2001 }, (_, i) => (i - 1000) / 62.5);
    const ones = f32([values.length], new Float32Array(values.length).fill(1));
    const results = await native.runOp(
      'activation',
      { x: f32([values.length], values) },
      { activation },
      ones,
    );
    const expected = activate(values, activation);
    const slopesThere = floats(results['grad.x']);
    const wrong = [...values].filter((x, i) => {
      const allowed = 3e-7 * Math.max(1, Math.abs(x));
      const near = Math.abs(floats(results.out)[i]! - expected[i]!) < allowed;
      const kink = x === 0 && activation === 'relu'; // either slope is right
      return !(near && (kink || Math.abs(slopesThere[i]! - slopes[activation](x)) < allowed));
    });
    expect(wrong).toEqual([]);
  });

  test('extreme values and NaN', async () => {
    const values = [0, -0, 30, -30, 1e4, -1e4, 3e38, -3e38, Number.NaN, Number.POSITIVE_INFINITY];
    const { out } = await native.runOp('activation', { x: f32([values.length], values) }, { activation });
    expectEachClose(floats(out), Float32Array.from(values, activations[activation]), 1e-6, 'out', 1e-7);
  });
});
