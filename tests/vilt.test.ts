// Forward passes of the whole model, at sizes a plain double-precision ViLT can follow: every mode and setting, padding,
// odd pictures, and batches that cannot be right.

import { describe, expect, test } from 'vitest';
import type { TensorData } from '../src/native/core.js';
import type { NativeVilt, ViltBatch } from '../src/native/federated.js';
import { expectClose, expectSame, FP32, floats } from './support/reference/check.js';
import { normals, uniform } from './support/reference/numbers.js';
import {
  CLASSES,
  collate,
  inDouble,
  MODES,
  readAll,
  type Sample,
  sample,
  settings,
  smallModel,
  smallShape,
  TASK,
  threeSamples,
  training,
} from './support/reference/small-vilt.js';
import { head, logitsOf, vilt } from './support/reference/vilt.js';

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

  test('masks with holes, and any number but 0 for a real pixel or token', async () => {
    const model = await smallModel(shape);
    const p = inDouble(await readAll(model));
    const batch = collate(shape, [of(12, 16), of(16, 8)]);
    batch.pixelMask.fill(0, 4 * 16 + 4, 4 * 16 + 8); // the first line of the patch at row 1, column 1
    batch.pixelMask.fill(0, (16 + 4) * 16, (16 + 4) * 16 + 4); // and of one in column 0, which counts the rows
    batch.attentionMask.fill(0, 1, 3);
    const expected = logitsOf(shape, p, batch, TASK, 'gated');
    expectClose(await model.evaluate(batch, TASK, 'gated'), expected, FP32, 'logits');
    const { lastHiddenState } = await model.hiddenStates(batch, 'gated');
    const last = vilt(shape, p, batch, 'gated').flatMap((s) => [...s.last]);
    expectClose(floats(lastHiddenState), last, FP32, 'last hidden state');
    const other = {
      ...batch,
      pixelMask: batch.pixelMask.map((m) => 255 * m),
      attentionMask: batch.attentionMask.map((m) => 7 * m),
    };
    expectSame(
      await model.evaluate(other, TASK, 'gated'),
      await model.evaluate(batch, TASK, 'gated'),
      'logits',
    );
    expect((await model.hiddenStates(other, 'gated')).attentionMask).toEqual(
      (await model.hiddenStates(batch, 'gated')).attentionMask,
    );
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
