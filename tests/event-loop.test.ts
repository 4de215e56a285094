// Native work never stops the event loop, runs in the order in which it was asked for, and leaves
// files and pictures to other threads.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { NativeVilt, ViltBatch } from '../src/native/federated.js';
import { addon, rejection, tinyBatch, tinyShape, trainableModel } from './native-support.js';

let model: NativeVilt;
let batch: ViltBatch;
let folder = '';

beforeAll(async () => {
  const shape = tinyShape({ hiddenSize: 256, layers: 6, imageSize: 160 });
  model = await trainableModel(shape);
  batch = tinyBatch(shape, 8);
  folder = await mkdtemp(join(tmpdir(), 'duet-loop-'));
});
afterAll(async () => {
  model.dispose();
  await rm(folder, { recursive: true, force: true });
});

describe('during a training step', () => {
  test('timers go on', async () => {
    const gapsMs: number[] = [];
    let last = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      gapsMs.push(now - last);
      last = now;
    }, 2);
    const begin = performance.now();
    let steps = 0;
    for (; performance.now() - begin < 1000; steps++) await model.step(batch);
    const stepMs = (performance.now() - begin) / steps;
    clearInterval(timer);
    gapsMs.sort((a, b) => a - b);
    const [usual, longest] = [gapsMs[Math.floor(gapsMs.length * 0.9)] ?? Infinity, gapsMs.at(-1) ?? Infinity];
    console.log(
      `${steps} steps of ${stepMs.toFixed(0)} ms, ${gapsMs.length} ticks; 90 % of the gaps below ${usual.toFixed(1)} ms, ` +
        `the longest ${longest.toFixed(1)} ms`,
    );
    // Blocking calls would leave about one tick a step.
    expect(gapsMs.length).toBeGreaterThan(10 * steps);
    expect(usual).toBeLessThan(stepMs / 4);
  });

  test('the call itself returns at once', async () => {
    const begin = performance.now();
    const step = model.step(batch);
    const callMs = performance.now() - begin;
    await step;
    expect(callMs).toBeLessThan((performance.now() - begin) / 2);
  });

  test('files and pictures do not wait for it', async () => {
    const path = join(folder, 'a.safetensors');
    const order: string[] = [];
    const named = (name: string, promise: Promise<unknown>) => promise.then(() => order.push(name));
    const data = new Float32Array([1]);
    const spec = { shortestEdge: 32, longestEdge: 0, sizeDivisor: 32, resize: true, rescaleFactor: 1 / 255 };
    const picture = { rgb: new Uint8Array(40 * 30 * 3), width: 40, height: 30 };
    await Promise.all([
      named('steps', Promise.all([1, 2, 3, 4].map(() => model.step(batch)))),
      named('write', addon.writeSafetensors(path, { a: { dtype: 'f32', shape: [1], data } }, {})),
      named('pictures', addon.preparePictures([picture], { ...spec, mean: [0, 0, 0], std: [1, 1, 1] })),
      named('resize', addon.resizePicture(picture.rgb, 40, 30, 20, 10)),
    ]);
    expect(order).toHaveLength(4);
    expect(order.at(-1)).toBe('steps');
  });

  test('what is asked for later settles later', async () => {
    const order: number[] = [];
    const jobs = [
      () => model.step(batch),
      () => addon.weightedAverage([new Float32Array(3)], [1]),
      () => model.evaluate(batch, 'nobody', 'none'),
      () => model.read(['pooler.dense.bias']),
      () => addon.productRate(8, 8, 8, 'f32'),
    ];
    const settled = (index: number) => () => order.push(index);
    await Promise.all(jobs.map((job, index) => job().then(settled(index), settled(index))));
    expect(order).toEqual([0, 1, 2, 3, 4]);
  });
});

describe('a failed promise', () => {
  test('has the stack of the call, a code and words', async () => {
    async function theCaller() {
      return await model.evaluate(batch, 'nobody', 'none');
    }
    const error = await rejection(theCaller());
    expect(error.code).toBe('NOT_FOUND');
    expect(error.stack).toContain('theCaller');
    expect(error.stack?.startsWith(`Error: ${error.message}\n`)).toBe(true);
  });

  test('is also how wrong arguments are told: nothing is thrown at once', async () => {
    const promise = model.step({} as ViltBatch);
    expect((await rejection(promise)).message).toMatch(
      /^Expected integer between 1 and \d+ for batch.batch but received nothing$/,
    );
  });
});

describe('cancel', () => {
  test('rejects what has not settled, also what waits, and the model stays of use', async () => {
    const before = await model.read(['task_layer.test.clf_fc1.bias']);
    const calls = [model.step(batch), model.step(batch), model.read(['pooler.dense.bias'])];
    const outcomes = Promise.allSettled(calls);
    await sleep(20);
    (model as NativeVilt & { cancel(): void }).cancel();
    const reasons = (await outcomes).map(
      (outcome) => (outcome as PromiseRejectedResult).reason as { code: string },
    );
    expect(reasons.map((reason) => reason.code)).toEqual(['CANCELLED', 'CANCELLED', 'CANCELLED']);
    // A step that was stopped before its update has changed nothing.
    expect(await model.read(['task_layer.test.clf_fc1.bias'])).toEqual(before);
    expect((await model.step(batch)).loss).toBeGreaterThan(0);
  });
});
