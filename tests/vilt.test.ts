// The whole model at sizes a plain double-precision ViLT can follow: forward passes in every mode and setting, padding,
// gradients of every parameter, bf16, dropout, and batches that cannot be right.

import { describe, expect, test } from 'vitest';
import type {
  AdapterMode,
  NativeVilt,
  TensorData,
  TrainingOptions,
  ViltBatch,
  ViltShape,
} from '../src/native.js';
import { expectClose, expectSame, FP32, floats } from './support/reference/check.js';
import { binary } from './support/reference/loss.js';
import { largest, normals, uniform } from './support/reference/numbers.js';
import {
  CLASSES,
  collate,
  expectGradients,
  inDouble,
  readAll,
  type Sample,
  sample,
  smallModel,
  smallShape,
  TASK,
  threeSamples,
} from './support/reference/small-vilt.js';
import { head, logitsOf, vilt } from './support/reference/vilt.js';

const MODES: AdapterMode[] = ['none', 'adapter_0', 'adapter_1', 'gated'];

const settings: { name: string; changes: Partial<ViltShape> }[] = [
  { name: 'two layers', changes: {} },
  { name: 'one layer', changes: { layers: 1 } },
  { name: 'no bias of queries, keys and values', changes: { qkvBias: false } },
  { name: 'three modality types', changes: { modalityTypes: 3 } },
  { name: 'one head, one channel', changes: { heads: 1, channels: 1 } },
  { name: 'pictures of one patch', changes: { imageSize: 4, maxPositionEmbeddings: 10, typeVocabSize: 1 } },
  { name: 'odd sizes', changes: { hiddenSize: 15, heads: 5, intermediateSize: 17, layers: 3 } },
  { name: 'a wide norm epsilon', changes: { layerNormEps: 0.1 } },
];

const training: TrainingOptions = {
  method: 'full',
  task: TASK,
  optimizer: { learningRate: 1e-3, betas: [0.9, 0.98], epsilon: 1e-8, weightDecay: 0.01 },
  schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 1000 },
  keepGradients: true,
};

/** The gradients of the last step without their prefix. */
async function gradientsOf(model: NativeVilt): Promise<Record<string, Float32Array>> {
  const all = await model.gradients();
  return Object.fromEntries(
    Object.entries(all).map(([name, values]) => [name.replace(/^update\./, ''), values]),
  );
}

describe.each(settings)('forward, $name', ({ changes }) => {
  const shape = smallShape(changes);
  const batch = collate(shape, threeSamples(shape));

  test('hidden states of every token, valid or padded, and the pooled vector', async () => {
    const model = await smallModel(shape);
    const p = inDouble(await readAll(model));
    for (const mode of MODES) {
      const states = await model.hiddenStates(batch, mode);
      const expected = vilt(shape, p, batch, mode);
      const all = (of: (s: (typeof expected)[number]) => ArrayLike<number>) =>
        expected.flatMap((s) => [...Array.from(of(s))]);
      expect(states.hiddenStates.length).toBe(shape.layers + 1);
      for (const [i, state] of states.hiddenStates.entries()) {
        expectClose(
          floats(state),
          all((s) => s.hidden[i]!),
          FP32,
          `${mode}: hidden state ${i}`,
        );
      }
      expectClose(
        floats(states.lastHiddenState),
        all((s) => s.last),
        FP32,
        `${mode}: last hidden state`,
      );
      expectClose(
        floats(states.poolerOutput),
        all((s) => s.pooled),
        FP32,
        `${mode}: pooled`,
      );
      const integers = (tensor: TensorData) => Array.from(tensor.data as BigInt64Array, Number);
      expect(integers(states.attentionMask)).toEqual(all((s) => s.mask));
      expect(integers(states.patchIndex)).toEqual(all((s) => s.patches.flat()));
    }
  });

  test('evaluate, which computes valid tokens and the pooled one alone, gives the same logits', async () => {
    const model = await smallModel(shape);
    const p = inDouble(await readAll(model));
    for (const mode of MODES) {
      const logits = await model.evaluate(batch, TASK, mode);
      expectClose(logits, logitsOf(shape, p, batch, TASK, mode), FP32, `${mode}: logits`);
      const { poolerOutput } = await model.hiddenStates(batch, mode);
      const fromPooled = head(p, TASK, floats(poolerOutput), shape.hiddenSize);
      expectClose(
        logits,
        fromPooled,
        FP32,
        `${mode}: logits against those of the pooled vector of all tokens`,
      );
    }
  });
});

describe('padding', () => {
  const shape = smallShape();
  const samples = threeSamples(shape);
  const draw = uniform(5);
  const garbage = { pixel: () => 1e3 * (draw() - 0.5), token: () => Math.floor(draw() * shape.vocabSize) };
  const paddings = {
    'longer text': { textLength: 12 },
    'larger pictures': { height: 40, width: 44 },
    both: { textLength: 11, height: 24, width: 48 },
    'garbage in padded pixels and tokens': { textLength: 12, height: 36, width: 40, ...garbage },
    'NaN in padded pixels': { height: 36, width: 40, pixel: () => Number.NaN },
  };

  test.each(Object.entries(paddings))('%s: the same bits', async (_name, padding) => {
    const model = await smallModel(shape);
    for (const mode of MODES) {
      const expected = await model.evaluate(collate(shape, samples), TASK, mode);
      expectSame(
        await model.evaluate(collate(shape, samples, padding), TASK, mode),
        expected,
        `${mode}: logits`,
      );
    }
  });

  test.each(['feddat', 'single', 'full'] as const)(
    'a %s step on padded samples: the same bits',
    async (method) => {
      const after = [];
      for (const padding of [{}, paddings['garbage in padded pixels and tokens']]) {
        const model = await smallModel(shape);
        await model.startTraining({ ...training, method });
        await model.step(collate(shape, samples, padding));
        after.push(await readAll(model));
      }
      for (const [name, values] of Object.entries(after[0]!)) expectSame(after[1]![name]!, values, name);
    },
  );

  test('the states of valid tokens do not see garbage in padded ones', async () => {
    const model = await smallModel(shape);
    const p = inDouble(await readAll(model));
    const batch = collate(shape, samples, {
      ...paddings['garbage in padded pixels and tokens'],
      pixel: garbage.pixel,
    });
    const states = await model.hiddenStates(batch, 'gated');
    const expected = vilt(shape, p, batch, 'gated').flatMap((s) => [...s.last]);
    expectClose(floats(states.lastHiddenState), expected, FP32, 'last hidden state');
    expectClose(floats(states.poolerOutput), await pooledOf(model, collate(shape, samples)), FP32, 'pooled');
  });

  test('samples do not see each other: a batch is its samples, in any order', async () => {
    const model = await smallModel(shape);
    for (const mode of MODES) {
      const together = await model.evaluate(collate(shape, samples), TASK, mode);
      const backwards = await model.evaluate(collate(shape, samples.toReversed()), TASK, mode);
      for (const [i, one] of samples.entries()) {
        // Products of other sizes add in another order: equal but for rounding.
        const alone = await model.evaluate(collate(shape, [one]), TASK, mode);
        const place = samples.length - 1 - i;
        expectClose(together.subarray(i * CLASSES, (i + 1) * CLASSES), alone, FP32, `${mode}: sample ${i}`);
        expectClose(
          backwards.subarray(place * CLASSES, (place + 1) * CLASSES),
          alone,
          FP32,
          `${mode}: backwards ${i}`,
        );
      }
    }
  });

  async function pooledOf(model: NativeVilt, batch: ViltBatch) {
    return floats((await model.hiddenStates(batch, 'gated')).poolerOutput);
  }
});

describe('pictures', () => {
  const shape = smallShape();
  const of = (height: number, width: number): Sample => sample(shape, 4, height, width, height * 100 + width);

  test.each([
    {
      name: 'partly covered patches count from their first pixel',
      samples: [of(9, 5), of(10, 7)],
      padding: {},
    },
    { name: 'a canvas that is no multiple of the patch', samples: [of(14, 11), of(6, 15)], padding: {} },
    { name: 'one row of patches', samples: [of(4, 40)], padding: {} },
    { name: 'one column of patches', samples: [of(48, 4)], padding: {} },
    { name: 'a single patch on a large canvas', samples: [of(4, 4)], padding: { height: 32, width: 20 } },
    { name: 'as large as the table', samples: [of(12, 12)], padding: {} },
  ])('$name', async ({ samples, padding }) => {
    const model = await smallModel(shape);
    const p = inDouble(await readAll(model));
    const batch = collate(shape, samples, padding);
    const logits = await model.evaluate(batch, TASK, 'gated');
    expectClose(logits, logitsOf(shape, p, batch, TASK, 'gated'), FP32, 'logits');
    const { lastHiddenState } = await model.hiddenStates(batch, 'gated');
    const expected = vilt(shape, p, batch, 'gated').flatMap((s) => [...s.last]);
    expectClose(floats(lastHiddenState), expected, FP32, 'last hidden state');
  });
});

describe('gradients of training everything', () => {
  test.each(settings)('$name', async ({ name, changes }) => {
    const shape = smallShape(changes);
    const batch = collate(shape, threeSamples(shape));
    const model = await smallModel(shape);
    const p = inDouble(await readAll(model));
    const loss = () => binary(logitsOf(shape, p, batch, TASK, 'none'), batch.targets!, batch.batch).loss;
    await model.startTraining(training);
    const result = await model.step(batch);
    expectClose([result.loss], [loss()], FP32, 'loss');
    const gradients = await gradientsOf(model);
    const trained = Object.keys(p).filter((name) => !name.includes('.adapter.'));
    expect(Object.keys(gradients).sort()).toEqual(trained.sort());
    expectGradients(gradients, p, loss, { others: name === 'two layers' ? 3 : 0 });
  });

  test('rows of the word table that the batch does not use get none', async () => {
    const shape = smallShape();
    const batch = collate(shape, threeSamples(shape), { token: () => 29 });
    const model = await smallModel(shape);
    await model.startTraining(training);
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
  // add like their root: 2^-9 sqrt(6 layers + head) is below 1 % here. 4 % leaves room for unlucky sums and still fails
  // when a product is left out or read in the wrong layout.
  const BOUND = 0.04;
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
        await model.startTraining({ ...training, method });
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
      const still = { ...training, optimizer: { ...training.optimizer, learningRate: 0 } };
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
    await model.startTraining({ ...training, ...options });
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

describe('batches that cannot be right', () => {
  const shape = smallShape();
  const good = () => collate(shape, threeSamples(shape));
  const wrong: { what: string; change: (batch: ViltBatch) => Partial<ViltBatch>; says: RegExp }[] = [
    {
      what: 'a word beyond the vocabulary',
      change: (b) => ({ inputIds: b.inputIds.fill(30, 12, 13) }),
      says: /0 to 29 .*30 in sample 1.*vocabulary/,
    },
    {
      what: 'a negative word',
      change: (b) => ({ inputIds: b.inputIds.fill(-1, 0, 1) }),
      says: /inputIds.*-1/,
    },
    {
      what: 'a token type beyond the table',
      change: (b) => ({ tokenTypeIds: b.tokenTypeIds.fill(2, 3, 4) }),
      says: /tokenTypeIds from 0 to 1.*2/,
    },
    {
      what: 'a hidden first token',
      change: (b) => ({ attentionMask: b.attentionMask.fill(0, 10, 11) }),
      says: /first text token of sample 1/,
    },
    {
      what: 'a picture without pixels',
      change: (b) => ({ pixelMask: b.pixelMask.fill(0, 2 * 20 * 16) }),
      says: /mask of sample 2/,
    },
    {
      what: 'more tokens than positions',
      change: () => collate(shape, threeSamples(shape), { textLength: 13 }),
      says: /1 to 12 text tokens.*13.*truncate/,
    },
    {
      what: 'pictures below a patch',
      change: () => ({
        height: 3,
        pixelValues: new Float32Array(3 * 3 * 3 * 16),
        pixelMask: new Uint8Array(3 * 3 * 16),
      }),
      says: /at least 4 x 4.*3 x 16/,
    },
    {
      what: 'too few words',
      change: (b) => ({ inputIds: b.inputIds.slice(1) }),
      says: /of 30 elements.*29, 30 and 30/,
    },
    {
      what: 'too few pixels',
      change: (b) => ({ pixelValues: b.pixelValues.slice(1) }),
      says: /pixelValues of 2880.*2879/,
    },
    {
      what: 'too large a pixel mask',
      change: (b) => ({ pixelMask: new Uint8Array(b.pixelMask.length + 1) }),
      says: /pixelMask of 960.*961/,
    },
  ];

  test.each(wrong)('$what', async ({ change, says }) => {
    const model = await smallModel(shape);
    await model.startTraining({ ...training, method: 'feddat' });
    const batch = { ...good(), ...change(good()) };
    const error = { code: 'INVALID_ARGUMENT', message: expect.stringMatching(says) };
    await expect(model.evaluate(batch, TASK, 'gated')).rejects.toMatchObject(error);
    await expect(model.hiddenStates(batch, 'gated')).rejects.toMatchObject(error);
    await expect(model.step(batch)).rejects.toMatchObject(error);
  });

  test('targets that are missing or of another size', async () => {
    const model = await smallModel(shape);
    for (const method of ['feddat', 'single', 'full'] as const) {
      await model.startTraining({ ...training, method });
      const { targets, ...untargeted } = good();
      const error = { code: 'INVALID_ARGUMENT', message: expect.stringMatching(/targets of 3 x 5 scores/) };
      await expect(model.step(untargeted)).rejects.toMatchObject(error);
      await expect(model.step({ ...untargeted, targets: targets!.slice(1) })).rejects.toMatchObject(error);
    }
  });

  test('an unknown head', async () => {
    const model = await smallModel(shape);
    const error = { code: 'NOT_FOUND', message: expect.stringMatching(/'cars'.*pets/) };
    await expect(model.evaluate(good(), 'cars', 'gated')).rejects.toMatchObject(error);
    await expect(model.startTraining({ ...training, task: 'cars' })).rejects.toMatchObject(error);
  });

  test('after a refused batch the next one is as if it had not been', async () => {
    const [one, other] = [await smallModel(shape), await smallModel(shape)];
    for (const model of [one, other]) {
      await model.startTraining({ ...training, method: 'feddat' });
      await model.step(good());
      if (model === other)
        await expect(model.step({ ...good(), ...wrong[0]!.change(good()) })).rejects.toThrow();
      await model.step(good());
    }
    const after = await readAll(other);
    for (const [name, values] of Object.entries(await readAll(one))) expectSame(after[name]!, values, name);
  });
});

test('NaN in real pixels is not hidden', async () => {
  const shape = smallShape();
  const model = await smallModel(shape);
  const samples = threeSamples(shape);
  samples[1]!.pixels = normals(samples[1]!.pixels.length, 1).fill(Number.NaN, 5, 6);
  const logits = await model.evaluate(collate(shape, samples), TASK, 'gated');
  expect(Array.from(logits, Number.isNaN)).toEqual(Array.from({ length: 15 }, (_, i) => i >= 5 && i < 10));
});
