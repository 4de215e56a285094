// Whatever a program hands to the addon, it gets an Error with a code and words: nothing crashes, and
// nothing unusual is thrown.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { NativeVilt, ViltShape } from '../src/native/federated.js';
import {
  addon,
  CLASSES,
  rejection,
  tinyBatch,
  tinyShape,
  trainableModel,
  training,
} from './native-support.js';

const patient = Boolean(process.env.DUET_SANITIZED) || overcommits();
if (patient)
  console.log(
    'impossible shapes: skipped, memory that is not there is promised here (sanitizer or overcommit)',
  );

/** Whether the system grants any size and ends processes later. */
function overcommits(): boolean {
  try {
    return readFileSync('/proc/sys/vm/overcommit_memory', 'utf8').trim() === '1';
  } catch {
    return false;
  }
}

// Some of the odd paths are good ones: what is written to them lands in a folder of its own.
const place = { home: process.cwd(), odd: mkdtempSync(join(tmpdir(), 'duet-odd-')) };
beforeAll(() => process.chdir(place.odd));
afterAll(() => {
  process.chdir(place.home);
  rmSync(place.odd, { recursive: true });
});

type Anything = (...args: unknown[]) => unknown;

const detached = new Float32Array(8);
structuredClone(detached.buffer, { transfer: [detached.buffer] });
const angry = new Proxy(
  {},
  {
    get() {
      throw new TypeError('no');
    },
    ownKeys() {
      throw new TypeError('no');
    },
  },
);

/** One of each kind of value that is easy to forget. */
const oddValues: [name: string, value: unknown][] = [
  ['undefined', undefined],
  ['null', null],
  ['true', true],
  ['0', 0],
  ['-1', -1],
  ['1.5', 1.5],
  ['NaN', Number.NaN],
  ['Infinity', Infinity],
  ['2^53', 2 ** 53],
  ['1e308', 1e308],
  ['a BigInt', 10n ** 30n],
  ['a symbol', Symbol('x')],
  ['an empty string', ''],
  ['a string', 'text'],
  ['a lone surrogate', '\ud800'],
  ['a NUL', 'a\0b'],
  ['a long string', 'x'.repeat(100_000)],
  ['a function', () => 1],
  ['a class', class {}],
  ['an object', {}],
  ['an object without prototype', Object.create(null)],
  ['an object that throws', angry],
  [
    'a getter that throws',
    {
      get batch() {
        throw new Error('no');
      },
      get vocabSize() {
        throw new Error('no');
      },
    },
  ],
  ['an empty array', []],
  ['a sparse array', new Array(3)],
  ['an array of odd things', [undefined, Symbol('x'), {}, [[]]]],
  ['a date', new Date(0)],
  ['a map', new Map([['a', 1]])],
  ['a promise', Promise.resolve(1)],
  ['an ArrayBuffer', new ArrayBuffer(8)],
  ['a DataView', new DataView(new ArrayBuffer(8))],
  ['a Float64Array', new Float64Array(3)],
  ['an empty Float32Array', new Float32Array()],
  ['a detached array', detached],
  ['a shared array', new Float32Array(new SharedArrayBuffer(16))],
  ['a tensor without data', { dtype: 'f32', shape: [2] }],
  ['a tensor of a wrong length', { dtype: 'f32', shape: [2 ** 40, 2 ** 40], data: new Float32Array(2) }],
  ['a model', new addon.Vilt(tinyShape(), {})],
];

/** Calls; gives the error, thrown or rejected, or undefined. */
async function outcome(call: () => unknown): Promise<unknown> {
  try {
    await call();
  } catch (error) {
    return error ?? new Error('nothing was thrown');
  }
  return undefined;
}

/** Errors that are the caller's own: those of the odd value itself. */
const own: Record<string, string> = {
  'an object that throws': 'no',
  'a getter that throws': 'no',
  'a symbol': 'Cannot convert a Symbol',
  'an array of odd things': 'Cannot convert a Symbol',
};

/** @param what the name of the odd value */
function expectPlainError(error: unknown, what: string, from: string): void {
  if (error === undefined) return;
  const where = `${what} as ${from}`;
  expect(error, where).toBeInstanceOf(Error);
  const { code, message } = error as { code?: unknown; message: string };
  if (own[what] !== undefined && message.startsWith(own[what])) return;
  expect(
    ['INVALID_ARGUMENT', 'NOT_FOUND', 'UNSUPPORTED', 'IO', 'CORRUPT', 'CANCELLED'],
    `${where}: ${message}`,
  ).toContain(code);
  expect(message.length, where).toBeLessThan(2100);
}

/** Whether it is about an argument, and not about the state of a model. */
const isRefusal = (error: unknown) =>
  (error as { code?: unknown } | undefined)?.code === 'INVALID_ARGUMENT' &&
  (error as Error).message.startsWith('Expected ');

/** Sound arguments are not refused; each of them is, where an odd value stands in its place, in plain words. */
async function expectChecked(name: string, call: Anything, args: readonly unknown[]): Promise<void> {
  const sound = await outcome(() => call(...args));
  expect(isRefusal(sound), `${name} with sound arguments: ${sound}`).toBe(false);
  for (const place of args.keys()) {
    let refused = 0;
    for (const [what, value] of oddValues) {
      const error = await outcome(() => call(...args.with(place, value)));
      expectPlainError(error, what, `argument ${place} of ${name}`);
      if (isRefusal(error)) refused++;
    }
    expect(refused, `values refused as argument ${place} of ${name}`).toBeGreaterThan(oddValues.length / 2);
  }
}

const classes = ['Vilt', 'Dfgn', 'TextEncoder', 'AutoencoderKl'];
const functions = Object.entries(addon).filter(([name]) => !classes.includes(name)) as [string, Anything][];
const fine: Record<string, unknown[]> = {
  readSafetensors: ['/nowhere'],
  writeSafetensors: ['/nowhere/x', {}, {}],
  resizePicture: [new Uint8Array(12), 2, 2, 3, 3],
  preparePictures: [
    [{ rgb: new Uint8Array(12), width: 2, height: 2 }],
    {
      shortestEdge: 32,
      longestEdge: 0,
      sizeDivisor: 32,
      resize: true,
      rescaleFactor: 1,
      mean: [0, 0, 0],
      std: [1, 1, 1],
    },
  ],
  resizeRgba: [new Uint8Array(16), 1, 2, 2, 3, 3],
  compositeOnWhite: [new Uint8Array(16), true],
  stackClips: [[{ strip: new Uint8Array(12), frames: 1 }], 2, 2, 2, 3],
  framesFromValues: [new Float32Array(24), 2, 2, 2, 3],
  resizeValues: [new Float32Array(8), 2, 2, 3, 3],
  clusterLabels: [Float64Array.of(0, 1, 5, 6), 4, 2],
  gaussianOfMoments: [new Float32Array(32), 2],
  encodeGif: [new Uint8Array(32), 2, 2, [5, 5], 0, 16],
  weightedAverage: [[new Float32Array(2)], [1]],
  accumulate: [new Float32Array(2), new Float32Array(2), 1],
  distance: [new Float32Array(2), new Float32Array(2)],
  noisyUpdate: [new Float32Array(2), new Float32Array(2), new Uint8Array(16), 1, 1, 1],
  encodeInt8: [new Float32Array(2), new Float32Array(2), { seed: 1, stream: 1, counter: 0 }],
  decodeInt8: [Uint8Array.of(1, 2), new Float32Array(1), new Float32Array(2)],
  encodeBf16: [new Float32Array(2), new Float32Array(2)],
  decodeBf16: [{ dtype: 'bf16', shape: [2], data: new Uint16Array(2) }, new Float32Array(2)],
  allFinite: [new Float32Array(2)],
  runOp: ['softmax', { x: { dtype: 'f32', shape: [1, 2], data: new Float32Array(2) } }, {}, undefined],
  opNames: [],
  productRate: [8, 8, 8, 'f32'],
  systemInfo: [],
  describeDevices: ['cuda'],
  setThreads: [0],
};

describe('odd values in the place of each argument', () => {
  test('the list of functions is the whole export list', () => {
    expect(functions.map(([name]) => name).sort()).toEqual(Object.keys(fine).sort());
  });

  test.each(functions)('%s', async (name, call) => {
    await expectChecked(name, call, fine[name] as unknown[]);
    for (const [what, value] of oddValues)
      expectPlainError(await outcome(() => call(value)), what, `the only argument of ${name}`);
    expectPlainError(await outcome(() => call()), 'nothing', `all of ${name}`);
    addon.setThreads(0);
  });

  test('class Vilt', async () => {
    const model = await trainableModel();
    const batch = tinyBatch(tinyShape());
    const methods: Record<string, unknown[]> = {
      parameters: [],
      memory: [],
      load: ['/nowhere'],
      addAdapters: [8, 1],
      addHead: ['other', 2, 1],
      read: [['pooler.dense.bias']],
      write: [{}],
      startTraining: [training],
      step: [batch],
      gradients: [],
      optimizerState: [],
      setOptimizerState: [{}],
      evaluate: [batch, 'test', 'none'],
      hiddenStates: [batch, 'none'],
      cancel: [],
      dispose: [],
    };
    const prototype = addon.Vilt.prototype as unknown as Record<string, Anything>;
    expect(Object.getOwnPropertyNames(prototype).sort()).toEqual(
      [...Object.keys(methods), 'constructor'].sort(),
    );
    for (const [name, args] of Object.entries(methods)) {
      const method = prototype[name] as Anything;
      expect(() => method.call({}), name).toThrow(TypeError);
      expect(() => method.call(undefined), name).toThrow(TypeError);
      if (name === 'dispose') continue;
      await expectChecked(name, (...given) => method.call(model, ...given), args);
    }
    // It is in order after all that.
    await model.startTraining(training);
    expect((await model.step(batch)).loss).toBeGreaterThan(0);
    model.dispose();
  });

  test('the constructor', async () => {
    const call = addon.Vilt as unknown as Anything;
    expect(() => call(tinyShape(), {})).toThrow(TypeError);
    for (const [what, value] of oddValues) {
      expectPlainError(await outcome(() => new addon.Vilt(value as ViltShape, {})), what, 'shape');
      expectPlainError(await outcome(() => new addon.Vilt(tinyShape(), value as object)), what, 'options');
    }
  });
});

describe('odd values in the place of each field', () => {
  async function vary(what: string, value: object, call: (changed: object) => unknown): Promise<void> {
    for (const key of Object.keys(value)) {
      for (const [name, odd] of oddValues) {
        expectPlainError(await outcome(() => call({ ...value, [key]: odd })), name, `${what}.${key}`);
      }
    }
  }

  test('a model shape', async () => {
    await vary('shape', tinyShape(), (shape) =>
      new addon.Vilt(shape as ViltShape, { initialise: false }).dispose(),
    );
  });

  test('a batch', async () => {
    const model = await trainableModel();
    const batch = tinyBatch(tinyShape());
    await vary('batch', batch, (changed) => model.step(changed as typeof batch));
    await vary('batch', batch, (changed) => model.evaluate(changed as typeof batch, 'test', 'gated'));
    for (const key of ['inputIds', 'tokenTypeIds'] as const) {
      for (const id of [-1, 1000, -(2 ** 31), 2 ** 31 - 1]) {
        const ids = batch[key].map(() => id);
        expect((await rejection(model.step({ ...batch, [key]: ids }))).message).toContain(`received ${id}`);
      }
    }
    const blank = { ...batch, pixelMask: new Uint8Array(batch.pixelMask.length) };
    expect((await rejection(model.step(blank))).code).toBe('INVALID_ARGUMENT');
    const blind = { ...batch, attentionMask: new Uint8Array(batch.attentionMask.length) };
    expect((await rejection(model.step(blind))).code).toBe('INVALID_ARGUMENT');
    model.dispose();
  });

  test('training options', async () => {
    const model = await trainableModel();
    const more = {
      ...training,
      adapter: 'adapter_1',
      temperature: 3,
      order: 'merged',
      clearGradients: 'none',
      seed: 1,
    };
    await vary('options', { ...more, maxGradNorm: 1, keepGradients: false, keepOutputs: false }, (changed) =>
      model.startTraining(changed as typeof training),
    );
    await vary('optimizer', training.optimizer, (optimizer) =>
      model.startTraining({ ...training, optimizer: optimizer as typeof training.optimizer }),
    );
    await vary('schedule', training.schedule, (schedule) =>
      model.startTraining({ ...training, schedule: schedule as typeof training.schedule }),
    );
    model.dispose();
  });

  test('a picture and how it is prepared', async () => {
    const [[picture], spec] = fine.preparePictures as [[object], object];
    await vary('picture', picture, (changed) => addon.preparePictures([changed as never], spec as never));
    await vary('spec', spec, (changed) => addon.preparePictures([picture as never], changed as never));
  });
});

describe('values that change while they are read', () => {
  test('a getter that detaches an array which was already checked', async () => {
    const model = await trainableModel();
    const batch = tinyBatch(tinyShape());
    const pixelValues = new Float32Array(batch.pixelValues);
    const trap = {
      ...batch,
      pixelValues,
      get targets() {
        structuredClone(pixelValues.buffer, { transfer: [pixelValues.buffer] });
        return new Float32Array(2 * CLASSES);
      },
    };
    expect((await rejection(model.step(trap))).message).toMatch(
      /Expected pixelValues of \d+ elements but received 0/,
    );
    const data = new Float32Array(4);
    const tensors = {
      a: { dtype: 'f32', shape: [4], data },
      get b() {
        structuredClone(data.buffer, { transfer: [data.buffer] });
        return { dtype: 'f32', shape: [4], data: new Float32Array(4) };
      },
    };
    const error = await rejection(addon.writeSafetensors('/nowhere/x', tensors as never, {}));
    expect(error.message).toMatch(/Expected 4 elements for tensor 'a'.data but received 0/);
    model.dispose();
  });

  test('integers of a batch that change during the step', async () => {
    const model = await trainableModel();
    const batch = tinyBatch(tinyShape());
    const step = model.step(batch);
    batch.inputIds.fill(2 ** 30);
    batch.pixelMask.fill(0);
    expect((await step).loss).toBeGreaterThan(0);
    model.dispose();
  });
});

describe.skipIf(patient)('shapes that no memory holds', () => {
  test.each([
    ['vocabSize', { vocabSize: 2 ** 31 }],
    ['hiddenSize', { hiddenSize: 2 ** 20 }],
    ['layers', { layers: 4096, hiddenSize: 2 ** 16 }],
    ['patchSize', { patchSize: 4096, imageSize: 4096, hiddenSize: 2 ** 20, channels: 1024 }],
  ])('%s', async (_name, change) => {
    const create = () =>
      new addon.Vilt(tinyShape({ ...change, heads: 1 }), { initialise: false }) as NativeVilt;
    const error = (await outcome(create)) as Error & { code: string };
    expect(error.message).toMatch(/memory/i);
  });
});
