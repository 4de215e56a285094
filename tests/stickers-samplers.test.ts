// Samplers against a problem whose exact solution is known: data that are themselves normal.

import { describe, expect, test } from 'vitest';
import { Random } from '../src/data/random.js';
import { Ddim } from '../src/stickers/samplers/ddim.js';
import { DpmSolver } from '../src/stickers/samplers/dpm-solver.js';
import { guide, type Sampler, sample, timestepsOf } from '../src/stickers/samplers/sampler.js';
import { NoiseSchedule } from '../src/stickers/samplers/schedule.js';

const schedule = new NoiseSchedule();

// For data N(m, s^2) the best prediction of the noise is linear in x, and the flow from t to 0 has a closed form:
// (x - sqrt(a) m) / sqrt(a s^2 + 1 - a) stays what it is.
const mean = 0.7;
const spread = 0.3;
const scaleAt = (alpha: number) => Math.sqrt(alpha * spread ** 2 + 1 - alpha);
async function predict(x: Float32Array, timestep: number): Promise<Float32Array> {
  const alpha = schedule.alphaAt(timestep);
  return x.map((value) => (Math.sqrt(1 - alpha) * (value - Math.sqrt(alpha) * mean)) / scaleAt(alpha) ** 2);
}
function exact(x: number, from: number, to: number): number {
  const [a, b] = [schedule.alphaAt(from), schedule.alphaAt(to)];
  return Math.sqrt(b) * mean + ((x - Math.sqrt(a) * mean) / scaleAt(a)) * scaleAt(b);
}

const start = Float32Array.from([-1.5, -0.4, 0.1, 0.9, 1.7]);
/** Distance to the exact solution after `count` steps, all of them by default. */
async function errorOf(sampler: Sampler, count = sampler.timesteps.length): Promise<number> {
  let error = 0;
  await sample(sampler, start, predict, {
    onStep: (result, index) => {
      if (index !== count - 1) return;
      const [from, to] = [sampler.timesteps[0]!, sampler.timesteps[count] ?? 0];
      error = Math.max(...result.map((value, i) => Math.abs(value - exact(start[i]!, from, to))));
    },
  });
  return error;
}

describe('samplers', () => {
  test('DDIM comes closer with more steps', async () => {
    const errors = [];
    for (const steps of [10, 20, 40, 80])
      errors.push(await errorOf(new Ddim(schedule, { steps, spacing: 'trailing' })));
    for (let i = 1; i < errors.length; i++) expect(errors[i]).toBeLessThan(0.65 * errors[i - 1]!);
    expect(errors.at(-1)).toBeLessThan(0.03);
  });

  test('DPM-Solver++ needs fewer steps: it is of second order', async () => {
    const spacing = 'trailing';
    const halfway = [];
    for (const steps of [10, 20, 40]) {
      halfway.push(await errorOf(new DpmSolver(schedule, { steps, spacing }), steps / 2));
    }
    for (let i = 1; i < halfway.length; i++) expect(halfway[i]).toBeLessThan(0.3 * halfway[i - 1]!);
  });

  test.each([10, 20, 40])('DPM-Solver++ ends far closer than DDIM in %i steps', async (steps) => {
    const options = { steps, spacing: 'log-snr' } as const;
    const ddim = await errorOf(new Ddim(schedule, options));
    expect(await errorOf(new DpmSolver(schedule, options))).toBeLessThan(0.1 * ddim);
  });

  test('DPM-Solver++ with one step is DDIM with one step', async () => {
    const options = { steps: 1, spacing: 'trailing' } as const;
    const ours = await sample(new DpmSolver(schedule, options), start, predict);
    const other = await sample(new Ddim(schedule, options), start, predict);
    for (const [i, value] of ours.entries()) expect(value).toBeCloseTo(other[i]!, 5);
  });

  test('DDIM with eta 1 keeps the distribution', async () => {
    const random = new Random(5);
    const normal = (length: number) =>
      Float32Array.from(
        { length },
        () => Math.sqrt(-2 * Math.log(1 - random.uniform())) * Math.cos(2 * Math.PI * random.uniform()),
      );
    const sampler = new Ddim(schedule, { steps: 100, eta: 1, spacing: 'trailing' });
    expect(sampler.needsNoise).toBe(true);
    const result = await sample(sampler, normal(4000), predict, { noise: normal });
    const average = result.reduce((sum, value) => sum + value, 0) / result.length;
    const variance = result.reduce((sum, value) => sum + (value - average) ** 2, 0) / result.length;
    expect(average).toBeCloseTo(mean, 1);
    expect(Math.sqrt(variance)).toBeGreaterThan(0.9 * spread);
    expect(Math.sqrt(variance)).toBeLessThan(1.2 * spread);
  });

  test('timesteps', () => {
    expect([...timestepsOf(schedule, 5, 'leading')]).toEqual([801, 601, 401, 201, 1]);
    expect([...timestepsOf(schedule, 4, 'trailing')]).toEqual([999, 749, 499, 249]);
    for (const steps of [1, 3, 7, 999, 1000]) {
      for (const spacing of ['leading', 'trailing', 'log-snr'] as const) {
        const timesteps = timestepsOf(schedule, steps, spacing);
        expect(timesteps).toHaveLength(steps);
        expect(Math.max(...timesteps)).toBeLessThan(1000);
        expect(Math.min(...timesteps)).toBeGreaterThanOrEqual(0);
      }
    }
    expect(new Set(timestepsOf(schedule, 1000, 'log-snr')).size).toBe(1000);
    expect(() => timestepsOf(schedule, 1001, 'leading')).toThrow(/between 1 and 1000 .* received 1001/);
  });

  test('guidance', () => {
    const [negative, positive] = [Float32Array.of(1, 2), Float32Array.of(2, 0)];
    expect([...guide(negative, positive, 1)]).toEqual([2, 0]);
    expect([...guide(negative, positive, 3)]).toEqual([4, -4]);
    expect(() => guide(negative, new Float32Array(3), 1)).toThrow(
      /arrays of one length but received 2 and 3/,
    );
  });

  test('the loop tells about each step and can be stopped', async () => {
    const seen: number[] = [];
    const abort = new AbortController();
    const running = sample(new Ddim(schedule, { steps: 10 }), start, predict, {
      signal: abort.signal,
      onStep: (_, index) => {
        seen.push(index);
        if (index === 3) abort.abort();
      },
    });
    await expect(running).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(seen).toEqual([0, 1, 2, 3]);
  });

  test('the start is not changed', async () => {
    const kept = start.slice();
    await sample(new DpmSolver(schedule, { steps: 5 }), start, predict);
    expect(start).toEqual(kept);
  });

  test('what cannot be', async () => {
    expect(() => new Ddim(schedule, { eta: 2 })).toThrow(/number from 0 to 1 for eta but received 2/);
    expect(() => new NoiseSchedule({ betaStart: 0.5, betaEnd: 0.1 })).toThrow(/betaStart <= betaEnd/);
    const solver = new DpmSolver(schedule, { steps: 5 });
    expect(() => solver.step(start, start, 1)).toThrow(/in order but received 1 after none/);
    await expect(sample(new Ddim(schedule, { eta: 0.5 }), start, predict)).rejects.toThrow(/source of noise/);
  });
});
