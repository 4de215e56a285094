// Training the whole model: gradients of every parameter against a double-precision reference, bf16, dropout, and what a
// training must leave alone.

import { describe, expect, test } from 'vitest';
import type { NativeVilt, TrainingOptions } from '../src/native/federated.js';
import { expectClose, expectSame, FP32, floats } from './support/reference/check.js';
import { binary } from './support/reference/loss.js';
import { largest } from './support/reference/numbers.js';
import { AdamW, withoutDecay } from './support/reference/optimizer.js';
import {
  collate,
  expectGradients,
  inDouble,
  MODES,
  readAll,
  settings,
  smallModel,
  smallShape,
  TASK,
  threeSamples,
  training,
} from './support/reference/small-vilt.js';
import { logitsOf } from './support/reference/vilt.js';

const full: TrainingOptions = { ...training, method: 'full', keepGradients: true };

/** The gradients of the last step without their prefix. */
async function gradientsOf(model: NativeVilt): Promise<Record<string, Float32Array>> {
  const all = await model.gradients();
  return Object.fromEntries(
    Object.entries(all).map(([name, values]) => [name.replace(/^update\./, ''), values]),
  );
}

describe('gradients of training everything', () => {
  test.each(settings)('$name', async ({ name, changes }) => {
    const shape = smallShape(changes);
    const batch = collate(shape, threeSamples(shape));
    const model = await smallModel(shape);
    const p = inDouble(await readAll(model));
    const loss = () => binary(logitsOf(shape, p, batch, TASK, 'none'), batch.targets!, batch.batch).loss;
    await model.startTraining(full);
    const result = await model.step(batch);
    expectClose([result.loss], [loss()], FP32, 'loss');
    const gradients = await gradientsOf(model);
    const trained = Object.keys(p).filter((name) => !name.includes('.adapter.'));
    expect(Object.keys(gradients).sort()).toEqual(trained.sort());
    expectGradients(gradients, p, loss, { others: name === 'two layers' ? 1 : 0 });
    // From those gradients: AdamW, without decay for names with `bias` or `LayerNorm.weight`. A few fp32 roundings.
    const after = await readAll(model);
    for (const parameter of trained) {
      const reference = new AdamW(p[parameter]!);
      const weightDecay = withoutDecay(parameter) ? 0 : training.optimizer.weightDecay;
      reference.update(gradients[parameter]!, { ...training.optimizer, weightDecay });
      expectClose(after[parameter]!, reference.value, 1e-6, `${parameter} after the update`);
    }
  });

  test.each(['feddat', 'single', 'full'] as const)(
    '%s: a step leaves nothing behind in the next',
    async (method) => {
      const shape = smallShape();
      const batch = collate(shape, threeSamples(shape));
      const model = await smallModel(shape);
      await model.startTraining({ ...full, method, optimizer: { ...full.optimizer, learningRate: 0 } });
      const { loss } = await model.step(batch);
      const gradients = await model.gradients();
      await model.step(collate(shape, threeSamples(shape).toReversed()));
      expect((await model.step(batch)).loss).toBe(loss);
      for (const [name, again] of Object.entries(await model.gradients()))
        expectSame(again, gradients[name]!, name);
    },
  );

  test('rows of the word table that the batch does not use get none', async () => {
    const shape = smallShape();
    const batch = collate(shape, threeSamples(shape), { token: () => 29 });
    const model = await smallModel(shape);
    await model.startTraining(full);
    await model.step(batch);
    const gradient = (await gradientsOf(model))['embeddings.text_embeddings.word_embeddings.weight']!;
    const used = new Set([...batch.inputIds].filter((_, i) => batch.attentionMask[i]));
    for (let row = 0; row < shape.vocabSize; row++) {
      const values = gradient.subarray(row * shape.hiddenSize, (row + 1) * shape.hiddenSize);
      expect(largest(values) > 0, `row ${row}`).toBe(used.has(row));
    }
  });
});

describe('bf16', () => {
  // Weights and what products read are rounded to 8 bits (2^-9 each); a layer has six such products in a row and errors
  // add like their root: 2^-9 sqrt(6 layers + head) is below 1 % here. 2 % leaves room for unlucky sums and still fails
  // when a product is left out or read in the wrong layout.
  const BOUND = 0.02;
  const shape = smallShape({ hiddenSize: 48, heads: 4, intermediateSize: 96 });
  const batch = collate(shape, threeSamples(shape));

  test('logits and hidden states stay near those of fp32, and differ', async () => {
    const [exact, half] = [await smallModel(shape), await smallModel(shape, { compute: 'bf16' })];
    for (const mode of MODES) {
      const expected = await exact.evaluate(batch, TASK, mode);
      const logits = await half.evaluate(batch, TASK, mode);
      expectClose(logits, expected, BOUND, `${mode}: logits`);
      expect(logits).not.toEqual(expected);
      const states = await half.hiddenStates(batch, mode);
      const wanted = await exact.hiddenStates(batch, mode);
      expectClose(
        floats(states.lastHiddenState),
        floats(wanted.lastHiddenState),
        BOUND,
        `${mode}: last hidden state`,
      );
    }
  });

  test.each(['feddat', 'single', 'full'] as const)(
    'gradients of a %s step point the same way',
    async (method) => {
      const all = [];
      for (const compute of ['fp32', 'bf16'] as const) {
        const model = await smallModel(shape, { compute });
        await model.startTraining({ ...full, method });
        const { loss } = await model.step(batch);
        all.push({ loss, gradients: await model.gradients() });
      }
      const [exact, half] = all as [(typeof all)[0], (typeof all)[0]];
      expect(Math.abs(half.loss - exact.loss)).toBeLessThan(BOUND * exact.loss);
      expect(Object.keys(half.gradients)).toEqual(Object.keys(exact.gradients));
      for (const [name, gradient] of Object.entries(exact.gradients)) {
        // The key bias shifts all scores of a query alike: its gradient is 0 but for rounding.
        if (name.endsWith('attention.key.bias')) continue;
        expect(cosine(gradient, half.gradients[name]!), name).toBeGreaterThan(0.99);
      }
    },
  );

  function cosine(a: Float32Array, b: Float32Array): number {
    const dot = (x: Float32Array, y: Float32Array) => x.reduce((sum, value, i) => sum + value * y[i]!, 0);
    return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
  }
});

describe('dropout', () => {
  const kinds = {
    hidden: { hiddenDropout: 0.2 },
    attention: { attentionDropout: 0.2 },
    both: { hiddenDropout: 0.1, attentionDropout: 0.1 },
  };

  describe.each(Object.entries(kinds))('%s', (_name, changes) => {
    const shape = smallShape(changes);
    const batch = collate(shape, threeSamples(shape));

    test.each(['feddat', 'single', 'full'] as const)('a %s training learns the batch', async (method) => {
      const model = await smallModel(shape);
      await model.startTraining({
        ...training,
        method,
        optimizer: { ...training.optimizer, learningRate: 3e-3 },
      });
      const losses = [];
      for (let step = 0; step < 40; step++) losses.push((await model.step(batch)).loss);
      expect(losses.every(Number.isFinite)).toBe(true);
      const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
      expect(mean(losses.slice(-5))).toBeLessThan(0.7 * mean(losses.slice(0, 5)));
    });

    test('the seed of the training is the draw: it repeats, and every batch draws anew', async () => {
      const run = async (seed: number) => {
        const model = await smallModel(shape);
        const still = { ...training, seed, optimizer: { ...training.optimizer, learningRate: 0 } };
        await model.startTraining({ ...still, method: 'single' });
        return [(await model.step(batch)).loss, (await model.step(batch)).loss];
      };
      const losses = await run(1);
      expect(await run(1)).toEqual(losses);
      expect(await run(2)).not.toEqual(losses);
      expect(losses[0]).not.toBe(losses[1]);
    });

    test('evaluation drops nothing', async () => {
      const [with_, without] = [await smallModel(shape), await smallModel(smallShape())];
      expectSame(
        await with_.evaluate(batch, TASK, 'gated'),
        await without.evaluate(batch, TASK, 'gated'),
        'logits',
      );
    });

    test('backward sees the draw of forward', async () => {
      // Along its gradient a loss grows by the gradient's length. One direction checks every parameter and every draw at
      // once; h moves the loss by about 2 %, so fp32 noise (1e-7) is 1e-5 of it and the third order term stays below 1 %.
      const model = await smallModel(shape);
      const still = { ...full, optimizer: { ...training.optimizer, learningRate: 0 } };
      await model.startTraining(still);
      const { loss, gradNorm } = await model.step(batch);
      const gradients = await gradientsOf(model);
      const before = await model.read(Object.keys(gradients));
      const h = (0.01 * loss) / gradNorm! ** 2;
      const lossAt = async (distance: number) => {
        const moved = Object.entries(before).map(([name, values]) => [
          name,
          values.map((value, i) => value + distance * gradients[name]![i]!),
        ]);
        await model.write(Object.fromEntries(moved));
        await model.startTraining(still);
        return (await model.step(batch)).loss;
      };
      const slope = ((await lossAt(h)) - (await lossAt(-h))) / (2 * h);
      expect(Math.abs(slope / gradNorm! ** 2 - 1)).toBeLessThan(0.01);
    });
  });
});

describe('what training leaves alone', () => {
  const shape = smallShape();
  const batch = collate(shape, threeSamples(shape));
  const trained: Record<string, { options: Partial<TrainingOptions>; parts: RegExp }> = {
    feddat: { options: { method: 'feddat' }, parts: /^task_layer\.|adapter_[01]_/ },
    'feddat in the published order': {
      options: { method: 'feddat', order: 'published' },
      parts: /^task_layer\.|adapter_[01]_/,
    },
    'single adapter_0': {
      options: { method: 'single', adapter: 'adapter_0' },
      parts: /^task_layer\.|adapter_0_/,
    },
    'single adapter_1': {
      options: { method: 'single', adapter: 'adapter_1' },
      parts: /^task_layer\.|adapter_1_/,
    },
    'single, adapter_1 by default': { options: { method: 'single' }, parts: /^task_layer\.|adapter_1_/ },
    'the head alone': { options: { method: 'single', adapter: 'none' }, parts: /^task_layer\./ },
    full: { options: { method: 'full' }, parts: /^(?!.*\.adapter\.)/ },
  };

  test.each(Object.entries(trained))('%s', async (_name, { options, parts }) => {
    const model = await smallModel(shape);
    model.addHead('other', 3, 1);
    const before = await readAll(model);
    await model.startTraining({ ...full, ...options });
    for (let step = 0; step < 3; step++) await model.step(batch);
    const after = await readAll(model);
    for (const [name, values] of Object.entries(before)) {
      const copied = options.method === 'feddat' ? name.replace('adapter_2', 'adapter_1') : name;
      if (parts.test(name) && !name.includes('.other.')) expect(after[name], name).not.toEqual(values);
      else expectSame(after[name]!, before[copied]!, name); // adapter_2 is the received adapter_1
    }
  });

  test('evaluation in between changes nothing', async () => {
    const [one, other] = [await smallModel(shape), await smallModel(shape)];
    for (const model of [one, other]) {
      await model.startTraining({ ...training, method: 'feddat' });
      await model.step(batch);
      if (model === other) for (const mode of MODES) await model.evaluate(batch, TASK, mode);
      if (model === other) await model.hiddenStates(batch, 'none');
      await model.step(batch);
    }
    const after = await readAll(other);
    for (const [name, values] of Object.entries(await readAll(one))) expectSame(after[name]!, values, name);
  });
});
