// Models small enough for a double-precision reference, with every weight away from 0 and 1, and batches made of single
// samples, so that the same samples can be padded in different ways.

import { afterAll, expect } from 'vitest';
import type { Tensors } from '../../../src/native/core.js';
import type {
  AdapterMode,
  NativeVilt,
  NativeViltOptions,
  StepResult,
  TrainingOptions,
  ViltBatch,
  ViltShape,
} from '../../../src/native/federated.js';
import { native } from '../../../src/native.js';
import { tinyShape } from '../../native-support.js';
import { centralDifference, expectEachClose, FP32, places } from './check.js';
import { largest, normals, sizeOf, uniform } from './numbers.js';
import type { Parameters } from './vilt.js';

export const TASK = 'pets';
export const CLASSES = 5;

export function smallShape(changes: Partial<ViltShape> = {}): ViltShape {
  return tinyShape({
    vocabSize: 30,
    maxPositionEmbeddings: 12,
    hiddenSize: 12,
    heads: 3,
    intermediateSize: 20,
    imageSize: 12,
    patchSize: 4,
    modalityTypes: 2,
    ...changes,
  });
}

const open: NativeVilt[] = [];
afterAll(() => {
  for (const model of open) model.dispose();
});

function drawn(name: string, shape: number[], seed: number): Float32Array {
  const count = sizeOf(shape);
  if (/norm\w*\.weight$/i.test(name)) return normals(count, seed, 0.2, 1);
  // Adapters' relus are mostly open, so that none of them goes without a gradient.
  if (name.endsWith('_down.bias')) return normals(count, seed, 0.2, 0.7);
  if (name.endsWith('bias')) return normals(count, seed, 0.2);
  if (name.includes('embeddings') && !name.includes('projection')) return normals(count, seed, 0.5);
  return normals(count, seed, 1 / Math.sqrt(count / shape[0]!));
}

/**
 * A model with adapters of width hidden / 4 and a head, all of it drawn from `seed`. On one thread: at these sizes a second
 * one only waits. Disposed after the tests of the file.
 */
export async function smallModel(
  shape: ViltShape,
  options: NativeViltOptions = {},
  seed = 1,
): Promise<NativeVilt> {
  const model = new native.Vilt(shape, { seed: 1, threads: 1, ...options });
  open.push(model);
  model.addAdapters(4, 1);
  model.addHead(TASK, CLASSES, 1);
  const parameters = model.parameters();
  await model.write(
    Object.fromEntries(parameters.map((p, i) => [p.name, drawn(p.name, p.shape, 1000 * seed + i)])),
  );
  return model;
}

export const readAll = (model: NativeVilt): Promise<Tensors> =>
  model.read(model.parameters().map((p) => p.name));

export function inDouble(values: Tensors): Parameters {
  return Object.fromEntries(Object.entries(values).map(([name, data]) => [name, Float64Array.from(data)]));
}

export const MODES: AdapterMode[] = ['none', 'adapter_0', 'adapter_1', 'gated'];

/** Models that differ in one thing each. */
export const settings: { name: string; changes: Partial<ViltShape> }[] = [
  { name: 'two layers', changes: {} },
  { name: 'one layer', changes: { layers: 1 } },
  { name: 'no bias of queries, keys and values', changes: { qkvBias: false } },
  { name: 'three modality types', changes: { modalityTypes: 3 } },
  { name: 'one head, one channel', changes: { heads: 1, channels: 1 } },
  { name: 'pictures of one patch', changes: { imageSize: 4, maxPositionEmbeddings: 10, typeVocabSize: 1 } },
  { name: 'odd sizes', changes: { hiddenSize: 15, heads: 5, intermediateSize: 17, layers: 3 } },
  { name: 'a wide norm epsilon', changes: { layerNormEps: 0.1 } },
];

/** Options of a training at a constant rate; tests change what they are about. */
export const training: TrainingOptions = {
  method: 'feddat',
  task: TASK,
  optimizer: { learningRate: 1e-3, betas: [0.9, 0.98], epsilon: 1e-8, weightDecay: 0.1 },
  schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 1000 },
};

export interface Sample {
  ids: number[];
  types: number[];
  height: number;
  width: number;
  /** [channels * height * width] */
  pixels: Float32Array;
  targets: number[];
}

/** A sample of this many tokens and pixels, drawn from `seed`. */
export function sample(
  shape: ViltShape,
  tokens: number,
  height: number,
  width: number,
  seed: number,
): Sample {
  const draw = uniform(seed);
  const integers = (count: number, below: number) =>
    Array.from({ length: count }, () => Math.floor(draw() * below));
  return {
    ids: integers(tokens, shape.vocabSize),
    types: integers(tokens, shape.typeVocabSize),
    height,
    width,
    pixels: normals(shape.channels * height * width, seed),
    targets: Array.from({ length: CLASSES }, () => [0, 0, 0.3, 0.6, 1][Math.floor(draw() * 5)]!),
  };
}

/** Three samples of different lengths and picture shapes, one of them larger than the position table. */
export function threeSamples(shape: ViltShape): Sample[] {
  const p = shape.patchSize;
  return [
    sample(shape, 7, 3 * p, 2 * p, 1),
    sample(shape, 1, p, 4 * p, 2),
    sample(shape, 10, 5 * p, 3 * p, 3),
  ];
}

export interface Padding {
  textLength?: number;
  height?: number;
  width?: number;
  /** What stands in padded pixels; default 0. */
  pixel?: () => number;
  /** What stands in padded tokens; default 0. */
  token?: () => number;
}

/** Samples as one batch, padded to the largest of them or more. */
export function collate(shape: ViltShape, samples: Sample[], padding: Padding = {}): ViltBatch {
  const most = (of: (s: Sample) => number) => Math.max(...samples.map(of));
  const textLength = padding.textLength ?? most((s) => s.ids.length);
  const height = padding.height ?? most((s) => s.height);
  const width = padding.width ?? most((s) => s.width);
  const { pixel = () => 0, token = () => 0 } = padding;
  const tokens = samples.length * textLength;
  const pixels = samples.length * height * width;
  const batch = {
    batch: samples.length,
    textLength,
    height,
    width,
    inputIds: Int32Array.from({ length: tokens }, token),
    tokenTypeIds: Int32Array.from({ length: tokens }, () => token() % shape.typeVocabSize),
    attentionMask: new Uint8Array(tokens),
    pixelValues: Float32Array.from({ length: pixels * shape.channels }, pixel),
    pixelMask: new Uint8Array(pixels),
    targets: Float32Array.from(samples.flatMap((s) => s.targets)),
  };
  for (const [i, s] of samples.entries()) {
    batch.inputIds.set(s.ids, i * textLength);
    batch.tokenTypeIds.set(s.types, i * textLength);
    batch.attentionMask.fill(1, i * textLength, i * textLength + s.ids.length);
    for (let y = 0; y < s.height; y++) {
      const begin = (i * height + y) * width;
      batch.pixelMask.fill(1, begin, begin + s.width);
      for (let c = 0; c < shape.channels; c++) {
        const line = s.pixels.subarray((c * s.height + y) * s.width, (c * s.height + y + 1) * s.width);
        batch.pixelValues.set(line, ((i * shape.channels + c) * height + y) * width);
      }
    }
  }
  return batch;
}

/**
 * Gradients against central differences of a reference loss: the largest element of every one and `others` more. Tolerance
 * against the largest element: the gradient has passed some thirty fp32 ops, each off by a few u of its own size. A gradient
 * that cancels (that of key biases is 0) counts as 1e-3 of the largest of all.
 */
export function expectGradients(
  gradients: Tensors,
  p: Parameters,
  loss: () => number,
  { others = 1, tolerance = 1e-4 } = {},
): void {
  const least = 1e-3 * Math.max(...Object.values(gradients).map(largest));
  for (const [name, gradient] of Object.entries(gradients)) {
    const most = largest(gradient);
    const top = gradient.findIndex((value) => Math.abs(value) === most);
    const chosen = [top, ...places(gradient.length, others, name.length).slice(0, others)];
    const wanted = chosen.map((i) => centralDifference(p[name]!, i, loss));
    const got = chosen.map((i) => gradient[i]!);
    expectEachClose(got, wanted, 0, `gradient of ${name}`, tolerance * Math.max(most, least));
  }
}

/** What a training leaves behind: the result of every step, the parameters and the optimizer's state. */
export interface Run {
  results: StepResult[];
  parameters: Tensors;
  state: Tensors;
}

/**
 * Runs whose products add in different orders. Losses and averages of gradients agree to FP32. Adam divides a gradient by
 * its own size, so an element whose gradient is near the rounding of its tensor may take another step: an update is at
 * most the sum of the learning rates, and all but 1 % of the elements agree to 1e-3 of it.
 */
export function expectNearRuns(actual: Run, expected: Run): void {
  const losses = ({ results }: Run) =>
    results.flatMap(({ loss, feddat }) => [loss, ...Object.values(feddat ?? {})]);
  expectEachClose(losses(actual), losses(expected), FP32, 'losses', 1e-6);
  expect(actual.results.map((r) => r.learningRates)).toEqual(expected.results.map((r) => r.learningRates));
  expect(actual.results.map((r) => r.correct)).toEqual(expected.results.map((r) => r.correct));
  const moved = expected.results.flatMap((r) => r.learningRates).reduce((a, b) => a + b, 0);
  let [different, count] = [0, 0];
  for (const [name, values] of Object.entries(expected.parameters)) {
    const distances = values.map((value, i) => Math.abs(value - actual.parameters[name]![i]!));
    expect(largest(distances), name).toBeLessThan(2 * moved);
    different += distances.filter(
      (distance, i) => distance > 1e-3 * moved + 1e-6 * Math.abs(values[i]!),
    ).length;
    count += values.length;
  }
  expect(different / count).toBeLessThan(0.01);
  const tops: Record<string, number> = {};
  const kind = (name: string) => name.slice(name.lastIndexOf('.'));
  for (const [name, values] of Object.entries(expected.state))
    tops[kind(name)] = Math.max(tops[kind(name)] ?? 0, largest(values));
  for (const [name, values] of Object.entries(expected.state)) {
    expectEachClose(
      actual.state[name]!,
      values,
      0,
      name,
      10 * FP32 * Math.max(largest(values), 1e-3 * tops[kind(name)]!),
    );
  }
}
