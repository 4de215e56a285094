// What adapters and heads are before the first step, as the published program initialises them: adapter weights normal with deviation
// 0.02 and own draws for each of the three, biases 0; heads as torch.nn.Linear and LayerNorm.

import { afterAll, describe, expect, test } from 'vitest';
import { viltPreset } from '../src/models/config.js';
import { isAdapter, isHeadOf, otherAdapter } from '../src/models/names.js';
import { Vilt } from '../src/models/vilt.js';
import { temporaryFolder } from './federation-support.js';

const WIDTH = 128;
const RANK = 32;
const CLASSES = 50;
const models: Vilt[] = [];
afterAll(() => {
  for (const model of models) model.dispose();
});

function opened(changes: { seed?: number; layers?: number } = {}): Vilt {
  const { seed = 3, layers = 2 } = changes;
  const sizes = { vocab_size: 20, hidden_size: WIDTH, num_hidden_layers: layers };
  const options = { answers: CLASSES, adapters: { reduction: WIDTH / RANK }, seed, threads: 1 };
  const model = Vilt.create(viltPreset('tiny', sizes), options);
  models.push(model);
  return model;
}

const read = (model: Vilt, wanted: (name: string) => boolean) => model.read(model.names(wanted));

function moments(values: Float32Array): { mean: number; deviation: number; kurtosis: number } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const power = (n: number) => values.reduce((sum, value) => sum + (value - mean) ** n, 0) / values.length;
  return { mean, deviation: Math.sqrt(power(2)), kurtosis: power(4) / power(2) ** 2 };
}

/** Five standard errors of the mean, the deviation and the kurtosis of `count` normal draws. */
function expectNormal(values: Float32Array, deviation: number): void {
  const found = moments(values);
  const root = Math.sqrt(values.length);
  expect(Math.abs(found.mean)).toBeLessThan((5 * deviation) / root);
  expect(Math.abs(found.deviation - deviation)).toBeLessThan((5 * deviation) / (Math.SQRT2 * root));
  expect(Math.abs(found.kurtosis - 3)).toBeLessThan((5 * Math.sqrt(24)) / root);
}

/** All within the bound, some close to it on either side, and spread evenly. */
function expectUniform(values: Float32Array, bound: number): void {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  expect(Math.max(-least, most)).toBeLessThanOrEqual(Math.fround(bound));
  const close = 1 - 24 / values.length; // farther from the bound in one of 160,000 draws
  expect(Math.min(-least, most)).toBeGreaterThan(close * bound);
  expect(Math.abs(moments(values).mean)).toBeLessThan((5 * bound) / Math.sqrt(3 * values.length));
}

describe('adapters', () => {
  test('have normal weights of deviation 0.02 and biases of 0, down and up', async () => {
    const adapters = Object.entries(await read(opened(), (name) => isAdapter(name)));
    expect(adapters).toHaveLength(2 * 3 * 4);
    for (const [name, values] of adapters) {
      if (name.endsWith('.bias')) expect(values.every((value) => value === 0)).toBe(true);
      else {
        expect(values).toHaveLength(RANK * WIDTH);
        expectNormal(values, 0.02);
      }
    }
  });

  test('are drawn one by one: no two of them are alike', async () => {
    const adapters = await read(opened(), (name) => isAdapter(name) && name.endsWith('.weight'));
    const firsts = Object.values(adapters).map((values) => values[0]);
    expect(new Set(firsts).size).toBe(2 * 3 * 2);
  });

  test('depend on the seed, not on what was drawn before them', async () => {
    const wanted = (name: string) => name.startsWith('encoder.layer.0.') && isAdapter(name);
    const expected = await read(opened(), wanted);
    expect(await read(opened({ layers: 1 }), wanted)).toEqual(expected);
    const other = await read(opened({ seed: 4 }), wanted);
    const [name] = Object.keys(expected).filter((one) => one.endsWith('.weight'));
    expect(other[name!]).not.toEqual(expected[name!]);
  });

  test('of a model folder are those of its seed, whatever the weights of the encoder are', async () => {
    const folder = await temporaryFolder();
    await opened({ seed: 9 }).save(folder);
    const adapters = { reduction: WIDTH / RANK };
    using model = await Vilt.fromPretrained(folder, { adapters, seed: 3, heads: 'fresh', answers: CLASSES });
    const tunable = (name: string) => isAdapter(name) || isHeadOf(name, 'vqa');
    expect(await read(model, tunable)).toEqual(await read(opened(), tunable));
  });

  test('2 becomes a copy of 1 when a local training of FedDAT begins; 0 and 1 stay', async () => {
    const model = opened();
    const before = await read(model, (name) => isAdapter(name));
    await model.startTraining({
      method: 'feddat',
      task: 'vqa',
      optimizer: { learningRate: 1e-3, betas: [0.9, 0.98], epsilon: 1e-8, weightDecay: 0.01 },
      schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 4 },
    });
    for (const [name, values] of Object.entries(await read(model, (one) => isAdapter(one))))
      expect(values).toEqual(before[otherAdapter(name, 'adapter_2', 'adapter_1')]);
  });
});

describe('heads', () => {
  test('are uniform within 1 / sqrt(inputs), weights and biases; the norm is 1 and 0', async () => {
    const head = await read(opened(), (name) => isHeadOf(name, 'vqa'));
    const part = (name: string) => head[`task_layer.vqa.${name}`] as Float32Array;
    expect(Object.keys(head)).toHaveLength(6);
    for (const [name, inputs, size] of [
      ['clf_fc0.weight', WIDTH, 2 * WIDTH * WIDTH],
      ['clf_fc0.bias', WIDTH, 2 * WIDTH],
      ['clf_fc1.weight', 2 * WIDTH, CLASSES * 2 * WIDTH],
      ['clf_fc1.bias', 2 * WIDTH, CLASSES],
    ] as const) {
      expect(part(name)).toHaveLength(size);
      expectUniform(part(name), 1 / Math.sqrt(inputs));
    }
    expect([...part('clf_norm0.weight')]).toEqual(Array(2 * WIDTH).fill(1));
    expect([...part('clf_norm0.bias')]).toEqual(Array(2 * WIDTH).fill(0));
  });

  test('of different tasks are drawn apart, the same for a task in whatever order they are added', async () => {
    const [one, other] = [opened(), opened()];
    for (const task of ['art', 'gqa']) one.addHead(task, CLASSES);
    for (const task of ['gqa', 'art']) other.addHead(task, CLASSES);
    const firsts = new Set<number | undefined>();
    for (const task of ['vqa', 'art', 'gqa']) {
      const head = await read(one, (name) => isHeadOf(name, task));
      expect(await read(other, (name) => isHeadOf(name, task))).toEqual(head);
      firsts.add(head[`task_layer.${task}.clf_fc0.weight`]?.[0]);
    }
    expect(firsts.size).toBe(3);
  });

  test('follow the seed that is given, or that of the model', async () => {
    const weights = async (model: Vilt, seed?: number) => {
      model.addHead('art', CLASSES, seed);
      return (await read(model, (name) => name === 'task_layer.art.clf_fc1.weight'))[
        'task_layer.art.clf_fc1.weight'
      ];
    };
    const expected = await weights(opened({ seed: 5 }));
    expect(await weights(opened({ seed: 3 }), 5)).toEqual(expected);
    expect(await weights(opened({ seed: 3 }))).not.toEqual(expected);
  });
});
