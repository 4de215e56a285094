// Bodies of the protocol: what is written is read again, by the native reader too, and nothing else is read.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { decodeBody, encodeBody } from '../src/federated/server/safetensors.js';
import type { TensorData } from '../src/native/core.js';
import { native } from '../src/native.js';
import { temporaryFolder } from './federation-support.js';

const arrays = { f32: Float32Array, bf16: Uint16Array, i64: BigInt64Array, i32: Int32Array, u8: Uint8Array };

const tensor = fc
  .tuple(
    fc.constantFrom('f32', 'bf16', 'i64', 'i32', 'u8'),
    fc.array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 }),
  )
  .map(([dtype, shape]): TensorData => {
    const size = shape.reduce((product, edge) => product * edge, 1);
    const kind = arrays[dtype as keyof typeof arrays];
    const bytes = Uint8Array.from({ length: size * kind.BYTES_PER_ELEMENT }, (_, i) => (i * 37) % 120);
    return { dtype: dtype as TensorData['dtype'], shape, data: new kind(bytes.buffer) as TensorData['data'] };
  });
// The native writer takes no empty names.
const names = fc.string({ minLength: 1, maxLength: 12 }).filter((name) => name !== '__metadata__');
const tensors = fc.dictionary(names, tensor, { maxKeys: 6 });

test('is read again, here and by the native reader', async () => {
  const path = join(await temporaryFolder(), 'body.safetensors');
  await fc.assert(
    fc.asyncProperty(tensors, fc.dictionary(fc.string(), fc.string()), async (given, metadata) => {
      const body = encodeBody(given, metadata);
      const read = decodeBody(body, 'the body');
      expect({ ...read.tensors }).toEqual({ ...given });
      expect({ ...read.metadata }).toEqual({ ...metadata });
      await writeFile(path, body);
      const file = await native.readSafetensors(path);
      expect({ ...file.tensors }).toEqual({ ...given });
    }),
    { numRuns: 60 },
  );
});

test('values are views into the body', () => {
  const body = encodeBody({ a: { dtype: 'f32', shape: [2], data: new Float32Array([1, 2]) } });
  expect(decodeBody(body, 'it').tensors.a?.data.buffer).toBe(body.buffer);
});

describe('anything else is refused:', () => {
  const raw = (header: string, data = 0): Uint8Array<ArrayBuffer> => {
    const text = Buffer.from(header);
    const body = new Uint8Array(8 + text.length + data);
    new DataView(body.buffer).setBigUint64(0, BigInt(text.length), true);
    body.set(text, 8);
    return body;
  };
  const entry = (rest: object) =>
    JSON.stringify({ a: { dtype: 'F32', shape: [1], data_offsets: [0, 4], ...rest } });
  const length = (value: bigint) => {
    const body = raw(entry({}), 4);
    new DataView(body.buffer).setBigUint64(0, value, true);
    return body;
  };
  const bad: [string, Uint8Array<ArrayBuffer>][] = [
    ['nothing', new Uint8Array()],
    ['half a length', new Uint8Array(5)],
    ['a header of 2^63 bytes', length(2n ** 63n)],
    ['a header longer than the body', length(1000n)],
    ['a header of 2 MiB', length(2n ** 21n)],
    ['no JSON', raw('{"a"')],
    ['a list', raw('[]')],
    ['bad UTF-8', raw('\u{0}').fill(0xff, 8)],
    ['an unknown type', raw(entry({ dtype: 'F64' }), 4)],
    ['a strange key', raw(entry({ extra: 1 }), 4)],
    ['a negative edge', raw(entry({ shape: [-1] }), 4)],
    ['a broken edge', raw(entry({ shape: [0.5] }), 4)],
    ['edges whose product is infinite', raw(entry({ shape: [2 ** 53 - 1, 2 ** 53 - 1] }), 4)],
    ['offsets of another length', raw(entry({ data_offsets: [0, 8] }), 8)],
    ['one offset', raw(entry({ data_offsets: [4] }), 4)],
    ['bytes that are missing', raw(entry({}), 3)],
    ['bytes left over', raw(entry({}), 5)],
    ['a hole', raw(entry({ data_offsets: [4, 8] }), 8)],
    ['metadata that are no texts', raw('{"__metadata__":{"a":1}}')],
  ];
  test.each(bad)('%s', (_, body) => {
    expect(() => decodeBody(body, 'the body')).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
  });

  test('a name like __proto__ is a name like any other', () => {
    const { tensors: read } = decodeBody(
      raw('{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
      'it',
    );
    expect(Object.keys(read)).toEqual(['__proto__']);
    expect(Object.getPrototypeOf({})).toBe(Object.prototype);
  });
});
