// Helpers of the tests that talk to the native addon directly: a tiny model, batches, child processes.

import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import type { TrainingOptions, ViltBatch, ViltShape } from '../src/native/federated.js';
import { addonPath, type NativeAddon } from '../src/native.js';

/** The calls of the addon that only tests use. */
export interface TestedAddon extends NativeAddon {
  opNames(): string[];
}

export const addon = createRequire(import.meta.url)(addonPath()) as TestedAddon;

export function tinyShape(changes: Partial<ViltShape> = {}): ViltShape {
  return {
    vocabSize: 50,
    typeVocabSize: 2,
    maxPositionEmbeddings: 16,
    hiddenSize: 32,
    layers: 2,
    heads: 4,
    intermediateSize: 64,
    imageSize: 32,
    patchSize: 16,
    channels: 3,
    modalityTypes: 3,
    layerNormEps: 1e-12,
    hiddenDropout: 0,
    attentionDropout: 0,
    qkvBias: true,
    ...changes,
  };
}

export const CLASSES = 5;

/** A batch of `size` samples with full masks; every value is a function of its place. */
export function tinyBatch(shape: ViltShape, size = 2): ViltBatch {
  const { imageSize, channels, vocabSize } = shape;
  const textLength = 6;
  const pixels = imageSize * imageSize;
  const from = (length: number, value: (index: number) => number) =>
    Array.from({ length }, (_, i) => value(i));
  return {
    batch: size,
    textLength,
    height: imageSize,
    width: imageSize,
    inputIds: Int32Array.from(from(size * textLength, (i) => (i * 7) % vocabSize)),
    tokenTypeIds: new Int32Array(size * textLength),
    attentionMask: new Uint8Array(size * textLength).fill(1),
    pixelValues: Float32Array.from(from(size * channels * pixels, (i) => Math.sin(i))),
    pixelMask: new Uint8Array(size * pixels).fill(1),
    targets: Float32Array.from(from(size * CLASSES, (i) => (i % CLASSES === 3 ? 1 : 0))),
  };
}

export const training: TrainingOptions = {
  method: 'feddat',
  task: 'test',
  optimizer: { learningRate: 1e-3, betas: [0.9, 0.98], epsilon: 1e-8, weightDecay: 0.01 },
  schedule: { kind: 'linear', warmupSteps: 0, maxSteps: 1000 },
};

/** A model with adapters and a head, ready to train. */
export async function trainableModel(shape = tinyShape(), threads = 1) {
  const model = new addon.Vilt(shape, { seed: 1, threads });
  model.addAdapters(8, 1);
  model.addHead(training.task, CLASSES, 1);
  await model.startTraining(training);
  return model;
}

/** The error that a promise rejects with. */
export async function rejection(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error('Expected a rejection but the promise resolved');
}

/** Runs garbage collections until finalizers have had their turn. */
export async function collectGarbage(): Promise<void> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  for (let round = 0; round < 3; round++) {
    collect();
    await setImmediate();
  }
}

/**
 * What every script in a child process or a worker begins with: `addon`, `shape`, `batch` and `trainable()`, in plain JavaScript.
 * The model takes a few tenths of a second a step, so that a step is under way when the script goes on.
 */
export function script(
  body: string,
  shape = tinyShape({ hiddenSize: 256, layers: 4, imageSize: 160 }),
): string {
  const { pixelValues: _values, pixelMask: _mask, ...small } = tinyBatch(shape, 4);
  const plain = JSON.stringify({ shape, small, training, classes: CLASSES }, (_key, value: unknown) =>
    ArrayBuffer.isView(value)
      ? { typedArray: value.constructor.name, values: Array.from(value as Uint8Array) }
      : value,
  );
  return `
    const { shape, small, training, classes } = JSON.parse(${JSON.stringify(plain)}, (key, value) =>
      value && value.typedArray ? globalThis[value.typedArray].from(value.values) : value);
    const addonFile = ${JSON.stringify(addonPath())};
    const addon = require(addonFile);
    const pixels = 4 * shape.imageSize ** 2;
    const pixelMask = new Uint8Array(pixels).fill(1), pixelValues = new Float32Array(3 * pixels).fill(0.5);
    const batch = { ...small, pixelMask, pixelValues };
    async function trainable() {
      const model = new addon.Vilt(shape, { seed: 1, threads: 1 });
      model.addAdapters(8, 1);
      model.addHead(training.task, classes, 1);
      await model.startTraining(training);
      return model;
    }
    ${body}`;
}

export interface ScriptOptions {
  flags?: string[];
  /** A line of bash before Node takes over, e.g. a ulimit. */
  shell?: string;
  env?: Record<string, string>;
  /** Without the beginning that other scripts have: the addon is not loaded. */
  plain?: boolean;
}

/** Runs a script in a process of its own. */
export function runScript(body: string, options: ScriptOptions = {}) {
  const { flags = [], shell = '', plain = false } = options;
  const command = `${shell}\nexec "$0" "$@"`;
  const args = ['-c', command, process.execPath, ...flags, '-e', plain ? body : script(body)];
  const env = { ...process.env, NODE_OPTIONS: '', ...options.env };
  const run = spawnSync('bash', args, { encoding: 'utf8', env, timeout: 100_000 });
  return { status: run.status, signal: run.signal, stdout: run.stdout, stderr: run.stderr };
}
