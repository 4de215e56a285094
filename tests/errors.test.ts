// Errors: one type, codes for programs, messages that name the thing, what was expected, what came and what to do.

import { appendFile, copyFile, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import { z } from 'zod';
import { Tokenizer } from '../src/data/tokenizer.js';
import { asDuetError, codeOf, DuetError, ioError, shown, throwIfAborted } from '../src/errors.js';
import { viltConfig, viltPreset } from '../src/models/config.js';
import { nameFromPublished, publishedName } from '../src/models/names.js';
import { Vilt } from '../src/models/vilt.js';
import { native } from '../src/native.js';
import { validated } from '../src/validation.js';
import { madeBatch, temporaryFolder, tinyModel } from './federation-support.js';

const error = (call: () => unknown): DuetError => {
  try {
    call();
  } catch (caught) {
    expect(caught).toBeInstanceOf(DuetError);
    return caught as DuetError;
  }
  throw new Error('Expected a throw');
};

describe('DuetError', () => {
  test('native errors with a code become one, with the stack of the caller', () => {
    const native = Object.assign(new Error('Expected a batch'), { code: 'INVALID_ARGUMENT' });
    const converted = asDuetError(native) as DuetError;
    expect(converted).toBeInstanceOf(DuetError);
    expect(converted).toMatchObject({ code: 'INVALID_ARGUMENT', message: 'Expected a batch', cause: native });
    expect(converted.stack).toMatch(/^DuetError: Expected a batch\n.*errors.test/s);
  });

  test('other errors stay what they are', () => {
    const other = new TypeError('x is not a function');
    expect(asDuetError(other)).toBe(other);
    expect(codeOf(other)).toBeUndefined();
  });

  test.each([
    ['ENOENT', 'NOT_FOUND'],
    ['ENOSPC', 'DISK_FULL'],
    ['EDQUOT', 'DISK_FULL'],
    ['EACCES', 'IO'],
  ])('system error %s is %s', (system, code) => {
    const cause = Object.assign(new Error(`${system}: no`), { code: system, syscall: 'open' });
    expect(ioError(cause, 'write x', 'try y')).toMatchObject({
      code,
      message: expect.stringMatching(/^Cannot write x: .*; try y$/),
    });
  });

  test.each([
    ['ENOTDIR', 'a file is where a folder should be'],
    ['EISDIR', 'a folder is where a file should be'],
    ['EEXIST', 'a file is where a folder should be'],
    ['EACCES', 'permission is denied'],
    ['EPERM', 'permission is denied'],
    ['EROFS', 'its disk is read-only'],
    ['EBUSY', 'it is in use'],
  ])('%s is said in words', (system, words) => {
    const cause = Object.assign(new Error(`${system}: no`), { code: system, syscall: 'read' });
    expect(ioError(cause, 'read x').message).toBe(`Cannot read x: ${words}`);
  });

  test('an aborted signal is CANCELLED and keeps its reason', () => {
    expect(() => throwIfAborted(undefined)).not.toThrow();
    expect(error(() => throwIfAborted(AbortSignal.abort('why'), 'The run'))).toMatchObject({
      code: 'CANCELLED',
      message: 'The run was cancelled',
      cause: 'why',
    });
    const reason = new DuetError('CANCELLED', 'The run was stopped by SIGINT');
    expect(error(() => throwIfAborted(AbortSignal.abort(reason)))).toBe(reason);
  });

  test('values in messages are short', () => {
    expect([shown(undefined), shown(Number.NaN), shown('a'), shown([1])]).toEqual([
      'nothing',
      'NaN',
      '"a"',
      '[1]',
    ]);
    expect([shown(null), shown(() => 1), shown(new Float32Array(2)), shown(new Map())]).toEqual([
      'null',
      'a function',
      'Float32Array of 8 bytes',
      'an object of Map',
    ]);
    expect(shown('x'.repeat(500)).length).toBe(80);
  });
});

describe('validated', () => {
  const schema = z.strictObject({
    rounds: z.int().min(1),
    share: z.number().gt(0).max(1),
    names: z.array(z.string()).min(1),
    kind: z.enum(['a', 'b']),
    pair: z.tuple([z.number(), z.number()]).optional(),
    act: z.literal('gelu', 'Expected "gelu", the only one there is,').optional(),
    of: z.array(z.strictObject({ width: z.number().default(1) }).prefault({})).optional(),
  });
  const good = { rounds: 1, share: 0.5, names: ['x'], kind: 'a' };
  test.each([
    [{ rounds: 0 }, 'Expected number of at least 1 for rounds but received 0 (in settings)'],
    [{ rounds: 1.5 }, 'Expected integer for rounds but received 1.5 (in settings)'],
    [{ rounds: '3' }, 'Expected number for rounds but received "3" (in settings)'],
    [{ rounds: undefined }, 'Expected number for rounds but received nothing (in settings)'],
    [{ share: 0 }, 'Expected number above 0 for share but received 0 (in settings)'],
    [{ share: 2 }, 'Expected number of at most 1 for share but received 2 (in settings)'],
    [{ names: [] }, 'Expected length of at least 1 for names but received [] (in settings)'],
    [{ names: [3] }, 'Expected string for names[0] but received 3 (in settings)'],
    [{ kind: 'c' }, 'Expected one of "a", "b" for kind but received "c" (in settings)'],
    [
      { extra: 1 },
      'Expected only known settings but received extra; known are rounds, share, names, kind, pair, act, of (in settings)',
    ],
    [
      { of: [{}, { widht: 1, x: 2 }] },
      'Expected only known settings but received of[1].widht (perhaps width), of[1].x; known are width (in settings)',
    ],
    [{ act: 'relu' }, 'Expected "gelu", the only one there is, for act but received "relu" (in settings)'],
  ])('%o', (change, message) => {
    expect(error(() => validated(schema, { ...good, ...change }, 'settings')).message).toBe(message);
  });

  test('several problems are told at once', () => {
    expect(
      error(() => validated(schema, { ...good, rounds: 0, kind: 1 }, 'settings', 'CORRUPT')),
    ).toMatchObject({
      code: 'CORRUPT',
      message: expect.stringMatching(/for rounds .*\. Expected one of .* for kind/),
    });
  });
});

describe('the addon that does not load', () => {
  afterEach(() => vi.unstubAllEnvs());

  test.each([
    ['is not there', async () => '/nowhere/duet.node', /Cannot find module|cannot open/],
    [
      'is not an addon',
      async () => {
        const path = join(await temporaryFolder(), 'duet.node');
        await writeFile(path, 'no');
        return path;
      },
      /too short|invalid ELF|not a/,
    ],
  ])('%s', async (_, path, reason) => {
    vi.stubEnv('DUET_ADDON', await path());
    vi.resetModules();
    const fresh = await import('../src/native.js');
    const call = () => fresh.native.systemInfo();
    expect(call).toThrow(reason);
    expect(call).toThrow(/^Cannot load the native part of duet-train: .*; (reinstall|build|install)/);
  });
});

describe('a model folder', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await temporaryFolder();
    using model = tinyModel();
    await model.save(folder);
  });

  const copyWith = async (config: object | string) => {
    const copy = await temporaryFolder();
    await copyFile(join(folder, 'model.safetensors'), join(copy, 'model.safetensors'));
    await writeFile(join(copy, 'config.json'), typeof config === 'string' ? config : JSON.stringify(config));
    return copy;
  };
  const plain = viltPreset('tiny', {
    vocab_size: 20,
    hidden_size: 32,
    intermediate_size: 64,
    image_size: 32,
    max_position_embeddings: 8,
  });

  test('opens as it was saved', async () => {
    using saved = tinyModel();
    using model = await Vilt.fromPretrained(folder, { answers: 4, adapters: { reduction: 8 }, threads: 1 });
    const batch = madeBatch(1);
    expect(await model.evaluate(batch, 'vqa', 'none')).not.toEqual(
      await saved.evaluate(batch, 'vqa', 'none'),
    );
    expect((await model.hiddenStates(batch)).poolerOutput).toEqual(
      (await saved.hiddenStates(batch)).poolerOutput,
    );
    expect(await model.fingerprint()).toMatch(/^[0-9a-f]{64}$/);
  });

  const bad: [string, () => Promise<string>, string, RegExp][] = [
    [
      'that is not there',
      async () => '/nowhere',
      'NOT_FOUND',
      /a model folder holds config.json and model.safetensors/,
    ],
    ['without weights', async () => await rmWeights(), 'NOT_FOUND', /model\.safetensors/],
    ['whose config is not JSON', () => copyWith('{'), 'CORRUPT', /Expected JSON in model config/],
    [
      'of another architecture',
      () => copyWith({ model_type: 'bert', architectures: ['BertModel'] }),
      'UNSUPPORTED',
      /Expected a ViLT model .* but received bert, BertModel/,
    ],
    [
      'with another activation',
      () => copyWith({ ...plain, hidden_act: 'relu' }),
      'INVALID_ARGUMENT',
      /Expected "gelu".* for hidden_act but received "relu"/,
    ],
    [
      'that draws patches at random',
      () => copyWith({ ...plain, max_image_length: 40 }),
      'INVALID_ARGUMENT',
      /max_image_length/,
    ],
    [
      'with impossible sizes',
      () => copyWith({ ...plain, num_attention_heads: 5 }),
      'INVALID_ARGUMENT',
      /divisible by num_attention_heads but received 32 and 5/,
    ],
    [
      'with a layer too many',
      () => copyWith({ ...plain, num_hidden_layers: 3 }),
      'INVALID_ARGUMENT',
      /Missing: encoder\.layer\.2\./,
    ],
    [
      'with a layer too few',
      () => copyWith({ ...plain, num_hidden_layers: 1 }),
      'INVALID_ARGUMENT',
      /Unexpected: encoder\.layer\.1\./,
    ],
    [
      'of another width',
      () => copyWith({ ...plain, vocab_size: 21 }),
      'INVALID_ARGUMENT',
      /word_embeddings\.weight is .*20.*expected .*21/,
    ],
  ];

  async function rmWeights(): Promise<string> {
    const copy = join(await temporaryFolder(), 'empty');
    await mkdir(copy);
    await writeFile(join(copy, 'config.json'), JSON.stringify(plain));
    return copy;
  }

  test.each(bad)('%s', async (_, path, code, message) => {
    await expect(Vilt.fromPretrained(await path(), { threads: 1 })).rejects.toMatchObject({
      name: 'DuetError',
      code,
      message: expect.stringMatching(message),
    });
  });

  test('that is damaged', async () => {
    const copy = await copyWith(plain);
    await writeFile(join(copy, 'model.safetensors'), 'not tensors');
    await expect(Vilt.fromPretrained(copy)).rejects.toMatchObject({ code: 'CORRUPT' });
  });
});

describe('a model', () => {
  test('unknown options, devices and names', async () => {
    expect(() => Vilt.create(viltPreset('tiny'), { colour: 'red' } as object)).toThrow(
      /only known settings but received colour/,
    );
    expect(() => Vilt.create(viltPreset('tiny'), { device: 'tpu' as 'cpu' })).toThrow(
      /Expected auto, cpu, cuda or cuda:<index> for device but received "tpu"/,
    );
    expect(() => viltPreset('huge' as 'tiny')).toThrow(
      /Expected one of tiny, small, base for size but received "huge"/,
    );
    expect(() => viltConfig({ hidden_size: 0 })).toThrow(/at least 1 for hidden_size/);
    using model = tinyModel();
    await expect(model.read(['encoder.layer.9'])).rejects.toMatchObject({
      name: 'DuetError',
      code: 'NOT_FOUND',
    });
    expect(() => model.addHead('a b', 2)).toThrow(/letters, digits/);
    await expect(model.evaluate(madeBatch(1), 'sums')).rejects.toMatchObject({ name: 'DuetError' });
  });

  test('answers, folders and tokenizers that cannot be', async () => {
    expect(() => Vilt.create(viltPreset('tiny'), { answers: 'yes' as never })).toThrow(
      'Expected AnswerVocabulary, list of texts or number of classes for answers but received "yes"',
    );
    await expect(Vilt.fromPretrained(undefined as never)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message:
        'Expected text for folder but received nothing; name the folder of a model, with config.json and model.safetensors',
    });
    const folder = await temporaryFolder();
    const tokenizer = Tokenizer.fromTexts(['a'], { size: 300 });
    const config = viltPreset('tiny', { vocab_size: tokenizer.size });
    using model = Vilt.create(config, { tokenizer });
    await model.save(folder);
    expect(() => Vilt.create({ ...config, vocab_size: tokenizer.size - 1 }, { tokenizer })).toThrow(
      `Expected at most ${tokenizer.size - 1} tokens (vocab_size of the config) in tokenizer but found ${tokenizer.size}`,
    );
    await appendFile(join(folder, 'vocab.txt'), 'one\nmore\n');
    await expect(Vilt.fromPretrained(folder)).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringMatching(/at most \d+ tokens .* in .*vocab\.txt but found \d+/),
    });
  });

  test('that is disposed of says so', async () => {
    const model = tinyModel();
    model.dispose();
    model.dispose();
    expect(() => model.memory()).toThrow(/live model but this one has been disposed of/);
  });

  test('native errors are DuetErrors', async () => {
    await expect(native.readSafetensors('/nowhere')).rejects.toBeInstanceOf(DuetError);
  });
});

test('published names there and back', () => {
  const pairs = [
    ['encoder.layer.3.output.dense.weight', 'vilt_encoder.vilt.encoder.layer.3.output.layer.dense.weight'],
    [
      'encoder.layer.3.attention.output.dense.bias',
      'vilt_encoder.vilt.encoder.layer.3.attention.output.dense.bias',
    ],
    [
      'encoder.layer.3.output.adapter.adapter_1_up.bias',
      'vilt_encoder.vilt.encoder.layer.3.output.adapter.adapter_1_up.bias',
    ],
    ['pooler.dense.weight', 'vilt_encoder.vilt.pooler.dense.weight'],
    ['task_layer.art.clf_fc0.weight', 'task_layer.art.clf_fc0.weight'],
  ] as const;
  for (const [ours, published] of pairs) {
    expect(publishedName(ours)).toBe(published);
    expect(nameFromPublished(published)).toBe(ours);
  }
  expect(() => nameFromPublished('bert.pooler')).toThrow(/begins with vilt_encoder\.vilt\. or task_layer\./);
});
