// The ops of denoising training: the masked squared error, time embeddings, moving averages.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import {
  centralDifference,
  EXACT_ARITHMETIC,
  expectClose,
  expectEachClose,
  FP32,
  floats,
} from '../support/reference/check.js';
import { f32, type Numbers, u8 } from '../support/reference/numbers.js';

describe('maskedSquaredError', () => {
  const clips = 3;
  const frames = 4;
  const values = 10;
  const output = f32([clips, frames, values], 1);
  const target = f32([clips, frames, values], 2);
  const keep = [1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0];

  /** mean((m output - m target)^2), over all elements or over the kept ones. */
  function loss(y: Numbers, overKept: boolean, from = 0, to = clips): number {
    let sum = 0;
    let count = 0;
    for (let i = from * frames * values; i < to * frames * values; i++) {
      const m = keep[Math.floor(i / values)]!;
      sum += (m * y[i]! - m * (target.data as Float32Array)[i]!) ** 2;
      count += overKept ? m : 1;
    }
    return count === 0 ? 0 : sum / count;
  }

  test.each([false, true])('over the kept elements: %s', async (overKept) => {
    const results = await native.runOp(
      'maskedSquaredError',
      { output, target, keep: u8(keep) },
      { clips, frames, overKept },
    );
    const y = Float64Array.from(output.data as Float32Array);
    expectEachClose(floats(results.out), [loss(y, overKept)], EXACT_ARITHMETIC, 'loss');
    const each = Array.from({ length: clips }, (_, clip) => loss(y, overKept, clip, clip + 1));
    expectEachClose(floats(results.clipLoss), each, EXACT_ARITHMETIC, 'loss of each clip');
    const gradient = Array.from(y, (_, i) => centralDifference(y, i, () => loss(y, overKept)));
    expectClose(floats(results['grad.output']), gradient, EXACT_ARITHMETIC, 'gradient');
  });

  test('hidden frames do not reach the loss even when they are not numbers', async () => {
    const broken = { ...output, data: (output.data as Float32Array).slice() };
    broken.data.fill(Number.NaN, 4 * values, 8 * values);
    const results = await native.runOp(
      'maskedSquaredError',
      { output: broken, target, keep: u8(keep) },
      { clips, frames },
    );
    expectEachClose(
      floats(results.out),
      [loss(output.data as Float32Array, false)],
      EXACT_ARITHMETIC,
      'loss',
    );
    expect([...floats(results['grad.output']).slice(4 * values, 8 * values)].every((g) => g === 0)).toBe(
      true,
    );
  });

  test('nothing kept is no loss', async () => {
    const none = { output, target, keep: u8(new Array(12).fill(0)) };
    const results = await native.runOp('maskedSquaredError', none, { clips, frames, overKept: true });
    expect([...floats(results.out), ...floats(results.clipLoss)]).toEqual([0, 0, 0, 0]);
    expect(floats(results['grad.output']).every((g) => g === 0)).toBe(true);
  });
});

describe('timeEmbedding', () => {
  test.each([2, 6, 320])('width %i', async (width) => {
    const times = [0, 1, 37, 811, 999];
    const { out } = await native.runOp('timeEmbedding', { times: f32([5], times) }, { width });
    expect(out!.shape).toEqual([5, width]);
    const half = width / 2;
    const expected = times.flatMap((t) => {
      const angles = Array.from({ length: half }, (_, j) => t * Math.exp((-Math.log(10000) * j) / half));
      return [...angles.map(Math.cos), ...angles.map(Math.sin)];
    });
    // The argument is rounded to fp32: near 1000 by up to 3e-5, times two roundings on the way.
    expectClose(floats(out), expected, 1e-4, 'embedding');
    expectClose(floats(out).slice(0, 2 * width), expected.slice(0, 2 * width), FP32, 'of times up to 1');
  });
});

test('movingAverage', async () => {
  const average = f32([40_003], 1);
  const value = f32([40_003], 2);
  const { out } = await native.runOp('movingAverage', { average, value }, { decay: 0.9 });
  const decay = Math.fround(0.9);
  const expected = (average.data as Float32Array).map(
    (a, i) => decay * a + (1 - decay) * (value.data as Float32Array)[i]!,
  );
  expectClose(floats(out), expected, EXACT_ARITHMETIC, 'average');
});
