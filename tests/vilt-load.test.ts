// Weights from safetensors: names and types, what does not fit, and files that training leaves as they are.

import { mkdtemp, readFile, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TensorData } from '../src/native/core.js';
import type { NativeVilt } from '../src/native/federated.js';
import { native } from '../src/native.js';
import { expectSame } from './support/reference/check.js';
import { f32, roundToBf16 } from './support/reference/numbers.js';
import {
  collate,
  readAll,
  smallModel,
  smallShape,
  TASK,
  threeSamples,
  training,
} from './support/reference/small-vilt.js';

describe('loading safetensors', () => {
  const shape = smallShape();
  const batch = collate(shape, threeSamples(shape));
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'duet-vilt-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  /** The encoder's tensors of a model drawn from seed 2, without adapters and heads. */
  async function encoder(): Promise<Record<string, TensorData>> {
    const model = await smallModel(shape, {}, 2);
    const values = await readAll(model);
    const own = model.parameters().filter(({ name }) => !/\.adapter\.|^task_layer/.test(name));
    return Object.fromEntries(
      own.map(({ name, shape }) => [name, { dtype: 'f32', shape, data: values[name]! }]),
    );
  }

  async function saved(tensors: Record<string, TensorData>): Promise<string> {
    const path = join(folder, `${Math.random()}.safetensors`);
    await native.writeSafetensors(path, tensors, {});
    return path;
  }

  /** A model drawn from seed 1 whose encoder was read from this file. */
  async function loaded(tensors: Record<string, TensorData>, of = shape): Promise<NativeVilt> {
    const model = await smallModel(of);
    await model.load(await saved(tensors));
    return model;
  }

  const halves = {
    f32: { dtype: 'f32', convert: (x: Float32Array) => x },
    bf16: {
      dtype: 'bf16',
      convert: (x: Float32Array) => new Uint16Array(x.map(roundToBf16).buffer).filter((_, i) => i % 2),
    },
  } as const;

  test.each(Object.entries(halves))(
    'stored as %s: the encoder from the file, adapters and heads as they were',
    async (kind, half) => {
      const tensors = await encoder();
      const stored = Object.entries(tensors).map(([name, tensor]): [string, TensorData] => [
        name,
        { dtype: half.dtype, shape: tensor.shape, data: half.convert(tensor.data as Float32Array) },
      ]);
      const before = await readAll(await smallModel(shape));
      for (const [name, values] of Object.entries(await readAll(await loaded(Object.fromEntries(stored))))) {
        const wanted = tensors[name]?.data as Float32Array | undefined;
        expectSame(values, (kind === 'bf16' ? wanted?.map(roundToBf16) : wanted) ?? before[name]!, name);
      }
    },
  );

  test('stored as f16: normal, subnormal, largest, negative and -0', async () => {
    const bits = [0x3c00, 0xb555, 0x0001, 0x7bff, 0x8000];
    const numbers = [1, -0.333251953125, 2 ** -24, 65504, -0];
    const tensors = Object.entries(await encoder()).map(([name, { shape, data }]): [string, TensorData] => [
      name,
      { dtype: 'f16', shape, data: Uint16Array.from(data as Float32Array, (_, i) => bits[i % 5]!) },
    ]);
    const model = await loaded(Object.fromEntries(tensors));
    const values = await model.read(tensors.map(([name]) => name));
    for (const [name, got] of Object.entries(values)) {
      expectSame(
        got,
        Float32Array.from(got, (_, i) => numbers[i % 5]!),
        name,
      );
    }
  });

  test('the names of published checkpoints: a prefix, the masked-language head and position ids', async () => {
    const tensors = await encoder();
    const prefixed = Object.fromEntries(
      Object.entries(tensors).map(([name, tensor]) => [`vilt.${name}`, tensor]),
    );
    const published: Record<string, TensorData> = {
      ...prefixed,
      'mlm_score.bias': f32([30], 1),
      'vilt.embeddings.text_embeddings.position_ids': {
        dtype: 'i64',
        shape: [1, 2],
        data: new BigInt64Array(2),
      },
    };
    const [one, other] = [await loaded(tensors), await loaded(published)];
    expectSame(
      await other.evaluate(batch, TASK, 'gated'),
      await one.evaluate(batch, TASK, 'gated'),
      'logits',
    );
  });

  test('two modality rows in the file become three: the third copies the second', async () => {
    const model = await loaded(await encoder(), smallShape({ modalityTypes: 3 }));
    const name = 'embeddings.token_type_embeddings.weight';
    const table = (await model.read([name]))[name]!;
    expectSame(table.subarray(24, 36), table.subarray(12, 24), 'third row');
  });

  test('training on mapped weights never touches the file', async () => {
    const path = await saved(await encoder());
    const bytes = await readFile(path);
    const model = await smallModel(shape);
    await model.load(path);
    await model.write({ 'pooler.dense.bias': new Float32Array(12) });
    for (const method of ['full', 'feddat'] as const) {
      await model.startTraining({ ...training, method });
      await model.step(batch);
    }
    expect((await readFile(path)).equals(bytes)).toBe(true);
  });

  test('a file that is cut off while its weights are in use does no harm', async () => {
    const tensors = await encoder();
    const path = await saved(tensors);
    const model = await smallModel(shape);
    await model.load(path);
    await truncate(path, 0);
    for (const [name, { data }] of Object.entries(tensors))
      expectSame((await model.read([name]))[name]!, data as Float32Array, name);
    await model.startTraining({ ...training, method: 'feddat' });
    await model.step(batch);
  });

  const misfits: { what: string; change: (tensors: Record<string, TensorData>) => void; says: RegExp }[] = [
    {
      what: 'a missing tensor',
      change: (t) => delete t['pooler.dense.bias'],
      says: /Missing: pooler\.dense\.bias/,
    },
    {
      what: 'an extra tensor',
      change: (t) => Object.assign(t, { odd: f32([2], 1) }),
      says: /Unexpected: odd/,
    },
    {
      what: 'an adapter',
      change: (t) => Object.assign(t, { 'encoder.layer.0.output.adapter.adapter_0_up.bias': f32([12], 1) }),
      says: /Unexpected: encoder.*adapter_0_up/,
    },
    {
      what: 'another shape',
      change: (t) => Object.assign(t, { 'pooler.dense.bias': f32([3, 4], 1) }),
      says: /Wrong shape: pooler\.dense\.bias is \[3, 4\], expected \[12\]/,
    },
    {
      what: 'integers',
      change: (t) =>
        Object.assign(t, { 'pooler.dense.bias': { dtype: 'i64', shape: [12], data: new BigInt64Array(12) } }),
      says: /pooler\.dense\.bias.*i64/,
    },
  ];

  test.each(misfits)('$what is an error that names it, and nothing is loaded', async ({ change, says }) => {
    const model = await smallModel(shape);
    const before = await readAll(model);
    const tensors = await encoder();
    change(tensors);
    await expect(model.load(await saved(tensors))).rejects.toMatchObject({
      code: expect.stringMatching(/^(INVALID_ARGUMENT|CORRUPT)$/),
      message: expect.stringMatching(says),
    });
    for (const [name, values] of Object.entries(await readAll(model)))
      expectSame(values, before[name]!, name);
  });

  test('not while all weights are trained', async () => {
    const model = await smallModel(shape);
    await model.startTraining({ ...training, method: 'full' });
    const error = { code: 'INVALID_ARGUMENT', message: expect.stringMatching(/trained/) };
    await expect(model.load(await saved(await encoder()))).rejects.toMatchObject(error);
  });
});
