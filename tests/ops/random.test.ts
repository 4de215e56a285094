// philox (the one source of randomness) and dropout, which draws from it.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { checkOp, EXACT_ARITHMETIC, expectClose, expectSame, floats } from '../support/reference/check.js';
import { f32 } from '../support/reference/numbers.js';
import { normalsOf, philox4x32, uniformOf, words } from '../support/reference/philox.js';

async function draws(attributes: Record<string, number>): Promise<{ words: number[]; normal: Float32Array }> {
  const { out, normal } = await native.runOp('philox', {}, attributes);
  return { words: Array.from(out!.data as Int32Array, (word) => word >>> 0), normal: floats(normal) };
}

describe('philox 4x32-10', () => {
  test("the reference gives Random123's known answers", () => {
    const ones = 0xffffffffn;
    expect(philox4x32([0n, 0n, 0n, 0n], [0n, 0n])).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    expect(philox4x32([ones, ones, ones, ones], [ones, ones])).toEqual([
      0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd,
    ]);
    expect(
      philox4x32([0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n], [0xa4093822n, 0x299f31d0n]),
    ).toEqual([0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
  });

  test('counter 0, key 0', async () => {
    expect((await draws({ count: 4 })).words).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  });

  test.each([
    { seed: 1, stream: 0, counter: 0 },
    { seed: 0, stream: 1, counter: 0 },
    { seed: 0, stream: 0, counter: 2 ** 32 + 5 },
    { seed: 2 ** 53 - 1, stream: 2 ** 52 + 3, counter: 2 ** 53 - 9 },
    { seed: 0xa4093822, stream: 0x13198a2e, counter: 0x243f6a88 },
  ])('key = seed, counter = (counter, stream): $seed $stream $counter', async (place) => {
    const expected = [0, 1, 2].flatMap((i) => words(place.seed, place.stream, place.counter + i));
    expect((await draws({ ...place, count: 12 })).words).toEqual(expected);
  });

  test('normal draws are Box-Muller on consecutive words', async () => {
    const count = 20_000;
    const { words: drawn, normal } = await draws({ seed: 9, stream: 4, count });
    const expected = Array.from({ length: count / 2 }, (_, i) =>
      normalsOf(drawn[2 * i]!, drawn[2 * i + 1]!),
    ).flat();
    expectClose(normal, expected, EXACT_ARITHMETIC, 'normal draws');
    // Moments of 20000 draws: standard errors 0.007, 0.010 and 0.035
    const moment = (power: number) => normal.reduce((sum, x) => sum + x ** power, 0) / count;
    expect(Math.abs(moment(1))).toBeLessThan(0.03);
    expect(Math.abs(moment(2) - 1)).toBeLessThan(0.04);
    expect(Math.abs(moment(4) - 3)).toBeLessThan(0.2);
  });
});

describe('dropout', () => {
  /** Element i is drawn from (seed, stream, i): word i % 4 of counter i / 4. */
  const factor = (i: number, seed: number, stream: number, probability: number) =>
    uniformOf(words(seed, stream, Math.floor(i / 4))[i % 4]!) >= Math.fround(probability)
      ? 1 / (1 - probability)
      : 0;

  test.each([
    { shape: [1], probability: 0.5, seed: 3, stream: 0 },
    { shape: [3, 7], probability: 0.1, seed: 3, stream: 5 },
    { shape: [17], probability: 0.9, seed: 2 ** 40, stream: 2 ** 33 },
    { shape: [5, 1001], probability: 0.3, seed: 1, stream: 1 },
  ])(
    '$shape, probability $probability: forward and backward take the same draw',
    async ({ shape, ...attributes }) => {
      const { probability, seed, stream } = attributes;
      await checkOp({
        op: 'dropout',
        inputs: { x: f32(shape, 1) },
        attributes,
        tolerance: EXACT_ARITHMETIC,
        samples: 12,
        reference: ({ x }) => x!.map((value, i) => value * factor(i, seed, stream, probability)),
      });
    },
  );

  test('keeps the mean, and about the share asked for', async () => {
    const x = f32([1000, 100], new Float32Array(100_000).fill(1));
    for (const probability of [0.1, 0.5, 0.9]) {
      const values = floats((await native.runOp('dropout', { x }, { probability, seed: 5 })).out);
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      // 100000 draws: the standard error of the mean is sqrt(p / (1 - p) / 100000), at most 0.0095
      expect(Math.abs(mean - 1)).toBeLessThan(4.5 * Math.sqrt(probability / (1 - probability) / 100_000));
    }
  });

  test('a seed repeats its draw; another seed or stream is another draw', async () => {
    const x = f32([50, 20], 1);
    const run = async (attributes: Record<string, number>) =>
      floats((await native.runOp('dropout', { x }, { probability: 0.5, ...attributes })).out);
    const first = await run({ seed: 1, stream: 2 });
    expectSame(await run({ seed: 1, stream: 2 }), first, 'the same seed and stream');
    expect(await run({ seed: 2, stream: 2 })).not.toEqual(first);
    expect(await run({ seed: 1, stream: 3 })).not.toEqual(first);
  });

  test('probability 0 is the identity', async () => {
    const x = f32([4, 5], 1);
    const results = await native.runOp('dropout', { x }, { probability: 0 }, x);
    expectSame(floats(results.out), floats(x), 'out');
    expectSame(floats(results['grad.x']), floats(x), 'gradient');
  });
});
