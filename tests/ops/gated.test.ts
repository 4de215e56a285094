// gatedFeedForward: W2 (a * gelu(g)) + b2 (+ residual) with [a | g] = W1 x + b1.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { BF16, checkOp } from '../support/reference/check.js';
import { activate, linear, plus } from '../support/reference/layers.js';
import { f32, type Numbers } from '../support/reference/numbers.js';

const inputs = (rows: number, width: number, hidden: number) => ({
  x: f32([rows, width], 1),
  'first.weight': f32([2 * hidden, width], 2, 1 / Math.sqrt(width)),
  'first.bias': f32([2 * hidden], 3, 0.5),
  'second.weight': f32([width, hidden], 4, 1 / Math.sqrt(hidden)),
  'second.bias': f32([width], 5),
  residual: f32([rows, width], 6),
});

/** The first half of each row times the gelu of the second. */
function gate(before: Numbers, hidden: number): Float64Array {
  return Float64Array.from({ length: before.length / 2 }, (_, at) => {
    const value = Math.floor(at / hidden) * 2 * hidden + (at % hidden);
    return before[value]! * activate([before[value + hidden]!], 'gelu')[0]!;
  });
}

describe('gatedFeedForward', () => {
  for (const compute of ['f32', 'bf16'])
    test.each([
      [1, 1, 1],
      [5, 6, 19],
      [3, 17, 33],
      [515, 3, 4],
      [7, 5, 24],
    ])(`${compute}, %i rows of %i through %i`, async (rows, width, hidden) => {
      await checkOp({
        op: 'gatedFeedForward',
        inputs: inputs(rows, width, hidden),
        attributes: { compute },
        samples: 10,
        ...(compute === 'bf16' ? { floor: 0.25 * Math.sqrt(rows), tolerance: 3 * BF16 } : {}),
        reference: (v) => {
          const before = linear(v.x!, v['first.weight']!, width, v['first.bias']);
          const after = linear(gate(before, hidden), v['second.weight']!, hidden, v['second.bias']);
          return plus(after, v.residual!);
        },
      });
    });

  test('without biases and residual', async () => {
    const { x, 'first.weight': first, 'second.weight': second } = inputs(4, 7, 10);
    await checkOp({
      op: 'gatedFeedForward',
      inputs: { x: x!, 'first.weight': first!, 'second.weight': second! },
      reference: (v) => linear(gate(linear(v.x!, v['first.weight']!, 7), 10), v['second.weight']!, 10),
    });
  });

  test('a first layer that is not twice as wide is refused', async () => {
    const given = { ...inputs(2, 3, 4), 'first.weight': f32([4, 3], 1) };
    await expect(native.runOp('gatedFeedForward', given, {})).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/bias of 4|do not fit/),
    });
  });
});
