// linear: activation(x W^T + b) (+ residual), and feed_forward: W2 act(W1 x + b1) + b2 (+ residual).

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { BF16, checkOp, expectClose, floats } from '../support/reference/check.js';
import { type Activation, activate, linear, plus } from '../support/reference/layers.js';
import { f32, inBf16 } from '../support/reference/numbers.js';

const activations: Activation[] = ['none', 'gelu', 'relu', 'tanh', 'silu', 'quick_gelu', 'gelu_tanh'];

/** rows, inputs, outputs; one, odd, below, at and above a vector of 16, above a chunk of 512 rows. */
const sizes = [
  [1, 1, 1],
  [1, 17, 5],
  [7, 1, 3],
  [5, 33, 1],
  [3, 16, 16],
  [4, 15, 47],
  [520, 3, 5],
] as const;

/** In bf16 a bias gradient carries the rounding of `rows` terms that may cancel; they add up like their root. */
const floorOf = (compute: string, rows: number) =>
  compute === 'bf16' ? { floor: 0.25 * Math.sqrt(rows) } : {};

function problem(rows: number, inputs: number, outputs: number, deviation = 1) {
  return {
    x: f32([rows, inputs], 1),
    weight: f32([outputs, inputs], 2, deviation / Math.sqrt(inputs)),
    bias: f32([outputs], 3),
  };
}

describe('linear', () => {
  for (const compute of ['f32', 'bf16']) {
    describe(compute, () => {
      test.each(sizes)('%i rows of %i to %i', async (rows, inputs, outputs) => {
        for (const activation of activations) {
          await checkOp({
            op: 'linear',
            inputs: problem(rows, inputs, outputs),
            attributes: { activation, compute },
            samples: 10,
            ...floorOf(compute, rows),
            reference: ({ x, weight, bias }) => activate(linear(x!, weight!, inputs, bias), activation),
          });
        }
      });

      test('without a bias, with a residual', async () => {
        const { x, weight } = problem(9, 19, 21);
        await checkOp({
          op: 'linear',
          inputs: { x, weight, residual: f32([9, 21], 4) },
          attributes: { compute },
          reference: (v) => plus(linear(v.x!, v.weight!, 19), v.residual!),
        });
      });

      test('a row length that is a multiple of 4 KiB, whose weight is packed', async () => {
        await checkOp({
          op: 'linear',
          inputs: problem(13, 1024, 65),
          attributes: { compute },
          reference: ({ x, weight, bias }) => linear(x!, weight!, 1024, bias),
          samples: 8,
        });
      });
    });
  }

  test('leading dimensions are rows', async () => {
    const { x, weight } = problem(6, 5, 4);
    const results = await checkOp({
      op: 'linear',
      inputs: { x: { ...x, shape: [2, 3, 5] }, weight },
      reference: (v) => linear(v.x!, v.weight!, 5),
    });
    expect(results.out!.shape).toEqual([2, 3, 4]);
  });

  test('bf16 rounds the inputs of the product and nothing else', async () => {
    const { x, weight } = problem(5, 40, 24);
    const { out } = await native.runOp('linear', { x, weight }, { compute: 'bf16' });
    const expected = linear(inBf16(x).data as Float32Array, inBf16(weight).data as Float32Array, 40);
    expectClose(floats(out), expected, 1e-5, 'product of rounded inputs');
  });

  test('NaN reaches the output through every activation', async () => {
    for (const activation of activations) {
      const { weight } = problem(2, 3, 4);
      const { out } = await native.runOp(
        'linear',
        { x: f32([2, 3], [1, Number.NaN, 2, 1, 1, 1]), weight },
        { activation },
      );
      expect([...floats(out)].map(Number.isNaN)).toEqual([
        true,
        true,
        true,
        true,
        false,
        false,
        false,
        false,
      ]);
    }
  });
});

describe('feed_forward', () => {
  const inputs = (rows: number, width: number, hidden: number) => ({
    x: f32([rows, width], 1),
    'first.weight': f32([hidden, width], 2, 1 / Math.sqrt(width)),
    'first.bias': f32([hidden], 3, 0.5),
    'second.weight': f32([width, hidden], 4, 1 / Math.sqrt(hidden)),
    'second.bias': f32([width], 5),
    residual: f32([rows, width], 6),
  });

  for (const compute of ['f32', 'bf16']) {
    describe(compute, () => {
      test.each([
        [1, 1, 1],
        [5, 6, 19],
        [3, 17, 33],
        [515, 3, 4],
      ])('%i rows of %i through %i', async (rows, width, hidden) => {
        for (const activation of activations) {
          await checkOp({
            op: 'feed_forward',
            inputs: inputs(rows, width, hidden),
            attributes: { activation, compute },
            samples: 10,
            ...floorOf(compute, rows),
            // The hidden layer is rounded before and after its activation, and its gradient once more.
            ...(compute === 'bf16' ? { tolerance: 2 * BF16 } : {}),
            reference: (v) => {
              const first = linear(v.x!, v['first.weight']!, width, v['first.bias']);
              const second = activate(first, activation);
              return plus(linear(second, v['second.weight']!, hidden, v['second.bias']), v.residual!);
            },
          });
        }
      });
    });
  }

  test('without biases and residual', async () => {
    const { x, 'first.weight': first, 'second.weight': second } = inputs(4, 7, 10);
    await checkOp({
      op: 'feed_forward',
      inputs: { x: x!, 'first.weight': first!, 'second.weight': second! },
      attributes: { activation: 'gelu' },
      reference: (v) =>
        linear(activate(linear(v.x!, v['first.weight']!, 7), 'gelu'), v['second.weight']!, 10),
    });
  });
});
