// Training the frame generation network: what is drawn, masks, losses, accumulation, averages, resuming, bad numbers.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Dfgn } from '../src/models/dfgn.js';
import { STI_VARIANTS } from '../src/models/dfgn-config.js';
import type { DenoisingBatch } from '../src/native/stickers.js';
import {
  type Config,
  denoisingBatch,
  joined,
  largestDifference,
  PIXELS,
  predictionBatch,
  smallNetwork,
  training,
  valuesOf,
} from './dfgn-support.js';
import { rejection } from './native-support.js';
import { normals } from './support/reference/numbers.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'duet-dfgn-training-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const configOf = (network: Dfgn) => network.config as Config;
const frameOf = (config: Config, i: number) => Math.floor(i / PIXELS) % config.num_frames;

/** Cumulative alphas of the published schedule, in double. */
function alphasCumulative(): number[] {
  const [first, last] = [Math.sqrt(0.00085), Math.sqrt(0.012)];
  let product = 1;
  return Array.from({ length: 1000 }, (_, i) => {
    product *= 1 - (first + ((last - first) * i) / 999) ** 2;
    return product;
  });
}

test('a fixed batch is learnt', async () => {
  using network = await smallNetwork();
  await network.startTraining({ ...training, optimizer: { ...training.optimizer, learningRate: 5e-3 } });
  const batch = {
    ...denoisingBatch(configOf(network)),
    noise: normals(valuesOf(configOf(network)), 77),
    timesteps: Int32Array.of(400),
  };
  const losses: number[] = [];
  for (let step = 0; step < 40; step++) losses.push((await network.step(batch)).loss);
  expect(losses.at(-1)).toBeLessThan(0.3 * (losses[0] as number));
});

test('every variant of the interaction layers is learnt, each in its own way', async () => {
  const last: number[] = [];
  for (const sti of STI_VARIANTS) {
    using network = await smallNetwork({ sti });
    await network.startTraining({ ...training, optimizer: { ...training.optimizer, learningRate: 5e-3 } });
    const config = configOf(network);
    const drawn = { noise: normals(valuesOf(config), 77), timesteps: Int32Array.of(400) };
    const batch = { ...denoisingBatch(config), ...drawn };
    const first = (await network.step(batch)).loss;
    for (let step = 1; step < 20; step++) await network.step(batch);
    last.push((await network.evaluate(batch)).loss);
    expect(last.at(-1), sti).toBeLessThan(0.7 * first);
  }
  expect(new Set(last).size).toBe(STI_VARIANTS.length);
});

describe('what goes into the network', () => {
  test('noisy latents, image latents of given real frames, dropped text', async () => {
    using network = await smallNetwork();
    const config = configOf(network);
    await network.startTraining({ ...training, keepOutputs: true });
    const noise = normals(valuesOf(config), 77);
    const batch = {
      ...denoisingBatch(config),
      noise,
      timesteps: Int32Array.of(250),
      frameMask: Uint8Array.of(1, 1, 1, 0),
      infoMask: Uint8Array.of(0, 1, 0, 1),
    };
    const dropped = await network.evaluate({ ...batch, dropText: Uint8Array.of(1) });
    const zeros = { text: batch.text.map(() => 0), t5: batch.t5?.map(() => 0) };
    const emptied = await network.evaluate({ ...batch, ...zeros });
    expect(dropped.loss).toBe(emptied.loss);
    const kept = await network.evaluate(batch);
    expect(kept.loss).not.toBe(dropped.loss);

    const left = alphasCumulative()[250] as number;
    const noisy = batch.latents.map(
      (x, i) => Math.sqrt(left) * x + Math.sqrt(1 - left) * (noise[i] as number),
    );
    // The schedule is fp32: its product of 250 factors is off by some 1e-6.
    expect(largestDifference(kept.noisyLatents ?? [], noisy)).toBeLessThan(5e-6);
    // Frame 3 is marked as given but padded, so frame 1 alone is shown.
    const shown = batch.latents.map((x, i) => (frameOf(config, i) === 1 ? x : 0));
    expect(kept.imageLatents).toEqual(shown);
    expect(kept.timesteps).toEqual([250]);
  });

  test('noise and times come from seed and step; two micro-batches draw differently', async () => {
    using network = await smallNetwork();
    using again = await smallNetwork();
    await network.startTraining({ ...training, keepOutputs: true });
    await again.startTraining({ ...training, keepOutputs: true });
    const batch = denoisingBatch(configOf(network), 8);
    const first = await network.evaluate(batch, 3);
    expect(await again.evaluate(batch, 3)).toEqual(first);
    const later = await network.evaluate(batch, 4);
    expect(later.timesteps).not.toEqual(first.timesteps);
    expect(largestDifference(later.noisyLatents ?? [], first.noisyLatents ?? [])).toBeGreaterThan(0.1);
    const { timesteps } = await network.step([batch, batch]);
    expect(timesteps.slice(0, 8)).not.toEqual(timesteps.slice(8));
    expect(timesteps.every((t) => Number.isInteger(t) && t >= 0 && t < 1000)).toBe(true);
    await again.startTraining({ ...training, seed: 6, keepOutputs: true });
    expect((await again.evaluate(batch, 3)).timesteps).not.toEqual(first.timesteps);
  });

  test('drawn noise is standard normal and times are spread evenly', async () => {
    using network = await smallNetwork();
    await network.startTraining({ ...training, keepOutputs: true });
    const config = configOf(network);
    const count = 64;
    const batch = { ...denoisingBatch(config, count), timesteps: new Int32Array(count).fill(999) };
    const { noisyLatents } = await network.evaluate(batch, 0);
    const left = alphasCumulative()[999] as number;
    const noise = Array.from(
      noisyLatents ?? [],
      (x, i) => (x - Math.sqrt(left) * (batch.latents[i] as number)) / Math.sqrt(1 - left),
    );
    const mean = noise.reduce((a, b) => a + b, 0) / noise.length;
    const variance = noise.reduce((a, b) => a + b * b, 0) / noise.length;
    expect(Math.abs(mean)).toBeLessThan(4 / Math.sqrt(noise.length));
    expect(Math.abs(variance - 1)).toBeLessThan(4 * Math.sqrt(2 / noise.length));
    const { timesteps } = await network.evaluate(denoisingBatch(config, count), 0);
    const middle = timesteps.reduce((a, b) => a + b, 0) / count;
    expect(Math.abs(middle - 499.5)).toBeLessThan((4 * 1000) / Math.sqrt(12 * count));
  });
});

describe('loss', () => {
  test('over all elements as published, over real frames by option, one number a clip', async () => {
    using network = await smallNetwork();
    const config = configOf(network);
    const noise = normals(2 * valuesOf(config), 77);
    const batch = {
      ...denoisingBatch(config, 2),
      noise,
      timesteps: Int32Array.of(100, 700),
      frameMask: Uint8Array.of(1, 1, 1, 1, 1, 0, 0, 0),
    };
    await network.startTraining({ ...training, keepOutputs: true });
    const published = await network.evaluate(batch);
    const each = valuesOf(config);
    const errors = Array.from(published.prediction ?? [], (x, i) => {
      const real = batch.frameMask[Math.floor(i / each) * config.num_frames + frameOf(config, i)];
      return real ? (x - (noise[i] as number)) ** 2 : 0;
    });
    const sum = (from: number, to: number) => errors.slice(from, to).reduce((a, b) => a + b, 0);
    expect(published.loss).toBeCloseTo(sum(0, 2 * each) / (2 * each), 5);
    expect(published.clipLosses[1]).toBeCloseTo(sum(each, 2 * each) / each, 5);
    await network.startTraining({ ...training, lossOverKept: true });
    const kept = await network.evaluate(batch);
    expect(kept.loss).toBeCloseTo(sum(0, 2 * each) / (each + each / 4), 5);
    expect(kept.clipLosses[1]).toBeCloseTo((4 * sum(each, 2 * each)) / each, 5);
  });

  test('a padded frame adds nothing to it', async () => {
    using network = await smallNetwork();
    const config = configOf(network);
    await network.startTraining({
      ...training,
      keepOutputs: true,
      keepGradients: true,
      maxGradNorm: undefined,
    });
    const noise = normals(valuesOf(config), 77);
    const batch = {
      ...denoisingBatch(config),
      timesteps: Int32Array.of(10),
      frameMask: Uint8Array.of(1, 1, 0, 0),
    };
    const { loss, prediction } = await network.evaluate({ ...batch, noise });
    const errors = Array.from(prediction ?? [], (x, i) =>
      frameOf(config, i) < 2 ? (x - (noise[i] as number)) ** 2 : 0,
    );
    expect(loss).toBeCloseTo(errors.reduce((a, b) => a + b, 0) / valuesOf(config), 5);
  });

  test.each([
    ['velocity', (a: number, n: number, x: number) => Math.sqrt(a) * n - Math.sqrt(1 - a) * x],
    ['sample', (_: number, __: number, x: number) => x],
  ] as const)('the target of %s', async (kind, targetOf) => {
    using network = await smallNetwork();
    const config = configOf(network);
    await network.startTraining({ ...training, prediction: kind, keepOutputs: true });
    const noise = normals(valuesOf(config), 77);
    const batch = { ...denoisingBatch(config), noise, timesteps: Int32Array.of(600) };
    const { loss, prediction } = await network.evaluate(batch);
    const left = alphasCumulative()[600] as number;
    const errors = Array.from(prediction ?? [], (x, i) => {
      return (x - targetOf(left, noise[i] as number, batch.latents[i] as number)) ** 2;
    });
    expect(loss).toBeCloseTo(errors.reduce((a, b) => a + b, 0) / errors.length, 5);
  });
});

describe('a step', () => {
  test('two micro-batches learn what one batch of both does', async () => {
    using apart = await smallNetwork();
    using together = await smallNetwork();
    const config = configOf(apart);
    const drawn = (clips: number, seed: number, t: number[]) => ({
      noise: normals(clips * valuesOf(config), seed),
      timesteps: Int32Array.from(t),
    });
    const [a, b] = [denoisingBatch(config, 1, 10), denoisingBatch(config, 1, 20)];
    const parts = [
      { ...a, ...drawn(1, 77, [100]) },
      { ...b, ...drawn(1, 78, [700]) },
    ] as const;
    const whole = {
      ...denoisingBatch(config, 2),
      latents: joined(a.latents, b.latents),
      text: joined(a.text, b.text),
      t5: joined(a.t5, b.t5),
      noise: joined(parts[0].noise, parts[1].noise),
      timesteps: Int32Array.of(100, 700),
    };
    const options = { ...training, keepGradients: true };
    await apart.startTraining(options);
    await together.startTraining(options);
    const [x, y] = [await apart.step(parts), await together.step(whole)];
    expect(x.loss).toBeCloseTo(y.loss, 6);
    expect(x.gradNorm).toBeCloseTo(y.gradNorm, 5);
    expect(x.clipLosses).toHaveLength(2);
    const [g, h] = [await apart.gradients(), await together.gradients()];
    for (const [name, values] of Object.entries(g))
      expect(largestDifference(values, h[name] ?? []), name).toBeLessThan(1e-5);
  });

  test('schedules: warm-up, then cosine to 0', async () => {
    using network = await smallNetwork();
    await network.startTraining({ ...training, schedule: { kind: 'cosine', warmupSteps: 2, maxSteps: 6 } });
    const rates: number[] = [];
    const batch = denoisingBatch(configOf(network));
    for (let step = 0; step < 7; step++) rates.push((await network.step(batch)).learningRate);
    const cosine = (done: number) => (1e-3 * (1 + Math.cos(Math.PI * done))) / 2;
    const expected = [0, 5e-4, cosine(0), cosine(0.25), cosine(0.5), cosine(0.75), 0];
    for (const [step, rate] of rates.entries()) expect(rate).toBeCloseTo(expected[step] as number, 12);
  });

  test('clipping scales the gradient down to its limit', async () => {
    using free = await smallNetwork();
    using clipped = await smallNetwork();
    // Without decay and with an epsilon far above the gradients an update is proportional to the gradient.
    const optimizer = { learningRate: 1, betas: [0.9, 0.999], epsilon: 1e6, weightDecay: 0 } as const;
    const options = { ...training, optimizer: { ...optimizer, betas: [0.9, 0.999] as [number, number] } };
    await free.startTraining({ ...options, maxGradNorm: undefined });
    const before = await free.read(['conv_in.weight']);
    const batch = denoisingBatch(configOf(free));
    const { gradNorm } = await free.step(batch);
    await clipped.startTraining({ ...options, maxGradNorm: gradNorm / 4 });
    expect((await clipped.step(batch)).gradNorm).toBe(gradNorm);
    const moved = async (network: Dfgn) => {
      const after = await network.read(['conv_in.weight']);
      return (after['conv_in.weight'] ?? new Float32Array()).map(
        (x, i) => x - (before['conv_in.weight']?.[i] ?? 0),
      );
    };
    const [far, near] = [await moved(free), await moved(clipped)];
    expect(Math.hypot(...near) / Math.hypot(...far)).toBeCloseTo(0.25, 1);
  });

  test('a loss that is not finite is refused and changes nothing', async () => {
    using network = await smallNetwork();
    await network.startTraining({ ...training, emaDecay: 0.9 });
    const good = denoisingBatch(configOf(network));
    await network.step(good);
    const before = { weights: await network.read(), state: await network.optimizerState() };
    const bad = { ...good, latents: good.latents.map((x, i) => (i === 5 ? Number.NaN : x)) };
    const error = await rejection(network.step([good, bad]));
    expect(error.code).toBe('NOT_FINITE');
    // Steps count from 1: one is done.
    expect(error.message).toMatch(/Expected a finite loss but that of step 2 is (nan|-nan)/);
    expect((await rejection(network.evaluate(bad, 7))).message).toMatch(
      /Expected a finite loss but that of an evaluation is (nan|-nan)/,
    );
    expect(await network.read()).toEqual(before.weights);
    expect(await network.optimizerState()).toEqual(before.state);
    using other = await smallNetwork();
    await other.startTraining({ ...training, emaDecay: 0.9 });
    await other.step(good);
    await network.step(good);
    await other.step(good);
    expect(await network.read()).toEqual(await other.read());
  });

  test('cancelled in the middle it changes nothing', async () => {
    using network = await smallNetwork();
    await network.startTraining(training);
    const before = await network.read();
    const running = network.step(denoisingBatch(configOf(network), 16));
    await new Promise((resolve) => setTimeout(resolve, 5));
    network.cancel();
    expect((await rejection(running)).code).toBe('CANCELLED');
    expect(await network.read()).toEqual(before);
  });

  test('masks and sizes that cannot be', async () => {
    using network = await smallNetwork();
    expect((await rejection(network.step([]))).message).toMatch(/Expected startTraining/);
    await network.startTraining(training);
    const batch = denoisingBatch(configOf(network));
    const said = async (changes: Partial<DenoisingBatch>) =>
      (await rejection(network.step({ ...batch, ...changes }))).message;
    expect((await rejection(network.step([]))).message).toMatch(/micro-batches but received 0/);
    expect(await said({ frameMask: new Uint8Array(4) })).toMatch(/at least one real frame in every clip/);
    expect(await said({ frameMask: new Uint8Array(3) })).toMatch(/4 values for frameMask but received 3/);
    expect(await said({ infoMask: new Uint8Array(3) })).toMatch(/4 values for infoMask but received 3/);
    expect(await said({ timesteps: Int32Array.of(1000) })).toMatch(
      /timesteps from 0 to 999 but received 1000/,
    );
    expect(await said({ noise: new Float32Array(1) })).toMatch(/values for noise but received 1/);
    expect(await said({ dropText: new Uint8Array(2) })).toMatch(/1 values for dropText but received 2/);
  });
});

describe('moving average', () => {
  test('follows the weights, and can stand in for them', async () => {
    using network = await smallNetwork();
    await network.startTraining({ ...training, emaDecay: 0.15 });
    const name = 'conv_in.weight';
    const weights = async () => (await network.read([name]))[name] ?? new Float32Array();
    const batch = denoisingBatch(configOf(network));
    let average = await weights();
    for (let t = 1; t <= 3; t++) {
      await network.step(batch);
      const decay = Math.min(0.15, (1 + t) / (10 + t)); // 2/11 is above 0.15
      const now = await weights();
      average = average.map((x, i) => decay * x + (1 - decay) * (now[i] as number));
    }
    const trained = await weights();
    await network.swapAverages();
    expect(largestDifference(await weights(), average)).toBeLessThan(1e-6);
    expect((await rejection(network.step(batch))).message).toMatch(/exchange them back/);
    await network.predict(predictionBatch(configOf(network)));
    await network.swapAverages();
    expect(await weights()).toEqual(trained);
    await network.step(batch);
  });
});

describe('resuming goes on with the same bits', () => {
  const options = {
    ...training,
    emaDecay: 0.99,
    schedule: { kind: 'cosine', warmupSteps: 1, maxSteps: 10 },
  } as const;

  async function straight(steps: number) {
    const network = await smallNetwork();
    await network.startTraining(options);
    const batch = denoisingBatch(configOf(network), 2);
    for (let step = 0; step < steps; step++) await network.step([batch, batch]);
    return { network, batch };
  }

  test('through files', async () => {
    const { network: whole, batch } = await straight(5);
    const { network: first } = await straight(3);
    const parts = ['weights', 'average', 'firstMoment', 'secondMoment'] as const;
    for (const part of parts) await first.saveFile(join(folder, `${part}.safetensors`), part);
    using second = await smallNetwork({}, { seed: 99 });
    await second.startTraining(options);
    for (const part of parts) await second.load(join(folder, `${part}.safetensors`), part);
    await second.setSteps(await first.steps());
    for (let step = 3; step < 5; step++) await second.step([batch, batch]);
    expect(await second.steps()).toBe(5);
    expect(await second.read()).toEqual(await whole.read());
    expect(await second.optimizerState()).toEqual(await whole.optimizerState());
    whole.dispose();
    first.dispose();
  });

  test('through values', async () => {
    const { network: whole, batch } = await straight(4);
    const { network: first } = await straight(3);
    using second = await smallNetwork({}, { seed: 99 });
    await second.startTraining(options);
    await second.write(await first.read());
    await second.setOptimizerState(await first.optimizerState());
    await second.step([batch, batch]);
    expect(await second.read()).toEqual(await whole.read());
    expect(await second.optimizerState()).toEqual(await whole.optimizerState());
    whole.dispose();
    first.dispose();
  });
});

test('checkpointed training is the same training', async () => {
  using plain = await smallNetwork();
  using checkpointed = await smallNetwork();
  await plain.startTraining(training);
  await checkpointed.startTraining({ ...training, checkpoint: true });
  const batch = denoisingBatch(configOf(plain), 2);
  for (let step = 0; step < 2; step++) {
    const [a, b] = [await plain.step(batch), await checkpointed.step(batch)];
    expect(b).toEqual(a);
  }
  expect(await checkpointed.read()).toEqual(await plain.read());
});
