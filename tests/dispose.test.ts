// The life of a native model: disposed by hand, by `using`, by the garbage collector.

import { describe, expect, test } from 'vitest';
import { viltPreset } from '../src/models/config.js';
import { Vilt } from '../src/models/vilt.js';
import { CLASSES, rejection, tinyBatch, tinyShape, trainableModel } from './native-support.js';

const shape = tinyShape();
const batch = tinyBatch(shape);

describe('dispose', () => {
  test('every later call says so; a second dispose does nothing', async () => {
    const model = await trainableModel();
    model.dispose();
    model.dispose();
    const message = /Expected a model in use but this one has been disposed/;
    expect(() => model.parameters()).toThrow(message);
    expect(() => model.memory()).toThrow(message);
    expect(() => model.addAdapters(8, 1)).toThrow(message);
    expect(() => model.addHead('more', CLASSES, 1)).toThrow(message);
    for (const promise of [
      model.step(batch),
      model.evaluate(batch, 'test', 'none'),
      model.hiddenStates(batch, 'none'),
      model.read([]),
      model.write({}),
      model.load('/nowhere'),
      model.gradients(),
      model.optimizerState(),
      model.setOptimizerState({}),
    ]) {
      const error = await rejection(promise);
      expect(error.message).toMatch(message);
      expect(error.code).toBe('INVALID_ARGUMENT');
    }
  });

  test('what was asked for before still comes', async () => {
    const model = await trainableModel();
    const twin = await trainableModel();
    const steps = [model.step(batch), model.step(batch)];
    model.dispose();
    const [first, second] = await Promise.all(steps);
    expect(first).toEqual(await twin.step(batch));
    expect(second).toEqual(await twin.step(batch));
    twin.dispose();
  });

  test('parameters are not added while a call is under way', async () => {
    const model = await trainableModel();
    const step = model.step(batch);
    expect(() => model.addHead('more', CLASSES, 1)).toThrow(
      /Expected no work under way for addHead but 1 calls/,
    );
    await step;
    model.addHead('more', CLASSES, 1);
    expect(model.parameters().some(({ name }) => name === 'task_layer.more.clf_fc1.bias')).toBe(true);
    model.dispose();
  });

  test('memory is counted', async () => {
    const model = await trainableModel();
    const { parameterBytes } = model.memory();
    const counted = model.parameters().map(({ shape }) => shape.reduce((product, size) => product * size, 4));
    expect(parameterBytes).toBeGreaterThanOrEqual(counted.reduce((sum, bytes) => sum + bytes));
    await model.step(batch);
    expect(model.memory().arenaPeakBytes).toBeGreaterThan(0);
    model.dispose();
  });
});

describe('class Vilt', () => {
  test('has Symbol.dispose, which is what `using` calls', async () => {
    const model = Vilt.create(viltPreset('tiny', { vocab_size: 50 }));
    const pending = model.read(['pooler.dense.bias']);
    model[Symbol.dispose]();
    expect(Object.keys(await pending)).toEqual(['pooler.dense.bias']);
    expect(() => model.shapes).toThrow(/disposed/);
  });
});
