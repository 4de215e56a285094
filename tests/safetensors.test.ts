// The safetensors format: what is written and read, and what is refused.

import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { TensorData } from '../src/native/core.js';
import { addon, rejection, runScript } from './native-support.js';

let folder = '';
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'duet-safetensors-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const tensors: Record<string, TensorData> = {
  small: { dtype: 'u8', shape: [5], data: new Uint8Array([0, 1, 127, 128, 255]) },
  half: { dtype: 'f16', shape: [1, 3], data: new Uint16Array([0x3c00, 0x7c00, 0x8000]) },
  brain: { dtype: 'bf16', shape: [3, 1], data: new Uint16Array([0x3f80, 0xff80, 1]) },
  int: { dtype: 'i32', shape: [], data: new Int32Array([-7]) },
  long: { dtype: 'i64', shape: [2], data: new BigInt64Array([-1n, 2n ** 62n]) },
  float: { dtype: 'f32', shape: [2, 2], data: new Float32Array([1.5, -0, Number.NaN, Infinity]) },
  another: { dtype: 'f32', shape: [3], data: new Float32Array([1, 2, 3]) },
  empty: { dtype: 'f32', shape: [0, 4], data: new Float32Array() },
};

/** A file with this header and so many bytes of data. */
async function fileWith(header: string | Buffer, dataBytes: number, length?: bigint): Promise<string> {
  const text = Buffer.from(header as string);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(text.length));
  const path = join(folder, 'hostile.safetensors');
  await writeFile(path, Buffer.concat([prefix, text, Buffer.alloc(dataBytes)]));
  return path;
}

const entry = (dtype: unknown, shape: unknown, offsets: unknown) =>
  JSON.stringify({ dtype, shape, data_offsets: offsets });

describe('writing and reading', () => {
  test('every data type, scalars and empty tensors come back bit for bit', async () => {
    const path = join(folder, 'all.safetensors');
    await addon.writeSafetensors(path, tensors, { format: 'pt', note: 'a "quoted"\nline' });
    const read = await addon.readSafetensors(path);
    expect(read.metadata).toEqual({ format: 'pt', note: 'a "quoted"\nline' });
    expect(read.tensors).toEqual(tensors);
  });

  test('the layout is that of the reference library', async () => {
    const path = join(folder, 'layout.safetensors');
    await addon.writeSafetensors(path, tensors, { b: '2', a: '1' });
    const bytes = await readFile(path);
    const length = Number(bytes.readBigUInt64LE());
    expect(length % 8).toBe(0);
    const text = bytes.toString('utf8', 8, 8 + length);
    expect(text).toMatch(
      /^\{"__metadata__":\{"a":"1","b":"2"\},"long":\{"dtype":"I64","shape":\[2\],"data_offsets":\[0,16\]\}/,
    );
    expect(text).toMatch(/\} *$/);
    const names = Object.keys(JSON.parse(text));
    expect(names).toEqual([
      '__metadata__',
      'long',
      'another',
      'empty',
      'float',
      'int',
      'brain',
      'half',
      'small',
    ]);
    expect(bytes.readFloatLE(8 + length + 16)).toBe(1);
  });

  test('names may hold anything, __proto__ too', async () => {
    const path = join(folder, 'names.safetensors');
    const odd = Object.fromEntries(
      ['', '__proto__', 'é\u2028"\\', 'a\0b', 'x'.repeat(5000)].map((name) => [name, tensors.int]),
    );
    await addon.writeSafetensors(path, odd as Record<string, TensorData>, { ['__proto__']: 'kept' });
    const read = await addon.readSafetensors(path);
    expect(Object.keys(read.tensors).sort()).toEqual(Object.keys(odd).sort());
    expect(Object.entries(read.metadata)).toEqual([['__proto__', 'kept']]);
  });

  test('tensors that the file does not align are read too, and BOOL as u8', async () => {
    const header = `{"a":${entry('U8', [1], [0, 1])},"b":${entry('F32', [2], [1, 9])},"c":${entry('BOOL', [2], [9, 11])}}`;
    for (const padding of ['', ' ', '  ', '   ']) {
      const path = await fileWith(header + padding, 11);
      const bytes = await readFile(path);
      bytes.writeFloatLE(2.5, bytes.length - 10);
      bytes.writeUInt8(1, bytes.length - 1);
      await writeFile(path, bytes);
      const read = await addon.readSafetensors(path);
      expect(read.tensors.b?.data).toEqual(new Float32Array([2.5, 0]));
      expect(read.tensors.c).toEqual({ dtype: 'u8', shape: [2], data: new Uint8Array([0, 1]) });
    }
  });

  test('a file without tensors, and large tensors', async () => {
    const path = join(folder, 'large.safetensors');
    await addon.writeSafetensors(path, {}, {});
    expect(await addon.readSafetensors(path)).toEqual({ metadata: {}, tensors: {} });
    const data = Float32Array.from({ length: 300_000 }, (_, i) => i);
    await addon.writeSafetensors(path, { data: { dtype: 'f32', shape: [300, 1000], data } }, {});
    expect((await addon.readSafetensors(path)).tensors.data?.data).toEqual(data);
  });
});

describe('hostile files are refused', () => {
  const f = (offsets: unknown, shape: unknown = [1], dtype: unknown = 'F32') => entry(dtype, shape, offsets);
  const cases: [
    name: string,
    header: string | Buffer,
    dataBytes: number,
    message: RegExp,
    length?: bigint,
  ][] = [
    ['a length beyond the file', '{}', 0, /goes beyond the file/, 3n],
    ['a length above the limit', '{}', 0, /above the format's limit/, 100_000_001n],
    ['a length of 2^64 - 1', '{}', 0, /above the format's limit/, 2n ** 64n - 1n],
    ['an empty header', '', 0, /begin with '\{'/],
    ['white space first', ' {}', 0, /begin with '\{'/],
    ['a byte order mark', Buffer.from('\ufeff{}'), 0, /begin with '\{'/],
    ['an array', '[]', 0, /begin with '\{'/],
    ['cut JSON', '{"a":', 0, /bad JSON/],
    ['text after the header', '{} x', 0, /bad JSON/],
    ['NUL padding', '{}\0\0', 0, /bad JSON/],
    ['bad UTF-8', Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d]), 0, /bad JSON or UTF-8/],
    ['a lone surrogate', '{"\\ud800":1}', 0, /bad JSON/],
    ['a comment', '{/* */}', 0, /bad JSON/],
    ['a duplicate tensor', `{"a":${f([0, 4])},"a":${f([0, 4])}}`, 4, /'a' appears twice/],
    ['a duplicate by escapes', `{"a":${f([0, 4])},"\\u0061":${f([0, 4])}}`, 4, /'a' appears twice/],
    [
      'a duplicate field',
      '{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
      4,
      /'dtype' of 'a' appears twice/,
    ],
    [
      'a duplicate metadata key',
      '{"__metadata__":{"k":"1","k":"2"}}',
      0,
      /'k' of '__metadata__' appears twice/,
    ],
    ['two metadata', '{"__metadata__":{},"__metadata__":{}}', 0, /appears twice/],
    ['metadata that is no text', '{"__metadata__":{"k":1}}', 0, /expected a text for key 'k'/],
    ['metadata that is no object', '{"__metadata__":"k"}', 0, /expected an object for '__metadata__'/],
    ['an unknown dtype', `{"a":${f([0, 4], [1], 'F33')}}`, 4, /unknown dtype 'F33'/],
    ['an unknown field', '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}', 4, /received 'x'/],
    ['a missing field', '{"a":{"dtype":"F32","shape":[1]}}', 0, /has no data_offsets/],
    ['a negative dimension', `{"a":${f([0, 4], [-1])}}`, 4, /0 or more in shape/],
    ['a fractional dimension', `{"a":${f([0, 4], [1.5])}}`, 4, /integers below 2\^64 in shape/],
    [
      'a dimension above 2^64',
      '{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}',
      4,
      /integers below 2\^64/,
    ],
    [
      'shapes that overflow',
      `{"a":{"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]}}`,
      0,
      /more elements/,
    ],
    ['a negative offset', `{"a":${f([-4, 0])}}`, 4, /0 or more in data_offsets/],
    ['one offset', `{"a":${f([0])}}`, 4, /two data_offsets/],
    ['three offsets', `{"a":${f([0, 4, 8])}}`, 4, /two data_offsets/],
    ['offsets that run backwards', `{"a":${f([4, 0])}}`, 4, /run backwards/],
    [
      'a length that does not fit the shape',
      `{"a":${f([0, 8])}}`,
      8,
      /need 4 bytes but its data_offsets span 8/,
    ],
    ['offsets beyond the data', `{"a":${f([0, 8], [2])}}`, 4, /ends at byte 8 but the file has 4/],
    [
      'offsets near 2^64',
      '{"a":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}}',
      4,
      /may have been cut off/,
    ],
    ['overlapping tensors', `{"a":${f([0, 4])},"b":${f([2, 6])}}`, 6, /overlaps/],
    ['twice the same bytes', `{"a":${f([0, 4])},"b":${f([0, 4])}}`, 4, /overlaps/],
    ['a hole', `{"a":${f([0, 4])},"b":${f([8, 12])}}`, 12, /leaves a hole/],
    ['a hole at the start', `{"a":${f([4, 8])}}`, 8, /leaves a hole/],
    ['bytes after the last tensor', `{"a":${f([0, 4])}}`, 5, /the tensors end at byte 4 but the file has 5/],
    ['deep nesting', `{"a":${'['.repeat(100_000)}`, 0, /received an array/],
    ['deep objects', '{"a":'.repeat(100_000), 0, /received 'a'/],
    ['null for a tensor', '{"a":null}', 0, /received null/],
    ['a text in a shape', `{"a":${f([0, 4], ['1'])}}`, 4, /received a text/],
    ['a number for dtype', `{"a":${f([0, 4], [1], 32)}}`, 4, /expected a text for dtype/],
  ];

  test.each(cases)('%s', async (_name, header, dataBytes, message, length) => {
    const error = await rejection(addon.readSafetensors(await fileWith(header, dataBytes, length)));
    expect(error.message).toMatch(message);
    expect(error.code).toBe('CORRUPT');
  });

  test('files of fewer than 8 bytes', async () => {
    const path = join(folder, 'short.safetensors');
    for (const size of [0, 1, 7]) {
      await writeFile(path, Buffer.alloc(size));
      expect((await rejection(addon.readSafetensors(path))).message).toMatch(/at least 8 bytes/);
    }
  });

  test('a sound file cut at any byte', async () => {
    const path = join(folder, 'whole.safetensors');
    await addon.writeSafetensors(path, tensors, { k: 'v' });
    const bytes = await readFile(path);
    const cut = join(folder, 'cut.safetensors');
    for (let size = 0; size < bytes.length; size++) {
      await writeFile(cut, bytes.subarray(0, size));
      expect((await rejection(addon.readSafetensors(cut))).code).toBe('CORRUPT');
    }
  });

  test('a file with any one byte of its header changed is read or refused', async () => {
    const path = join(folder, 'changed.safetensors');
    await addon.writeSafetensors(path, tensors, { k: 'v' });
    const bytes = await readFile(path);
    const header = 8 + Number(bytes.readBigUInt64LE());
    for (let place = 0; place < header; place++) {
      const changed = Buffer.from(bytes);
      changed[place] = (place * 31 + 7) % 256;
      await writeFile(path, changed);
      const outcome = await addon.readSafetensors(path).then(
        () => 'read',
        (error: { code?: string }) => error.code,
      );
      expect(['read', 'CORRUPT', 'UNSUPPORTED']).toContain(outcome);
    }
  });

  test('data types and ranks without a tensor are told apart from damage', async () => {
    const double = await rejection(
      addon.readSafetensors(await fileWith(`{"a":${f([0, 8], [1], 'F64')}}`, 8)),
    );
    expect(double.code).toBe('UNSUPPORTED');
    expect(double.message).toMatch(/'a' .* but received F64/);
    const deep = await rejection(
      addon.readSafetensors(await fileWith(`{"a":${f([0, 4], [1, 1, 1, 1, 1, 1, 1])}}`, 4)),
    );
    expect(deep.code).toBe('UNSUPPORTED');
  });

  test('what is not a file', async () => {
    expect((await rejection(addon.readSafetensors(join(folder, 'none.safetensors')))).code).toBe('NOT_FOUND');
    expect((await rejection(addon.readSafetensors(folder))).message).toMatch(/regular file/);
    expect((await rejection(addon.readSafetensors('/dev/zero'))).message).toMatch(/regular file/);
  });
});

describe('writing is all or nothing', () => {
  const data = new Float32Array(1000);
  const one = { a: { dtype: 'f32', shape: [1000], data } } satisfies Record<string, TensorData>;

  test('no file is left beside, and errors say what to do', async () => {
    const inner = join(folder, 'inner');
    await mkdir(join(inner, 'folder.safetensors'), { recursive: true });
    await addon.writeSafetensors(join(inner, 'a.safetensors'), one, {});
    const missing = await rejection(addon.writeSafetensors(join(inner, 'none', 'a.safetensors'), one, {}));
    expect(missing.code).toBe('NOT_FOUND');
    expect(missing.message).toMatch(/Expected a folder at .*none/);
    expect((await rejection(addon.writeSafetensors(join(inner, 'folder.safetensors'), one, {}))).code).toBe(
      'IO',
    );
    expect((await readdir(inner)).sort()).toEqual(['a.safetensors', 'folder.safetensors']);
  });

  test('a full disk keeps the old file', async () => {
    const inner = join(folder, 'full');
    await mkdir(inner);
    const path = join(inner, 'a.safetensors');
    await addon.writeSafetensors(path, one, { version: 'old' });
    // A limit on file sizes stands for the disk: 8 blocks of 1 KiB.
    const run = runScript(
      `const data = new Float32Array(100_000);
       addon.writeSafetensors(${JSON.stringify(path)}, { a: { dtype: 'f32', shape: [100_000], data } }, {}).then(
         () => console.log('written'), (error) => console.log(error.code, error.message));`,
      { shell: 'ulimit -f 8' },
    );
    expect(run.stderr).toBe('');
    expect(run.stdout).toMatch(/^DISK_FULL Could not write .*free some space/);
    expect(await readdir(inner)).toEqual(['a.safetensors']);
    expect((await addon.readSafetensors(path)).metadata).toEqual({ version: 'old' });
  });

  test('writers to one path at the same time leave one whole file', async () => {
    const path = join(folder, 'contested.safetensors');
    await Promise.all(
      [1, 2, 3, 4].map((value) =>
        addon.writeSafetensors(
          path,
          { a: { ...one.a, data: data.map(() => value) } },
          { value: String(value) },
        ),
      ),
    );
    const read = await addon.readSafetensors(path);
    expect(new Set(read.tensors.a?.data as Float32Array)).toEqual(new Set([Number(read.metadata.value)]));
    expect((await readdir(folder)).filter((name) => name.includes('partial'))).toEqual([]);
  });

  test.each([
    ['a reserved name', { __metadata__: one.a }, /reserves/],
    [
      'a shape that does not fit',
      { a: { ...one.a, shape: [999] } },
      /Expected 999 elements for tensor 'a'.data but received 1000/,
    ],
    [
      'an array of another type',
      { a: { ...one.a, data: new Float64Array(1000) } },
      /Expected Float32Array .* Float64Array of 1000/,
    ],
    ['an overflowing shape', { a: { ...one.a, shape: [2 ** 52, 2 ** 52] } }, /fits memory/],
    [
      'an unknown dtype',
      { a: { ...one.a, dtype: 'f64' } },
      /'i32' or 'u8' for tensor 'a'.dtype but received 'f64'/,
    ],
  ])('%s', async (_name, wrong, message) => {
    const path = join(folder, 'wrong.safetensors');
    const error = await rejection(
      addon.writeSafetensors(path, wrong as unknown as Record<string, TensorData>, {}),
    );
    expect(error.message).toMatch(message);
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(await readdir(folder)).not.toContain('wrong.safetensors');
  });
});
