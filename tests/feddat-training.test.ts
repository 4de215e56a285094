// A local training over several batches: clearing and clipping of gradients, schedules, what is kept for resuming.

import { describe, expect, test } from 'vitest';
import type { Tensors } from '../src/native/core.js';
import type { TrainingOptions } from '../src/native/federated.js';
import { native } from '../src/native.js';
import { expectClose, expectEachClose, expectSame } from './support/reference/check.js';
import { largest } from './support/reference/numbers.js';
import { AdamW, learningRateAt } from './support/reference/optimizer.js';
import { CLASSES, inDouble, readAll, smallModel, TASK } from './support/reference/small-vilt.js';
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
        const last = all.filter(([name]) => !name.includes('update_1.')); // `feddat` reports its second update
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
