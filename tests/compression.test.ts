// Shorter forms of updates: how far they are off, what they take, what they refuse.

import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Random } from '../src/data/random.js';
import { CODEC_NAMES, type CodecName, type UpdateCodec, updateCodec } from '../src/federated/compression.js';
import type { TensorData, Tensors } from '../src/native/core.js';
import { native } from '../src/native.js';
import { temporaryFolder } from './federation-support.js';

const BLOCK = 256;

function tensors(seed: number, deviation: number): Tensors {
  const random = new Random(seed, 31);
  const values = (count: number) => random.normals(count).map((value) => value * deviation);
  return { 'adapter.down.weight': values(3 * BLOCK + 17), 'adapter.up.bias': values(5), empty: values(0) };
}
const received = tensors(1, 0.05);
const moved = (by: Tensors): Tensors =>
  Object.fromEntries(
    Object.entries(received).map(([name, values]) => [name, values.map((value, i) => value + by[name]![i]!)]),
  );
const update = moved(tensors(2, 1e-3));

const roundTrip = (codec: UpdateCodec, values: Tensors, before: Tensors) =>
  updateCodec(codec.name).decode(codec.encode(values, before), before);

/** Of fp32 at a value: half a unit in the last place. */
const ulp = (value: number) => 2 ** Math.max(-149, Math.floor(Math.log2(Math.abs(value) || 1e-45)) - 24);

/** How far a decoded value may be off, apart from the sum's own rounding. */
const bounds: Record<CodecName, (difference: number, largest: number) => number> = {
  fp32: () => 0,
  bf16: (difference) => Math.abs(difference) * 2 ** -8 + 2 ** -134,
  int8: (_, largest) => largest / 254 + 2 ** -142,
};

function expectClose(codec: UpdateCodec, values: Tensors, before: Tensors, steps = 1): void {
  const decoded = roundTrip(codec, values, before);
  expect(Object.keys(decoded)).toEqual(Object.keys(before));
  for (const [name, start] of Object.entries(before)) {
    const differences = [...values[name]!].map((value, i) => value - start[i]!);
    for (const [i, difference] of differences.entries()) {
      const first = Math.floor(i / BLOCK) * BLOCK;
      const largest = Math.max(...differences.slice(first, first + BLOCK).map(Math.abs));
      const rounding = codec.name === 'fp32' ? 0 : 2 * ulp(values[name]![i]!) + largest * 2 ** -20;
      const off = Math.abs(decoded[name]![i]! - values[name]![i]!);
      expect(off, `${name}[${i}]`).toBeLessThanOrEqual(
        steps * bounds[codec.name](difference, largest) + rounding,
      );
    }
  }
}

describe.each(CODEC_NAMES)('%s', (name) => {
  const codec = updateCodec(name);

  test('comes back within its bound', () => {
    expectClose(codec, update, received);
    expectClose(codec, received, received);
    expect(roundTrip(codec, received, received)).toEqual(received);
  });

  test('comes back within its bound, whatever the numbers', () => {
    const float = fc.float({ noNaN: true, noDefaultInfinity: true, min: -(2 ** 100), max: 2 ** 100 });
    const pair = fc.array(fc.tuple(float, float), { maxLength: 300 });
    fc.assert(
      fc.property(pair, (pairs) => {
        const before = { x: Float32Array.from(pairs, ([start]) => start) };
        expectClose(codec, { x: Float32Array.from(pairs, ([, end]) => end) }, before);
      }),
    );
  });

  test('survives a safetensors file', async () => {
    const path = join(await temporaryFolder(), 'update.safetensors');
    const encoded = codec.encode(update, received);
    await native.writeSafetensors(path, encoded, {});
    const read = await native.readSafetensors(path);
    expect(codec.decode(read.tensors, received)).toEqual(roundTrip(codec, update, received));
  });

  test('numbers that are not finite are not encoded', () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]) {
      const broken = { ...update, 'adapter.up.bias': update['adapter.up.bias']!.with(3, bad) };
      expect(() => codec.encode(broken, received)).toThrow(
        expect.objectContaining({
          code: 'NOT_FINITE',
          message: expect.stringContaining('adapter.up.bias'),
        }),
      );
    }
    expect(() => codec.encode({ ...update, extra: new Float32Array(1) }, received)).toThrow(/no extra/);
    expect(() => codec.encode({ ...update, empty: new Float32Array(1) }, received)).toThrow(
      /0 values of empty/,
    );
  });

  /** Encoded, with one tensor changed. */
  const changed = (change: (encoded: Record<string, TensorData>) => void) => {
    const encoded = codec.encode(update, received);
    change(encoded);
    return () => codec.decode(encoded, received);
  };
  const corrupt = (message: RegExp) =>
    expect.objectContaining({ code: 'CORRUPT', message: expect.stringMatching(message) });
  const bias = 'adapter.up.bias';

  test('other names, types and lengths are refused', () => {
    const other: TensorData = { dtype: 'f16', shape: [5], data: new Uint16Array(5) };
    expect(changed((encoded) => delete encoded[bias])).toThrow(
      corrupt(/for adapter.up.bias .* found nothing/),
    );
    expect(changed((encoded) => (encoded.extra = other))).toThrow(corrupt(/no tensor extra/));
    expect(changed((encoded) => (encoded[bias] = other))).toThrow(corrupt(/found "f16"/));
    expect(changed((encoded) => (encoded[bias] = { ...encoded[bias]!, data: new Int32Array(5) }))).toThrow(
      corrupt(/Expected .* for adapter.up.bias/),
    );
    for (const length of [0, 4, 6, 1000]) {
      const { dtype, data } = codec.encode(update, received)[bias]!;
      const longer = new (data.constructor as typeof Float32Array)(length) as Float32Array;
      expect(
        changed((encoded) => (encoded[bias] = { dtype, shape: [length], data: longer.fill(1) })),
      ).toThrow(corrupt(/adapter.up.bias/));
    }
    expect(
      changed((encoded) => Object.defineProperty(encoded, '__proto__', { value: other, enumerable: true })),
    ).toThrow(corrupt(/no tensor __proto__/));
    expect(changed((encoded) => (encoded[bias] = null as never))).toThrow(corrupt(/found nothing/));
    const inherited = Object.create(codec.encode(update, received)) as Record<string, TensorData>;
    expect(() => codec.decode(inherited, received)).toThrow(corrupt(/found nothing/));
  });

  test('decoded numbers that are not finite are refused', () => {
    const infinite: Record<CodecName, [string, TensorData]> = {
      fp32: [bias, { dtype: 'f32', shape: [5], data: Float32Array.of(0, 0, Number.NaN, 0, 0) }],
      bf16: [bias, { dtype: 'bf16', shape: [5], data: Uint16Array.of(0, 0, 0x7f80, 0, 0) }],
      int8: [`scales/${bias}`, { dtype: 'f32', shape: [1], data: Float32Array.of(Infinity) }],
    };
    const [where, what] = infinite[name];
    expect(changed((encoded) => (encoded[where] = what))).toThrow(corrupt(/adapter.up.bias/));
  });
});

describe('int8', () => {
  const int8 = updateCodec('int8');
  const data = (codec: UpdateCodec) => codec.encode(update, received)['adapter.down.weight']!.data;

  test('writes steps of 1/127 of the largest difference of 256', () => {
    const before = { x: new Float32Array(BLOCK + 2) };
    const x = new Float32Array(BLOCK + 2);
    x.set([127, -127, 1, 0.49, 0.51, -2.5]);
    x.set([0.5, 0.25], BLOCK);
    const encoded = int8.encode({ x }, before);
    expect([...encoded.x!.data.subarray(0, 7)].map(Number)).toEqual([255, 1, 129, 128, 129, 126, 128]);
    expect([...encoded.x!.data.subarray(BLOCK)].map(Number)).toEqual([255, 192]);
    expect(encoded['scales/x']).toEqual({
      dtype: 'f32',
      shape: [2],
      data: Float32Array.of(1, Math.fround(0.5) / 127),
    });
  });

  test('takes a quarter of the bytes, bf16 half', () => {
    const size = (name: CodecName) =>
      Object.values(updateCodec(name).encode(update, received)).reduce(
        (sum, t) => sum + t.data.byteLength,
        0,
      );
    const values = Object.values(received).reduce((sum, { length }) => sum + length, 0);
    expect([size('fp32'), size('bf16'), size('int8')]).toEqual([4 * values, 2 * values, values + 4 * 5]);
  });

  test('stochastic rounding is off by less than a step, and the same for the same draws', () => {
    const codec = updateCodec('int8', { seed: 3, stream: 8 });
    expectClose(codec, update, received, 2);
    expect(data(codec)).toEqual(data(updateCodec('int8', { seed: 3, stream: 8 })));
    expect(data(codec)).not.toEqual(data(updateCodec('int8', { seed: 3, stream: 9 })));
    expect(data(codec)).not.toEqual(data(updateCodec('int8', { seed: 4, stream: 8 })));
    expect(data(codec)).not.toEqual(data(int8));
    const same = { x: new Float32Array(BLOCK).fill(0.3).with(0, 127) };
    const pair = { ...same, y: same.x };
    const before = { x: new Float32Array(BLOCK), y: new Float32Array(BLOCK) };
    const encoded = codec.encode(pair, before);
    expect(encoded.x!.data, 'parameters have draws of their own').not.toEqual(encoded.y!.data);
  });

  test('stochastic rounding is right on average, to nearest is not', () => {
    const count = 40 * BLOCK;
    const before = { x: new Float32Array(count) };
    // A step is 1: 127 is the largest of each 256.
    const x = Float32Array.from({ length: count }, (_, i) => (i % BLOCK === 0 ? 127 : 0.3));
    const mean = (codec: UpdateCodec) => {
      const decoded = roundTrip(codec, { x }, before).x!.filter((_, i) => i % BLOCK !== 0);
      return decoded.reduce((sum, value) => sum + value, 0) / decoded.length;
    };
    expect(mean(int8)).toBe(0);
    const error = (5 * Math.sqrt(0.3 * 0.7)) / Math.sqrt(count);
    expect(Math.abs(mean(updateCodec('int8', { seed: 1, stream: 1 })) - 0.3)).toBeLessThan(error);
    const whole = Float32Array.from(x, (value, i) => (i % BLOCK === 0 ? value : (i % 255) - 127));
    expect(roundTrip(updateCodec('int8', { seed: 1, stream: 1 }), { x: whole }, before).x).toEqual(whole);
  });

  test('scales and steps a client never writes are refused', () => {
    const scales = 'scales/adapter.up.bias';
    for (const [where, value, message] of [
      [scales, -1, /scale of at least 0/],
      [scales, Number.NaN, /scale of at least 0/],
      [scales, 3e38, /finite number/],
      ['adapter.up.bias', 0, /from 1 to 255/],
    ] as const) {
      const encoded = int8.encode(update, received);
      (encoded[where]!.data as Float32Array).fill(value);
      expect(() => int8.decode(encoded, received)).toThrow(
        expect.objectContaining({ code: 'CORRUPT', message: expect.stringMatching(message) }),
      );
    }
    const encoded = int8.encode(update, received);
    encoded[scales] = { dtype: 'f32', shape: [2], data: new Float32Array(2) };
    expect(() => int8.decode(encoded, received)).toThrow(/1 scales/);
  });
});

test('differences beyond the range of a type are not encoded', () => {
  const far = [{ x: Float32Array.of(3e38) }, { x: Float32Array.of(-3e38) }] as const;
  for (const name of ['bf16', 'int8'] as const)
    expect(() => updateCodec(name).encode(...far)).toThrow(
      /Update of x: Expected a finite number at place 0/,
    );
  const rounded = [{ x: Float32Array.of(3.4e38) }, { x: Float32Array.of(0) }] as const;
  expect(() => updateCodec('bf16').encode(...rounded)).toThrow(/finite number/);
});

test('parameters may be called anything', () => {
  const named = (values: number[]) =>
    Object.defineProperty({}, '__proto__', {
      value: Float32Array.from(values),
      enumerable: true,
    }) as unknown as Tensors;
  for (const name of CODEC_NAMES) {
    const decoded = updateCodec(name).decode(
      updateCodec(name).encode(named([1, 2]), named([1, 2])),
      named([1, 2]),
    );
    expect(Object.entries(decoded)).toEqual([['__proto__', Float32Array.of(1, 2)]]);
  }
});

test('codecs and draws that are not there are refused', () => {
  expect(() => updateCodec('int4' as CodecName)).toThrow(
    /one of fp32, bf16, int8 for codec but received "int4"/,
  );
  expect(() => updateCodec('bf16', { seed: 1, stream: 1 })).toThrow(/no draws for bf16/);
  expect(() => updateCodec('int8', { seed: -1, stream: 1 })).toThrow(/seed but received -1/);
});
