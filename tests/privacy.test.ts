// Protection of updates: norms and clipping, noise and the grid it lies on, what is spent, budgets.

import { readFileSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { Random } from '../src/data/random.js';
import { Accountant, RENYI_ORDERS } from '../src/federated/privacy/accountant.js';
import { clipFactor, updateNorm } from '../src/federated/privacy/clip.js';
import { noisyUpdate, secureBytes, seededBytes } from '../src/federated/privacy/noise.js';
import { Protection, type ProtectionOptions } from '../src/federated/privacy/protection.js';
import { renyiDivergence } from '../src/federated/privacy/renyi.js';
import type { Tensors } from '../src/native/core.js';
import { native } from '../src/native.js';
import { temporaryFolder } from './federation-support.js';

interface Divergence {
  sampleRate: number;
  noiseMultiplier: number;
  order: number;
  exact: number;
  dpAccounting: number | null;
  opacus: number | null;
}
interface Spent {
  sampleRate: number;
  noiseMultiplier: number;
  releases: number;
  delta: number;
  epsilon: number;
}
const reference = JSON.parse(
  readFileSync(new URL('fixtures/privacy-reference.json', import.meta.url), 'utf8'),
) as { divergences: Divergence[]; epsilons: Spent[] };

/** Of two positive numbers. */
const ratio = (received: number, expected: number) => Math.abs(received / expected - 1);

describe('Renyi divergence of sampled Gaussian noise', () => {
  test.each(reference.divergences)('q $sampleRate, sigma $noiseMultiplier, order $order', (row) => {
    const { sampleRate, noiseMultiplier, order, exact, dpAccounting, opacus } = row;
    const received = renyiDivergence(noiseMultiplier, sampleRate, order);
    expect(Math.abs(received - exact)).toBeLessThan(1e-12 * exact + 1e-12);
    if (opacus !== null) expect(ratio(received, opacus)).toBeLessThan(1e-6);
    if (dpAccounting === null) return;
    if (Number.isInteger(order))
      expect(Math.abs(received - dpAccounting)).toBeLessThan(1e-9 * dpAccounting + 1e-15);
    else expect(received).toBeLessThan(dpAccounting * (1 + 1e-7)); // it leaves the signs of a series out
  });

  test('whole orders are the finite binomial sum', () => {
    for (const [sigma, q, order] of [
      [0.3, 0.2, 2],
      [1, 0.7, 5],
      [20, 0.01, 32],
    ] as const) {
      let [sum, binomial] = [0, 1];
      for (let k = 0; k <= order; k++) {
        sum += binomial * (1 - q) ** (order - k) * q ** k * Math.exp((k * (k - 1)) / (2 * sigma ** 2));
        binomial *= (order - k) / (k + 1);
      }
      const expected = Math.log(sum) / (order - 1);
      expect(Math.abs(renyiDivergence(sigma, q, order) - expected)).toBeLessThan(1e-11 * expected + 1e-14);
    }
  });

  test('is that of plain noise when everyone takes part, 0 when nobody does, and never larger for a sample', () => {
    expect(renyiDivergence(2, 1, 8)).toBe(1);
    expect(renyiDivergence(2, 0, 8)).toBe(0);
    for (const sigma of [1e-3, 0.1, 1, 100])
      for (const q of [1e-9, 0.3, 1 - 1e-9])
        for (const order of RENYI_ORDERS)
          expect(renyiDivergence(sigma, q, order)).toBeLessThanOrEqual(order / (2 * sigma ** 2));
  });
});

/** Mass of a standard normal above x, to 1e-13 of itself. */
function normalTail(x: number): number {
  if (x < 0) return 1 - normalTail(-x);
  if (x < 3) {
    let [term, sum] = [x, x];
    for (let n = 1; term > 1e-18; n++) sum += term *= (x * x) / (2 * n + 1);
    return 0.5 - (sum * Math.exp(-x * x * 0.5)) / Math.sqrt(2 * Math.PI);
  }
  let fraction = x;
  for (let n = 200; n >= 1; n--) fraction = x + n / fraction;
  return Math.exp(-x * x * 0.5) / (fraction * Math.sqrt(2 * Math.PI));
}

/** delta of one Gaussian release at epsilon, exactly: Balle and Wang, arXiv 1805.06530, theorem 8. */
function gaussianDelta(sigma: number, epsilon: number): number {
  const [half, shift] = [1 / (2 * sigma), epsilon * sigma];
  return normalTail(shift - half) - Math.exp(epsilon) * normalTail(shift + half);
}

describe('what releases have spent', () => {
  test.each(reference.epsilons)(
    'q $sampleRate, sigma $noiseMultiplier, $releases releases, delta $delta',
    ({ sampleRate, noiseMultiplier, releases, delta, epsilon }) => {
      const accountant = new Accountant();
      accountant.add({ sampleRate, noiseMultiplier, releases });
      const received = accountant.spent(delta).epsilon;
      expect(received).toBeLessThan(epsilon * (1 + 1e-9));
      // Where the best order is near 1, dp-accounting has none: its series do not converge there.
      expect(received).toBeGreaterThan(epsilon * (sampleRate === 1 ? 1 - 1e-9 : epsilon > 50 ? 0.75 : 0.95));
    },
  );

  test.each([
    [0.6, 1],
    [1, 1],
    [4, 30],
    [12, 1000],
    [50, 3],
  ])(
    'is more than the exact cost of Gaussian noise, by less than a third: sigma %d, %d releases',
    (sigma, releases) => {
      for (const delta of [1e-3, 1e-5, 1e-9]) {
        const accountant = new Accountant([{ noiseMultiplier: sigma, releases }]);
        const { epsilon } = accountant.spent(delta);
        // Many releases of independent noise are one of sigma / sqrt(releases).
        const exact = (at: number) => gaussianDelta(sigma / Math.sqrt(releases), at);
        expect(exact(epsilon)).toBeLessThan(delta);
        expect(exact(0.75 * epsilon)).toBeGreaterThan(delta);
      }
    },
  );

  test('adds up over different noise and comes back from its ledger', () => {
    const accountant = new Accountant();
    expect(accountant.spent(1e-5)).toEqual({ epsilon: 0, delta: 1e-5, order: 1, releases: 0 });
    accountant.add({ noiseMultiplier: 4, releases: 2 });
    accountant.add({ noiseMultiplier: 2, sampleRate: 0.1 });
    accountant.add({ noiseMultiplier: 4 });
    expect(accountant.ledger).toEqual([
      { noiseMultiplier: 4, sampleRate: 1, releases: 3 },
      { noiseMultiplier: 2, sampleRate: 0.1, releases: 1 },
    ]);
    const spent = accountant.spent(1e-5);
    expect(spent.releases).toBe(4);
    expect(new Accountant(JSON.parse(JSON.stringify(accountant.ledger))).spent(1e-5)).toEqual(spent);
    const equal = new Accountant([{ noiseMultiplier: 4, releases: 4 }]).spent(1e-5);
    const twoKinds = new Accountant([
      { noiseMultiplier: 4 * Math.SQRT2, releases: 2 },
      { noiseMultiplier: 4, releases: 3 },
    ]).spent(1e-5);
    expect(ratio(twoKinds.epsilon, equal.epsilon)).toBeLessThan(1e-12);
  });

  test.each([
    [{ noiseMultiplier: 0 }, /noiseMultiplier but received 0/],
    [{ noiseMultiplier: 1, sampleRate: 1.5 }, /sampleRate but received 1.5/],
    [{ noiseMultiplier: 1, releases: 0 }, /releases but received 0/],
    [{ noiseMultiplier: 1, sigma: 2 }, /only known settings but received .*sigma/],
  ])('%j is refused', (entry, message) => {
    expect(() => new Accountant().add(entry)).toThrow(message);
    expect(() => new Accountant([entry])).toThrow(message);
    expect(() => new Accountant().spent(1)).toThrow(/between 0 and 1 for delta but received 1/);
  });
});

/** Parameters of two lengths, an odd one among them, drawn by a seed. */
function tensors(seed: number, deviation = 1): Tensors {
  const random = new Random(seed, 9);
  const values = (count: number) => random.normals(count).map((value) => value * deviation);
  return { a: values(1001), b: values(512) };
}
const added = (first: Tensors, second: Tensors): Tensors =>
  Object.fromEntries(
    Object.entries(first).map(([name, values]) => [
      name,
      values.map((value, i) => value + second[name]![i]!),
    ]),
  );
const zeros = (like: Tensors): Tensors =>
  Object.fromEntries(Object.entries(like).map(([name, { length }]) => [name, new Float32Array(length)]));
const flat = (values: Tensors) => Object.values(values).flatMap((tensor) => [...tensor]);
const normOf = (values: readonly number[]) =>
  Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));

describe('clipping', () => {
  test('the norm is that of all differences together', async () => {
    const received = tensors(1);
    const update = added(received, { a: new Float32Array(1001).fill(3), b: new Float32Array(512).fill(4) });
    expect(await updateNorm(update, received)).toBeCloseTo(Math.sqrt(1001 * 9 + 512 * 16), 3);
  });

  test('a factor bounds the norm and leaves smaller ones alone', () => {
    expect(clipFactor(0, 2)).toBe(1);
    expect(clipFactor(1.99, 2)).toBe(1);
    expect(clipFactor(8, 2)).toBeCloseTo(0.25, 8);
    expect(8 * clipFactor(8, 2)).toBeLessThan(2);
  });

  test('an update that is not finite, or of other parameters, is refused by name', async () => {
    const received = tensors(1);
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const update = { ...received, b: received.b!.with(511, bad) };
      await expect(updateNorm(update, received)).rejects.toMatchObject({
        code: 'NOT_FINITE',
        message: expect.stringContaining('update of b'),
      });
    }
    const { a } = received;
    await expect(updateNorm({ a: a! }, received)).rejects.toThrow(/Expected 512 values of b.* has none/);
    await expect(updateNorm({ ...received, c: a! }, received)).rejects.toThrow(/Expected no c/);
    await expect(updateNorm({ ...received, b: a! }, received)).rejects.toThrow(/has 1001 values/);
  });
});

describe('noise', () => {
  test('two words make two normal numbers, and zero bytes none', async () => {
    const words = (radius: bigint, angle: bigint) => new Uint8Array(BigUint64Array.of(radius, angle).buffer);
    const none = new Float32Array(2);
    const made = await native.noisyUpdate(none, none, words(1n << 63n, 0n), 1, 1, 2 ** 20);
    expect([...made]).toEqual([Math.round(2 ** 20 * Math.sqrt(2 * Math.LN2)), 0]);
    const turned = await native.noisyUpdate(none, none, words(1n << 63n, 1n << 62n), 1, 1, 2 ** 20);
    expect([...turned]).toEqual([0, Math.round(2 ** 20 * Math.sqrt(2 * Math.LN2))]);
    const farthest = await native.noisyUpdate(none, none, words(2n ** 64n - 1n, 0n), 1, 2 ** -10, 2 ** 10);
    expect(farthest[0]).toBeCloseTo(8.57, 2);
    const values = Float32Array.of(1.75, -1.75);
    expect([...(await native.noisyUpdate(values, none, words(0n, 0n), 1, 0.5, 9))]).toEqual([1.5, -1.5]);
    expect([...(await native.noisyUpdate(values, none, words(0n, 0n), 0.5, 0.5, 9))]).toEqual([0.5, -0.5]);
    await expect(native.noisyUpdate(values, none, words(0n, 0n), 1, 0.3, 1)).rejects.toThrow(/power of two/);
    await expect(native.noisyUpdate(values, none, new Uint8Array(8), 1, 1, 1)).rejects.toThrow(
      /16 random bytes/,
    );
  });

  test.each([
    ['the system', () => secureBytes],
    ['a seed', () => seededBytes(3, 0)],
  ])('from %s is normal', async (_, source) => {
    const none = { x: new Float32Array(100_001) };
    const { x } = await noisyUpdate(none, none, 1, 0.37, source());
    const sorted = [...x!].map((value) => value / 0.37).sort((a, b) => a - b);
    const mean = (power: number) => sorted.reduce((sum, value) => sum + value ** power, 0) / sorted.length;
    // Five standard errors: one run in a million fails by chance.
    const error = 5 / Math.sqrt(sorted.length);
    expect(Math.abs(mean(1))).toBeLessThan(error);
    expect(Math.abs(mean(2) - 1)).toBeLessThan(Math.sqrt(2) * error);
    expect(Math.abs(mean(3))).toBeLessThan(Math.sqrt(15) * error);
    expect(Math.abs(mean(4) - 3)).toBeLessThan(Math.sqrt(96) * error);
    // Kolmogorov and Smirnov: beyond 2.7 in one of a million.
    const farthest = sorted.reduce((most, value, index) => {
      const below = 1 - normalTail(value);
      return Math.max(most, (index + 1) / sorted.length - below, below - index / sorted.length);
    }, 0);
    expect(farthest * Math.sqrt(sorted.length)).toBeLessThan(2.7);
  });

  test('neighbours and parameters have independent noise', async () => {
    const none = { x: new Float32Array(20_000), y: new Float32Array(20_000) };
    const { x, y } = await noisyUpdate(none, none, 1, 1, secureBytes);
    const correlation = (other: (index: number) => number) =>
      x!.reduce((sum, value, index) => sum + value * other(index), 0) / x!.length;
    const error = 5 / Math.sqrt(x!.length);
    expect(Math.abs(correlation((i) => y![i]!))).toBeLessThan(error);
    expect(Math.abs(correlation((i) => x![(i + 1) % x!.length]!))).toBeLessThan(error);
    expect(Math.abs(correlation((i) => x![(i + 2) % x!.length]!))).toBeLessThan(error);
    const again = await noisyUpdate(none, none, 1, 1, secureBytes);
    expect(again.x).not.toEqual(x);
  });

  test('what is sent lies on a grid, whatever went in', async () => {
    const deviation = 0.3;
    const grid = 2 ** (Math.floor(Math.log2(deviation)) - 16);
    for (const update of [tensors(4, 1), tensors(5, 1e-9)]) {
      const sent = flat(await noisyUpdate(update, zeros(update), 1, deviation, secureBytes));
      expect(sent.every((value) => Number.isInteger(value / grid))).toBe(true);
      expect(new Set(sent).size).toBeGreaterThan(1400);
    }
  });

  test('the grid never makes a norm larger', async () => {
    const update = tensors(6);
    const silent = async (count: number) => new Uint8Array(count); // zero bytes are no noise
    const sent = flat(await noisyUpdate(update, zeros(update), 1, 2 ** 12, silent));
    const before = flat(update);
    expect(sent.every((value, i) => Math.abs(value) <= Math.abs(before[i]!))).toBe(true);
    expect(sent.every((value, i) => Math.abs(value - before[i]!) < 2 ** -4)).toBe(true);
    expect(sent).not.toEqual(before);
  });
});

describe('Protection', () => {
  const received = tensors(1);
  const update = added(received, tensors(2));
  const sentBy = (protection: Protection) => protection.apply(update, received);

  test('an update within the bound passes as it is without noise', async () => {
    const protection = new Protection({ clip: 1000 });
    expect(await sentBy(protection)).toBe(update);
    expect(protection.report).toEqual({ norm: await updateNorm(update, received), clipped: false });
    expect(protection.spent).toBeUndefined();
  });

  test('a larger one is scaled down to it', async () => {
    const protection = new Protection({ clip: 2 });
    const sent = await sentBy(protection);
    expect(await updateNorm(sent, received)).toBeCloseTo(2, 5);
    expect(protection.report).toMatchObject({ clipped: true });
    const factor = 2 / protection.report!.norm;
    const expected = flat(received).map((value, i) => value + factor * (flat(update)[i]! - value));
    expect(Math.max(...flat(sent).map((value, i) => Math.abs(value - expected[i]!)))).toBeLessThan(1e-6);
  });

  test('noise of sigma C lies on the clipped update', async () => {
    const sent = flat(await sentBy(new Protection({ clip: 2, noise: 5, seed: 1 })));
    const clipped = flat(await sentBy(new Protection({ clip: 2 })));
    const noise = sent.map((value, i) => value - clipped[i]!);
    expect(ratio(normOf(noise), 10 * Math.sqrt(noise.length))).toBeLessThan(5 / Math.sqrt(2 * noise.length));
  });

  test('a seed makes the same noise again, another one for the next update; without it no two are alike', async () => {
    const [first, second] = [1, 2].map(() => new Protection({ clip: 1, noise: 1, seed: 4 }));
    const sent = await sentBy(first!);
    expect(await sentBy(second!)).toEqual(sent);
    expect(await sentBy(first!)).not.toEqual(sent);
    const secure = new Protection({ clip: 1, noise: 1 });
    expect(await sentBy(secure)).not.toEqual(await sentBy(secure));
  });

  test.each([
    ['remove', 4],
    ['replace', 2],
  ] as const)(
    'counts every update, for neighbours by %s as noise of %d',
    async (neighbours, noiseMultiplier) => {
      const protection = new Protection({ clip: 3, noise: 4, delta: 1e-6, neighbours });
      for (let i = 0; i < 3; i++) await sentBy(protection);
      expect(protection.ledger).toEqual([{ noiseMultiplier, sampleRate: 1, releases: 3 }]);
      expect(protection.spent).toEqual(new Accountant([{ noiseMultiplier, releases: 3 }]).spent(1e-6));
      expect(protection.report?.spent).toEqual(protection.spent);
    },
  );

  test('refuses what would cost more than its budget', async () => {
    const three = new Accountant([{ noiseMultiplier: 4, releases: 3 }]).spent(1e-5).epsilon;
    const options: ProtectionOptions = { clip: 1, noise: 8, epsilon: three };
    const protection = new Protection(options);
    const sent = await Promise.allSettled([1, 2, 3, 4, 5].map(() => sentBy(protection)));
    expect(sent.map(({ status }) => status)).toEqual([
      ...['fulfilled', 'fulfilled', 'fulfilled'],
      ...['rejected', 'rejected'],
    ]);
    await expect(protection.requireBudget()).rejects.toMatchObject({
      code: 'BUDGET_SPENT',
      message: expect.stringMatching(
        /^Expected at most epsilon 1\.\d+ at delta 0.00001 .* 3\); nothing more is sent$/,
      ),
    });
    expect(protection.spent?.releases).toBe(3);
    const resumed = new Protection(options);
    resumed.restore(JSON.parse(JSON.stringify(protection.ledger)));
    await expect(sentBy(resumed)).rejects.toMatchObject({ code: 'BUDGET_SPENT' });
    await expect(sentBy(new Protection({ ...options, epsilon: 0.1 }))).rejects.toThrow(
      /\(0\.000 are spent by 0\)/,
    );
  });

  test('keeps its ledger in a file, before an update is out', async () => {
    const ledger = join(await temporaryFolder(), 'privacy.json');
    const options: ProtectionOptions = { clip: 1, noise: 6, ledger };
    const first = new Protection(options);
    await Promise.all([1, 2, 3, 4].map(() => sentBy(first)));
    const second = new Protection({ ...options, epsilon: 1000 });
    await sentBy(second);
    expect(second.spent?.releases).toBe(5);
    expect(JSON.parse(await readFile(ledger, 'utf8'))).toEqual({
      format: 'duet-privacy-1',
      ledger: [{ noiseMultiplier: 3, sampleRate: 1, releases: 5 }],
    });
    expect(() => second.restore([])).toThrow(/privacy.json says what was sent/);
    await writeFile(ledger, '{"format":"duet-privacy-1","ledger":[{"noiseMultiplier":-1}]}');
    await expect(sentBy(new Protection(options))).rejects.toMatchObject({ code: 'CORRUPT' });
    const lost = new Protection({ ...options, ledger: '/nowhere/privacy.json' });
    await expect(sentBy(lost)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    expect(lost.spent?.releases).toBe(1);
  });

  test('an update that is not finite is not sent and costs nothing', async () => {
    const protection = new Protection({ clip: 1, noise: 1 });
    const bad = { ...update, a: update.a!.with(0, Number.NaN) };
    await expect(protection.apply(bad, received)).rejects.toMatchObject({ code: 'NOT_FINITE' });
    expect(protection.spent?.releases).toBe(0);
  });

  test.each([
    [{ clip: 0 }, /clip but received 0/],
    [{ clip: 1, noise: -1 }, /noise but received -1/],
    [{ clip: 1, noise: 1e-7 }, /0 or number of at least 0.000001 for noise/],
    [{ clip: 1, noise: 1, delta: 1 }, /delta but received 1/],
    [{ clip: 1, epsilon: 3 }, /Expected no limit without noise for epsilon but received 3/],
    [{ clip: 1, sigma: 3 }, /only known settings but received sigma/],
  ])('%j is refused', (options, message) => {
    expect(() => new Protection(options as ProtectionOptions)).toThrow(message);
  });
});
