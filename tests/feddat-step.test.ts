// One batch of local training: the FedDAT step in its two orders against a plain double-precision one, its options, what
// it keeps for resuming, and the plain step of the baselines.

import { afterAll, describe, expect, test } from 'vitest';
import { type NativeVilt, native, type Tensors, type TrainingOptions } from '../src/native.js';
import { expectClose, expectEachClose, expectSame, FP32 } from './support/reference/check.js';
import { binary, mutual } from './support/reference/loss.js';
import { largest } from './support/reference/numbers.js';
import { AdamW, learningRateAt, withoutDecay } from './support/reference/optimizer.js';
import {
  CLASSES,
  collate,
  training as constant,
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

const shape = smallShape();
const batch = collate(shape, threeSamples(shape));
const batches = [1, 2, 3, 4].map((seed) =>
  collate(shape, [sample(shape, 5, 12, 8, 10 * seed), sample(shape, 8, 4, 16, 10 * seed + 1)]),
);

const training: TrainingOptions = { ...constant, schedule: { kind: 'linear', warmupSteps: 2, maxSteps: 20 } };

const inHead = (name: string) => name.startsWith('task_layer.');
const inAdapter = (name: string, adapter: number) => name.includes(`.adapter_${adapter}_`);
const norm = (gradients: Tensors) =>
  Math.hypot(
    ...Object.values(gradients).map((g) => Math.sqrt(g.reduce((sum, value) => sum + value * value, 0))),
  );

async function started(options: Partial<TrainingOptions> = {}, seed = 1, changes = {}): Promise<NativeVilt> {
  const model = await smallModel(smallShape(changes), {}, seed);
  await model.startTraining({ ...training, ...options });
  return model;
}

async function run(options: Partial<TrainingOptions> = {}, changes = {}): Promise<Run> {
  const model = await started(options, 1, changes);
  const results = [];
  for (const one of batches) results.push(await model.step(one));
  return { results, parameters: await readAll(model), state: await model.optimizerState() };
}

function expectSameTensors(actual: Tensors, expected: Tensors): void {
  expect(Object.keys(actual)).toEqual(Object.keys(expected));
  for (const [name, values] of Object.entries(expected)) expectSame(actual[name]!, values, name);
}

function expectSameRuns(actual: Run, expected: Run): void {
  expect(actual.results).toEqual(expected.results);
  expectSameTensors(actual.parameters, expected.parameters);
  expectSameTensors(actual.state, expected.state);
}

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

describe('clearing gradients', () => {
  const steps = (state: Tensors, of: (name: string) => boolean) => [
    ...new Set(
      Object.entries(state).flatMap(([name, v]) => (name.endsWith('.step') && of(name) ? [...v] : [])),
    ),
  ];

  test('to none: a parameter is updated only where it has a gradient', async () => {
    const { state } = await run({ order: 'published' });
    expect(steps(state, (name) => inAdapter(name, 0))).toEqual([4]);
    expect(steps(state, (name) => inAdapter(name, 1))).toEqual([4]);
    expect(steps(state, inHead)).toEqual([8]);
  });

  test('to zero: once it has had a gradient it is updated every time', async () => {
    const { state } = await run({ clearGradients: 'zero' });
    expect(steps(state, (name) => inAdapter(name, 0))).toEqual([7]); // not in the very first update
    expect(steps(state, (name) => inAdapter(name, 1))).toEqual([8]);
    expect(steps(state, inHead)).toEqual([8]);
  });

  test('to zero is AdamW with gradients of zeros', async () => {
    const model = await started({ clearGradients: 'zero', keepGradients: true });
    const before = inDouble(await readAll(model));
    const name = 'encoder.layer.1.output.adapter.adapter_0_up.weight';
    const reference = new AdamW(before[name]!);
    for (const one of batches) {
      const { learningRates } = await model.step(one);
      const gradients = await model.gradients();
      for (const [i, update] of ['update_1', 'update_0'].entries()) {
        const gradient = gradients[`${update}.${name}`];
        if (!gradient && reference.step === 0) continue;
        const options = { ...training.optimizer, learningRate: learningRates[i]! };
        reference.update(gradient ?? new Float64Array(before[name]!.length), options);
      }
    }
    expect(reference.step).toBe(7);
    expectClose((await model.read([name]))[name]!, reference.value, 1e-6, name);
  });
});

describe('clipping', () => {
  test.each(['feddat', 'single', 'full'] as const)(
    '%s: the norm is that of the gradients, before clipping',
    async (method) => {
      for (const maxGradNorm of [1e-3, 1e3]) {
        const model = await started({ method, maxGradNorm, keepGradients: true, clearGradients: 'none' });
        const { gradNorm } = await model.step(batch);
        const all = Object.entries(await model.gradients());
        const last = all.filter(([name]) => !name.startsWith('update_1.')); // `feddat` reports its second update
        const gradients = Object.fromEntries(last);
        // Stacked parts of one parameter are listed apart; the norm does not mind.
        expectEachClose([gradNorm!], [norm(gradients)], 1e-5, 'norm');
        if (method === 'feddat') continue;
        // The first average is (1 - beta1) g, with g scaled to the limit where it was above it.
        const factor = Math.min(1, maxGradNorm / (gradNorm! + 1e-6));
        const state = await model.optimizerState();
        for (const [name, gradient] of last) {
          const wanted = gradient.map((g) => 0.1 * factor * g);
          expectClose(state[`${name.replace('update.', '')}.exp_avg`]!, wanted, 1e-5, name);
        }
      }
    },
  );

  test('a limit that is never reached changes nothing', async () => {
    const without = await run({ order: 'published' });
    expectSameRuns(await run({ order: 'published', maxGradNorm: 1e6 }), without);
  });
});

describe('schedules', () => {
  const schedules = [
    { kind: 'linear', warmupSteps: 3, maxSteps: 7 },
    { kind: 'linear', warmupSteps: 0, maxSteps: 8 },
    { kind: 'cosine', warmupSteps: 2, maxSteps: 6 },
    { kind: 'constant', warmupSteps: 4, maxSteps: 5 },
    { kind: 'cosine', warmupSteps: 0, maxSteps: 1 },
  ] as const;

  test.each(schedules)('$kind, warm-up $warmupSteps of $maxSteps', async (schedule) => {
    const twice = await run({ schedule });
    const expected = [0, 1, 2, 3, 4, 5, 6, 7].map((step) => learningRateAt(1e-3, schedule, step));
    expectEachClose(
      twice.results.flatMap((r) => r.learningRates),
      expected,
      1e-12,
      'two a batch',
      1e-15,
    );
    const once = await run({ schedule, method: 'single' });
    expectEachClose(
      once.results.flatMap((r) => r.learningRates),
      expected.slice(0, 4),
      1e-12,
      'one a batch',
      1e-15,
    );
  });

  test('at rate 0 nothing moves but the averages', async () => {
    const model = await started({
      schedule: { kind: 'linear', warmupSteps: 10, maxSteps: 20 },
      order: 'published',
    });
    const [before, { learningRates }] = [await readAll(model), await model.step(batch)];
    expect(learningRates[0]).toBe(0);
    const name = 'encoder.layer.0.output.adapter.adapter_1_up.weight';
    expectSame((await model.read([name]))[name]!, before[name]!, name);
    expect(largest((await model.optimizerState())[`${name}.exp_avg`]!)).toBeGreaterThan(0);
  });
});

describe('resuming', () => {
  const kinds: [string, Partial<TrainingOptions>, object][] = [
    ['merged', {}, {}],
    ['published', { order: 'published' }, {}],
    ['cleared to zero', { clearGradients: 'zero' }, {}],
    ['with dropout', { seed: 5 }, { hiddenDropout: 0.1, attentionDropout: 0.1 }],
    ['single', { method: 'single' }, {}],
    ['full', { method: 'full' }, {}],
  ];

  test.each(kinds)(
    '%s: parameters and optimizer state in a fresh model go on bit for bit',
    async (_name, options, changes) => {
      const first = await started(options, 1, changes);
      await first.step(batches[0]!);
      await first.step(batches[1]!);
      const [parameters, state] = [await readAll(first), await first.optimizerState()];
      const second = await started(options, 2, changes);
      await second.write(parameters); // after startTraining, which copies adapter 1 over adapter 2
      await second.setOptimizerState(state);
      expectSameTensors(await second.optimizerState(), state);
      for (const one of batches.slice(2)) expect(await second.step(one)).toEqual(await first.step(one));
      expectSameTensors(await readAll(second), await readAll(first));
      expectSameTensors(await second.optimizerState(), await first.optimizerState());
    },
  );

  test('a refused optimizer state changes nothing', async () => {
    const model = await started();
    await model.step(batch);
    const before = await model.optimizerState();
    const zeros = Object.fromEntries(
      Object.entries(before).map(([key, values]) => [key, values.map(() => 0)]),
    );
    const name = Object.keys(before).find((key) => key.endsWith('.step'))!;
    for (const wrong of [Number.NaN, -1, 0.5, 1e30])
      await expect(model.setOptimizerState({ ...zeros, [name]: new Float32Array([wrong]) })).rejects.toThrow(
        /number of steps/,
      );
    await expect(model.setOptimizerState({ ...zeros, 'zzz.exp_avg': new Float32Array(1) })).rejects.toThrow(
      /zzz/,
    );
    expectSameTensors(await model.optimizerState(), before);
  });

  test('startTraining begins anew: no averages, no schedule, adapter 2 from adapter 1', async () => {
    const model = await started();
    await model.step(batch);
    await model.startTraining(training);
    expect(Object.keys(await model.optimizerState()).sort()).toEqual(['schedule.batch', 'schedule.step']);
    const names = model
      .parameters()
      .map((p) => p.name)
      .filter((name) => inAdapter(name, 1));
    const values = await readAll(model);
    for (const name of names)
      expectSame(values[name.replace('adapter_1', 'adapter_2')]!, values[name]!, name);
  });

  test('state that does not fit is refused by name', async () => {
    const model = await started({ method: 'single' });
    const good = 'task_layer.pets.clf_fc1.bias';
    const wrong: [Tensors, string, RegExp][] = [
      [{ 'no.such.parameter.exp_avg': new Float32Array(3) }, 'NOT_FOUND', /no\.such\.parameter/],
      [{ 'pooler.dense.bias.exp_avg': new Float32Array(12) }, 'INVALID_ARGUMENT', /pooler\.dense\.bias/],
      [
        { [`${good}.exp_avg`]: new Float32Array(4) },
        'INVALID_ARGUMENT',
        /Expected 5 values for .*clf_fc1\.bias.* 4/,
      ],
      [{ [`${good}.momentum`]: new Float32Array(5) }, 'INVALID_ARGUMENT', /exp_avg, exp_avg_sq or step/],
      [{ [`${good}.step`]: new Float32Array(2) }, 'INVALID_ARGUMENT', /one value/],
      [{ 'schedule.step': new Float32Array(0) }, 'INVALID_ARGUMENT', /schedule\.step/],
      [{ nonsense: new Float32Array(1) }, 'INVALID_ARGUMENT', /nonsense/],
    ];
    for (const [state, code, says] of wrong) {
      const error = { code, message: expect.stringMatching(says) };
      await expect(model.setOptimizerState(state)).rejects.toMatchObject(error);
    }
  });
});

describe('before and between trainings', () => {
  test('a step, gradients or optimizer state without startTraining', async () => {
    const model = await smallModel(shape);
    const error = { code: 'INVALID_ARGUMENT', message: expect.stringMatching(/startTraining/) };
    await expect(model.step(batch)).rejects.toMatchObject(error);
    await expect(model.gradients()).rejects.toMatchObject(error);
    await expect(model.optimizerState()).rejects.toMatchObject(error);
    await expect(model.setOptimizerState({})).rejects.toMatchObject(error);
  });

  test('feddat without adapters', async () => {
    const model = new native.Vilt(shape, { threads: 1 });
    model.addHead(TASK, CLASSES, 1);
    const error = { code: 'INVALID_ARGUMENT', message: expect.stringMatching(/adapters/) };
    await expect(model.startTraining(training)).rejects.toMatchObject(error);
    await expect(model.startTraining({ ...training, method: 'single' })).rejects.toMatchObject(error);
    await model.startTraining({ ...training, method: 'single', adapter: 'none' });
    await expect(model.evaluate(batch, TASK, 'gated')).rejects.toMatchObject(error);
    model.dispose();
  });

  test('gradients are kept only on request, those of the last step', async () => {
    const model = await started();
    await model.step(batch);
    expect(await model.gradients()).toEqual({});
    await model.startTraining({ ...training, keepGradients: true });
    await model.step(batches[0]!);
    const before = await model.gradients();
    await model.step(batches[1]!);
    const after = await model.gradients();
    expect(Object.keys(after)).toEqual(Object.keys(before));
    expect(after).not.toEqual(before);
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
