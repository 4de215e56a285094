// A tiny ViLT and four batches, trained by the native step: what a run gives, and whether two runs are the same.

import { expect } from 'vitest';
import type { Tensors } from '../../src/native/core.js';
import type { NativeVilt, TrainingOptions } from '../../src/native/federated.js';
import { expectSame } from './reference/check.js';
import {
  collate,
  training as constant,
  type Run,
  readAll,
  sample,
  smallModel,
  smallShape,
  threeSamples,
} from './reference/small-vilt.js';

export const shape = smallShape();
export const batch = collate(shape, threeSamples(shape));
export const batches = [1, 2, 3, 4].map((seed) =>
  collate(shape, [sample(shape, 5, 12, 8, 10 * seed), sample(shape, 8, 4, 16, 10 * seed + 1)]),
);

export const training: TrainingOptions = {
  ...constant,
  schedule: { kind: 'linear', warmupSteps: 2, maxSteps: 20 },
};

export const inHead = (name: string) => name.startsWith('task_layer.');
export const inAdapter = (name: string, adapter: number) => name.includes(`.adapter_${adapter}_`);
export const norm = (gradients: Tensors) =>
  Math.hypot(
    ...Object.values(gradients).map((g) => Math.sqrt(g.reduce((sum, value) => sum + value * value, 0))),
  );

export async function started(
  options: Partial<TrainingOptions> = {},
  seed = 1,
  changes = {},
): Promise<NativeVilt> {
  const model = await smallModel(smallShape(changes), {}, seed);
  await model.startTraining({ ...training, ...options });
  return model;
}

export async function run(options: Partial<TrainingOptions> = {}, changes = {}): Promise<Run> {
  const model = await started(options, 1, changes);
  const results = [];
  for (const one of batches) results.push(await model.step(one));
  return { results, parameters: await readAll(model), state: await model.optimizerState() };
}

export function expectSameTensors(actual: Tensors, expected: Tensors): void {
  expect(Object.keys(actual)).toEqual(Object.keys(expected));
  for (const [name, values] of Object.entries(expected)) expectSame(actual[name]!, values, name);
}

export function expectSameRuns(actual: Run, expected: Run): void {
  expect(actual.results).toEqual(expected.results);
  expectSameTensors(actual.parameters, expected.parameters);
  expectSameTensors(actual.state, expected.state);
}
