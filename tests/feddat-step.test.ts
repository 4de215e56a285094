// One batch of local training: the FedDAT step in its two orders against a plain double-precision one, and the plain step of
// the baselines.

import { afterAll, describe, expect, test } from 'vitest';
import type { Tensors } from '../src/native/core.js';
import type { TrainingOptions } from '../src/native/federated.js';
import { native } from '../src/native.js';
import { expectClose, expectEachClose, FP32 } from './support/reference/check.js';
import { binary, mutual } from './support/reference/loss.js';
import { AdamW, withoutDecay } from './support/reference/optimizer.js';
import {
  CLASSES,
  collate,
  expectGradients,
  expectNearRuns,
  inDouble,
  type Run,
  readAll,
  sample,
  smallModel,
  smallShape,
  TASK,
  threeSamples,
} from './support/reference/small-vilt.js';
import { logitsOf, type Parameters } from './support/reference/vilt.js';
import {
  batch,
  batches,
  expectSameRuns,
  expectSameTensors,
  inAdapter,
  inHead,
  norm,
  run,
  shape,
  started,
  training,
} from './support/training-runs.js';

describe.each(['merged', 'published'] as const)(
  'the %s order against a plain step in double precision',
  (order) => {
    const options = {
      ...training,
      order,
      keepGradients: true,
      keepOutputs: true,
      schedule: { ...training.schedule, warmupSteps: 0 },
    };

    /** Everything of one step, and the parameters as they were before each of its two losses. */
    async function oneStep() {
      const model = await started(options);
      const p = inDouble(await readAll(model));
      const result = await model.step(batch);
      const gradients = await model.gradients();
      const of = (update: number): Tensors => {
        const prefix = `update_${update}.`;
        const own = Object.entries(gradients).filter(([name]) => name.startsWith(prefix));
        return Object.fromEntries(own.map(([name, values]) => [name.slice(prefix.length), values]));
      };
      return { model, p, result, first: of(1), second: of(0) };
    }

    /** AdamW on every parameter in `gradients`, from the native gradients. */
    function update(
      p: Parameters,
      states: Map<string, AdamW>,
      gradients: Tensors,
      learningRate: number,
    ): void {
      for (const [name, gradient] of Object.entries(gradients)) {
        if (!states.has(name)) states.set(name, new AdamW(p[name]!));
        const weightDecay = withoutDecay(name) ? 0 : training.optimizer.weightDecay;
        states.get(name)!.update(gradient, { ...training.optimizer, learningRate, weightDecay });
        p[name]!.set(states.get(name)!.value);
      }
    }

    test('losses, logits, gradients, updates and optimizer state', async () => {
      const { model, p, result, first, second } = await oneStep();
      const targets = batch.targets!;
      const logits = (mode: 'gated' | 'adapter_1') => logitsOf(shape, p, batch, TASK, mode);
      const [logitsAll, logits1] = [logits('gated'), logits('adapter_1')];
      expectClose(result.logitsAll!, logitsAll, FP32, 'logits of the teacher');
      expectClose(result.logits1!, logits1, FP32, 'logits of adapter 1');
      const one = mutual(logits1, targets, logitsAll, 3, 3);
      const names = Object.keys(p);
      const states = new Map<string, AdamW>();

      expect(Object.keys(first).sort()).toEqual(names.filter((n) => inHead(n) || inAdapter(n, 1)).sort());
      expectGradients(first, p, () => mutual(logits('adapter_1'), targets, logitsAll, 3, 3).loss);
      update(p, states, first, result.learningRates[0]!);

      const logits0 = logits('gated'); // with the head after its first update
      expectClose(result.logits0!, logits0, FP32, 'logits of the gated adapters');
      const zero = mutual(logits0, targets, logits1, 3, 3);
      expect(Object.keys(second).sort()).toEqual(names.filter((n) => inHead(n) || inAdapter(n, 0)).sort());
      expectGradients(second, p, () => mutual(logits('gated'), targets, logits1, 3, 3).loss);
      update(p, states, second, result.learningRates[1]!);

      const wanted = {
        bce1: one.bce,
        kl1: one.kl,
        loss1: one.loss,
        bce0: zero.bce,
        kl0: zero.kl,
        loss0: zero.loss,
      };
      for (const [name, value] of Object.entries(wanted)) {
        expectEachClose([result.feddat![name as 'kl1']], [value], FP32, name, 1e-6);
      }
      expect(result.loss).toBe(result.feddat!.loss1);
      // From the same gradients an update is a handful of fp32 roundings of numbers of the size of the parameter.
      const after = await readAll(model);
      for (const name of names) expectClose(after[name]!, p[name]!, 1e-6, name);
      const state = await model.optimizerState();
      for (const [name, s] of states) {
        expectClose(state[`${name}.exp_avg`]!, s.average, 1e-6, `${name}.exp_avg`);
        expectClose(state[`${name}.exp_avg_sq`]!, s.averageSquare, 1e-6, `${name}.exp_avg_sq`);
        expect([...state[`${name}.step`]!]).toEqual([s.step]);
      }
      expect(Object.keys(state).length).toBe(3 * states.size + 2);
      expect([...state['schedule.step']!, ...state['schedule.batch']!]).toEqual([2, 1]);
    });

    test('the score at the highest logit of the teacher before the update', async () => {
      const { result } = await oneStep();
      const score = [0, 1, 2].map((row) => {
        const line = [...result.logitsAll!.subarray(row * CLASSES, (row + 1) * CLASSES)];
        return batch.targets![row * CLASSES + line.indexOf(Math.max(...line))]!;
      });
      expect(result.correct).toBeCloseTo(
        score.reduce((a, b) => a + b),
        6,
      );
    });

    test('another temperature', async () => {
      const model = await started({ ...options, temperature: 0.7 });
      const p = inDouble(await readAll(model));
      const { feddat, logits1 } = await model.step(batch);
      const wanted = mutual(logits1!, batch.targets!, logitsOf(shape, p, batch, TASK, 'gated'), 3, 0.7);
      expectEachClose([feddat!.kl1, feddat!.loss1], [wanted.kl, wanted.loss], 10 * FP32, 'kl and loss');
    });
  },
);

describe('orders', () => {
  test('merged and published give the same training', async () => {
    expectNearRuns(await run({ order: 'merged' }), await run({ order: 'published' }));
  });

  test('merged is the default, and really another order', async () => {
    const merged = await run({ order: 'merged' });
    expectSameRuns(await run(), merged);
    expect(merged.results[0]!.gradNorm).toBeUndefined();
  });

  // What merged cannot do exactly is done as published.
  test.each([
    { name: 'clipping', options: { maxGradNorm: 0.5 } },
    { name: 'gradients cleared to zero', options: { clearGradients: 'zero' as const } },
    { name: 'hidden dropout', changes: { hiddenDropout: 0.1 } },
    { name: 'attention dropout', changes: { attentionDropout: 0.1 } },
  ])('with $name both are the published one', async ({ options = {}, changes = {} }) => {
    const published = await run({ ...options, order: 'published' }, changes);
    expectSameRuns(await run({ ...options, order: 'merged' }, changes), published);
    expect(published.results[0]!.gradNorm).toBeGreaterThan(0);
  });

  test('a single sample, and equal samples', async () => {
    for (const samples of [threeSamples(shape).slice(0, 1), new Array(3).fill(threeSamples(shape)[1]!)]) {
      const one = collate(shape, samples);
      const losses = [];
      for (const order of ['merged', 'published'] as const)
        losses.push((await (await started({ order })).step(one)).feddat!);
      expectEachClose(Object.values(losses[0]!), Object.values(losses[1]!), FP32, 'losses', 1e-6);
    }
  });
});

describe('a batch that adapter 1 goes through in several parts', () => {
  // About 1900 rows, in three parts of 768 or less that end within samples' patterns.
  const p = shape.patchSize;
  const samples = Array.from({ length: 151 }, (_, i) =>
    sample(shape, 1 + (i % 10), p * (1 + (i % 5)), p * (1 + (i % 3)), i),
  );
  const many = collate(shape, samples);
  const step = async (order: 'merged' | 'published') => {
    const model = await started({ order, keepOutputs: true });
    const results = [await model.step(many), await model.step(batch)];
    return { results, parameters: await readAll(model), state: await model.optimizerState() };
  };

  test('gives the training of the published order', async () => {
    const merged = await step('merged');
    expectNearRuns(merged, await step('published'));
    expect(merged.results[0]!.logits1).toHaveLength(samples.length * CLASSES);
  });

  test('what is not finite in the last part stops the step before anything moves', async () => {
    const model = await started();
    const before = await readAll(model);
    const broken = { ...many, pixelValues: many.pixelValues.slice() };
    broken.pixelValues.fill(Number.NaN, -shape.channels * many.height * many.width);
    await expect(model.step(broken)).rejects.toMatchObject({ code: 'NOT_FINITE' });
    expectSameTensors(await readAll(model), before);
    const clean = await started();
    expect(await model.step(batch)).toEqual(await clean.step(batch));
  });
});

describe('losses that are not finite', () => {
  const poisoned = { ...batch, pixelValues: batch.pixelValues.slice().fill(Number.NaN, 0, 1) };
  const cases: [string, Partial<TrainingOptions>, RegExp][] = [
    ['merged', {}, /L_1/],
    ['published', { order: 'published' }, /L_1/],
    ['single', { method: 'single' }, /loss is.*nan/i],
    ['full', { method: 'full' }, /loss is.*nan/i],
  ];

  test.each(cases)(
    '%s: NaN pixels stop the step before anything moves, and training can go on',
    async (_name, options, says) => {
      const [one, other] = [await started(options), await started(options)];
      for (const model of [one, other]) {
        await model.step(batches[0]!);
        if (model === other) {
          const error = { code: 'NOT_FINITE', message: expect.stringMatching(says) };
          await expect(model.step(poisoned)).rejects.toMatchObject(error);
        }
        await model.step(batches[1]!);
      }
      expectSameTensors(await readAll(other), await readAll(one));
      expectSameTensors(await other.optimizerState(), await one.optimizerState());
    },
  );

  test.each(['merged', 'published'] as const)(
    '%s: a teacher that is NaN is the fault of L_1',
    async (order) => {
      const model = await started({ order });
      const name = 'encoder.layer.1.output.adapter.adapter_0_up.bias';
      await model.write({ [name]: new Float32Array(12).fill(Number.NaN) });
      const before = await readAll(model);
      const error = { code: 'NOT_FINITE', message: expect.stringMatching(/L_1/) };
      await expect(model.step(batch)).rejects.toMatchObject(error);
      expectSameTensors(await readAll(model), before);
    },
  );

  test.each(['merged', 'published'] as const)(
    '%s: a head that the first update blew up is found in L_0',
    async (order) => {
      const optimizer = { ...training.optimizer, learningRate: 1e30 };
      const model = await started({
        order,
        optimizer,
        schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 1 },
      });
      const error = { code: 'NOT_FINITE', message: expect.stringMatching(/L_0/) };
      await expect(model.step(batch)).rejects.toMatchObject(error);
    },
  );

  test('NaN and infinite targets', async () => {
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const model = await started();
      const targets = batch.targets!.slice().fill(value, 3, 4);
      await expect(model.step({ ...batch, targets })).rejects.toMatchObject({ code: 'NOT_FINITE' });
    }
  });
});

describe('the single method', () => {
  test.each(['adapter_0', 'adapter_1', 'none'] as const)(
    '%s: loss and gradients of that adapter and the head',
    async (adapter) => {
      const model = await started({ method: 'single', adapter, keepGradients: true, keepOutputs: true });
      const p = inDouble(await readAll(model));
      const logits = () => logitsOf(shape, p, batch, TASK, adapter);
      const loss = () => binary(logits(), batch.targets!, 3).loss;
      const result = await model.step(batch);
      expectClose(result.logits1!, logits(), FP32, 'logits');
      expectEachClose([result.loss], [loss()], FP32, 'loss');
      expect(result.bce).toBe(result.loss);
      expect(result.feddat).toBeUndefined();
      const gradients = Object.fromEntries(
        Object.entries(await model.gradients()).map(([name, values]) => [
          name.replace('update.', ''),
          values,
        ]),
      );
      const wanted = Object.keys(p).filter((n) => inHead(n) || n.includes(`.${adapter}_`));
      expect(Object.keys(gradients).sort()).toEqual(wanted.sort());
      expectGradients(gradients, p, loss);
      expectEachClose([result.gradNorm!], [norm(gradients)], 1e-5, 'norm');
    },
  );
});

describe('threads', () => {
  const wide = smallShape({ hiddenSize: 48, heads: 4, intermediateSize: 192 });
  const large = collate(wide, [...threeSamples(wide), sample(wide, 12, 40, 40, 9)]);
  afterAll(() => native.setThreads(0));

  async function with_(threads: number, options: Partial<TrainingOptions>): Promise<Run> {
    native.setThreads(threads);
    const model = await smallModel(wide, { threads: 0 });
    await model.startTraining({ ...training, ...options });
    const results = [await model.step(large), await model.step(large)];
    return { results, parameters: await readAll(model), state: await model.optimizerState() };
  }

  test.each([
    ['merged', {}],
    ['published', { order: 'published' }],
    ['full', { method: 'full' }],
  ] as [string, Partial<TrainingOptions>][])(
    '%s: one number of threads, the same bits; another, the same but for rounding',
    async (_name, options) => {
      const two = await with_(2, options);
      expectSameRuns(await with_(2, options), two);
      expectNearRuns(await with_(1, options), two);
    },
  );
});
