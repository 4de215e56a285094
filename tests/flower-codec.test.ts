// Flower's messages in bytes: as a real Flower writes them, there and back, and hostile ones refused.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { readNpy } from '../src/federated/flower/npy.js';
import {
  checkObject,
  type DecodeLimits,
  decodeMessage,
  encodeMessage,
  type ObjectTree,
  objectIds,
} from '../src/federated/flower/objects.js';
import {
  type ArrayData,
  type FlowerMessage,
  type NumpyArray,
  type RecordDict,
  replyTo,
} from '../src/federated/flower/records.js';
import { array, arrays, HandMade, messages, metadata } from './flower-support.js';

interface Stored {
  id: string;
  objects: Record<string, string>;
}

const fixtures = fileURLToPath(new URL('fixtures/flower/', import.meta.url));
const stored = JSON.parse(readFileSync(`${fixtures}messages.json`, 'utf8')) as {
  messages: Record<string, Stored>;
  files: Record<string, string>;
};

function storedObjects(name: string): Map<string, Uint8Array> {
  const { objects } = stored.messages[name] as Stored;
  return new Map(Object.entries(objects).map(([id, bytes]) => [id, Buffer.from(bytes, 'base64')]));
}

const decoded = (name: string) => decodeMessage((stored.messages[name] as Stored).id, storedObjects(name));

const floats = (...values: number[]) => Float32Array.from(values);
const quarters = array('float32', [2, 3], floats(0, 0.25, 0.5, 0.75, 1, 1.25));

const everyType: RecordDict = new Map([
  [
    'arrays',
    {
      kind: 'arrays',
      values: new Map([
        ['half', array('float16', [3], Uint16Array.of(0x3c00, 0xc100, 0x7bff))],
        ['single', quarters],
        ['double', array('float64', [], Float64Array.of(Math.PI))],
        ['bytes', array('int8', [3], Int8Array.of(-128, 0, 127))],
        ['integers', array('int32', [2, 1], Int32Array.of(-2147483648, 2147483647))],
        ['long', array('int64', [2], BigInt64Array.of(-(2n ** 63n), 2n ** 63n - 1n))],
        ['unsigned', array('uint8', [2], Uint8Array.of(0, 255))],
        ['mask', array('bool', [2], Uint8Array.of(1, 0))],
        ['nothing', array('float32', [0, 4], floats())],
        ['same as single', quarters],
      ]),
    },
  ],
  [
    'metrics',
    {
      kind: 'metrics',
      values: new Map<string, number | bigint | (number | bigint)[]>([
        ['num-examples', 12n],
        ['loss', 0.125],
        ['least', -(2n ** 63n)],
        ['most', 2n ** 64n - 1n],
        ['doubles', [1, -0.5]],
        ['integers', [3n, -4n]],
        ['large', [1n, 2n ** 63n]],
        ['empty', []],
      ]),
    },
  ],
  [
    'config',
    {
      kind: 'config',
      values: new Map<string, never>(
        Object.entries({
          'server-round': 3n,
          rate: 1e-3,
          yes: true,
          no: false,
          text: 'Grüße 👋 \x7f\t"\\',
          raw: Uint8Array.of(0, 255),
          doubles: [0.5],
          integers: [1n, -1n],
          large: [2n ** 64n - 1n],
          flags: [true, false],
          words: ['a', ''],
          raws: [Uint8Array.of(), Uint8Array.of(1)],
          empty: [],
        }) as [string, never][],
      ),
    },
  ],
]);

const awkwardNames = ['10', '2', '__proto__', 'constructor', '', 'ünï\n"\u2028'];
const numbered = new Map(awkwardNames.map((name, index) => [name, index]));
const one = array('float32', [1], floats(1));

const names: RecordDict = new Map([
  ['2', { kind: 'metrics', values: numbered }],
  ['1', { kind: 'config', values: numbered }],
  ['__proto__', { kind: 'arrays', values: new Map(awkwardNames.map((name) => [name, one])) }],
]);

const inFlower: Record<string, FlowerMessage> = {
  'every type': { metadata: metadata(), content: everyType },
  names: { metadata: metadata(), content: names },
  empty: { metadata: metadata(), content: new Map() },
  reply: {
    metadata: metadata({
      srcNodeId: 2n ** 63n + 5n,
      dstNodeId: 1n,
      replyToMessageId: 'ab'.repeat(32),
      ttl: 0.5,
    }),
    content: new Map(),
  },
  error: { metadata: metadata(), error: { code: 2, reason: 'out of memory' } },
};

/** A message as it comes back: with its id. */
const withId = (message: FlowerMessage, messageId: string) => ({
  ...message,
  metadata: { ...message.metadata, messageId },
});

const entriesOf = (content: RecordDict | undefined) =>
  Array.from(content ?? [], ([name, record]) => [name, record.kind, [...record.values]]);

/** For arrays whose comparison element by element would take minutes. */
function expectSameArrays(message: FlowerMessage, expected: Map<string, NumpyArray>): void {
  const read = message.content?.get('arrays')?.values as Map<string, NumpyArray>;
  expect([...read.keys()]).toEqual([...expected.keys()]);
  for (const [name, { dtype, shape, data }] of expected) {
    const actual = read.get(name) as NumpyArray;
    expect(actual).toMatchObject({ dtype, shape });
    expect(Buffer.compare(bytesOf(actual.data), bytesOf(data))).toBe(0);
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayData) =>
  Buffer.from(buffer, byteOffset, byteLength);

describe('messages of a real Flower', () => {
  test.each(Object.keys(inFlower))('%s: its bytes and ids are ours', (name) => {
    const message = inFlower[name] as FlowerMessage;
    const { id, objects } = encodeMessage(message);
    expect([...objects.keys()].sort()).toEqual([...storedObjects(name).keys()].sort());
    for (const [key, bytes] of storedObjects(name)) expect(Buffer.from(objects.get(key)!)).toEqual(bytes);
    expect(id).toBe(stored.messages[name]?.id);
  });

  test.each(Object.keys(inFlower))('%s: is read, in its order', (name) => {
    const message = inFlower[name] as FlowerMessage;
    const read = decoded(name);
    expect(read).toEqual(withId(message, stored.messages[name]?.id as string));
    expect(entriesOf(read.content)).toEqual(entriesOf(message.content));
  });

  test('large arrays are cut into the same chunks, equal ones once', () => {
    const zeros = array('float32', [11 * 2 ** 18], new Float32Array(11 * 2 ** 18));
    const ramp = array(
      'int32',
      [1000, 3000],
      Int32Array.from({ length: 3_000_000 }, (_, index) => index),
    );
    const values = new Map([
      ['zeros', zeros],
      ['ramp', ramp],
    ]);
    const content: RecordDict = new Map([['arrays', { kind: 'arrays', values }]]);
    const { id, tree, objects } = encodeMessage({ metadata: metadata(), content });
    const { large } = stored.messages;
    expect(objectIds(tree).sort()).toEqual(Object.keys(large?.objects ?? {}).sort());
    expect([...objects.keys()]).toEqual(objectIds(tree));
    expect(id).toBe(large?.id);
    expectSameArrays(decodeMessage(id, objects), values);
  });

  test('chunks that repeat are stored once', () => {
    const values = new Map([['zeros', array('uint8', [16 * 2 ** 20], new Uint8Array(16 * 2 ** 20))]]);
    const content: RecordDict = new Map([['arrays', { kind: 'arrays', values }]]);
    const { id, objects } = encodeMessage({ metadata: metadata(), content });
    const bytes = [...objects.values()].reduce((sum, object) => sum + object.length, 0);
    expect(bytes).toBeLessThan(12 * 2 ** 20);
    expectSameArrays(decodeMessage(id, objects), values);
  });

  test('column-major arrays become row-major', () => {
    const record = decoded('column-major').content?.get('arrays');
    const ramp = Int32Array.from({ length: 24 }, (_, index) => index);
    expect(record?.values).toEqual(
      new Map([
        ['matrix', array('int32', [4, 6], ramp)],
        ['cube', array('int32', [2, 3, 4], ramp)],
        ['row', array('int32', [1, 24], ramp)],
        ['long', array('int64', [6, 4], BigInt64Array.from(ramp, BigInt))],
      ]),
    );
  });

  test('arrays of the legacy strategies, whose description is empty', () => {
    expect(decoded('legacy').content?.get('fitins.parameters')?.values).toEqual(
      new Map([
        ['0', array('float32', [2, 2], floats(1, 2, 3, 4))],
        ['1', array('float32', [1], floats(5))],
      ]),
    );
  });

  test.each(Object.keys(stored.files))('.npy files: %s', (name) => {
    const file = Buffer.from(stored.files[name] as string, 'base64');
    expect(readNpy(file, name)).toEqual(array('float32', [2, 3], floats(0, 1, 2, 3, 4, 5)));
  });
});

/** Objects one of which has other bytes at some place; its id and those of all around it follow. */
function withDamage(
  objects: ReadonlyMap<string, Uint8Array>,
  which: number,
  where: number,
  change: Uint8Array,
) {
  const made = new HandMade();
  const ids = new Map<string, string>();
  for (const [index, [id, bytes]] of [...objects].entries()) {
    const text = Buffer.from(bytes).toString('latin1');
    const moved = Buffer.from(
      text.replace(/[0-9a-f]{64}/g, (old) => ids.get(old) ?? old),
      'latin1',
    );
    const place = where % moved.length;
    const rest = moved.subarray(place + change.length);
    const damaged = index === which ? Buffer.concat([moved.subarray(0, place), change, rest]) : moved;
    ids.set(id, made.addBytes(damaged));
  }
  return { ids, objects: made.objects };
}

describe('there and back', () => {
  test('any message comes back as it was, under the same id', () => {
    fc.assert(
      fc.property(messages, (message) => {
        const { id, tree, objects } = encodeMessage(message);
        expect(new Set(objectIds(tree))).toEqual(new Set(objects.keys()));
        const read = decodeMessage(id, objects);
        expect(read).toEqual(withId(message, id));
        expect(entriesOf(read.content)).toEqual(entriesOf(message.content));
        expect(encodeMessage(read).id).toBe(id);
      }),
    );
  });

  test('whatever byte of an array is changed, the message is refused', () => {
    const samples = fc.tuple(arrays, fc.nat(), fc.nat(), fc.integer({ min: 1, max: 255 }));
    fc.assert(
      fc.property(samples, ([values, which, where, change]) => {
        const content: RecordDict = new Map([['a', { kind: 'arrays', values: new Map([['b', values]]) }]]);
        const { id, objects } = encodeMessage({ metadata: metadata(), content });
        const key = [...objects.keys()][which % objects.size] as string;
        const bytes = Uint8Array.from(objects.get(key)!);
        bytes[where % bytes.length]! ^= change;
        objects.set(key, bytes);
        expect(() => decodeMessage(id, objects)).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
        expect(() => checkObject(key, bytes)).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
      }),
    );
  });

  test('bytes that are wrong under the right hashes are read or refused, never anything else', () => {
    fc.assert(
      fc.property(
        messages,
        fc.nat(),
        fc.nat(),
        fc.uint8Array({ maxLength: 4 }),
        (message, which, where, change) => {
          const { id, objects } = encodeMessage(message);
          const damaged = withDamage(objects, which % objects.size, where, change);
          try {
            decodeMessage(damaged.ids.get(id) as string, damaged.objects);
          } catch (error) {
            expect(error).toMatchObject({ code: 'CORRUPT' });
          }
        },
      ),
      { numRuns: 1000 },
    );
  });

  test('the answer to a request becomes void with it', () => {
    const request = metadata({ messageId: 'cd'.repeat(32), srcTaskId: 4n, dstTaskId: 5n });
    expect(replyTo(request, request.createdAt + 200)).toEqual({
      runId: request.runId,
      messageId: '',
      srcNodeId: request.dstNodeId,
      dstNodeId: request.srcNodeId,
      replyToMessageId: request.messageId,
      groupId: request.groupId,
      ttl: 43000,
      messageType: 'train',
      createdAt: request.createdAt + 200,
      srcTaskId: 5n,
      dstTaskId: 4n,
    });
    expect(replyTo(metadata(), 0)).not.toHaveProperty('srcTaskId');
    expect(replyTo(request, request.createdAt + 43201).ttl).toBe(-1);
  });
});

/** A .npy file with this header. */
function npy(header: string, data: Uint8Array = new Uint8Array(), version = 1): Buffer {
  const length = Buffer.alloc(version === 1 ? 2 : 4);
  length.writeUIntLE(header.length, 0, length.length);
  return Buffer.concat([
    Buffer.from([0x93]),
    Buffer.from('NUMPY'),
    Buffer.of(version, 0),
    length,
    Buffer.from(header),
    data,
  ]);
}

const header = (descr: string, shape: string, order = 'False') =>
  `{'descr': ${descr}, 'fortran_order': ${order}, 'shape': ${shape}, }`;

describe('.npy files that are refused', () => {
  const four = new Uint8Array(4);
  test.each<[string, Uint8Array, RegExp]>([
    ['Python objects', npy(header("'|O'", '(1,)'), new Uint8Array(8)), /<f4.*\|b1 for the type .* "\|O"/],
    ['big-endian numbers', npy(header("'>f4'", '(1,)'), four), /the type of the array but received ">f4"/],
    ['bfloat16', npy(header("'<V2'", '(2,)'), four), /the type of the array but received "<V2"/],
    [
      'structures',
      npy(header("[('a', '<f4')]", '(1,)'), four),
      /descr, fortran_order and shape for the header/,
    ],
    ['code', npy(header('__import__("os")', '(1,)'), four), /for the header/],
    ['a header that ends early', npy("{'descr': '<f4', 'fortran_order': False, "), /for the header/],
    ['something after the header', npy(`${header("'<f4'", '(1,)')} 1`, four), /for the header/],
    ['no shape', npy("{'descr': '<f4', 'fortran_order': False, }", four), /for the header/],
    ['a negative size', npy(header("'<f4'", '(-1,)'), four), /for the header/],
    ['a huge size', npy(header("'<f4'", `(${'9'.repeat(400)},)`), four), /sizes of an array for the shape/],
    ['huge sizes', npy(header("'|u1'", '(4294967296, 4294967296)'), four), /sizes of an array for the shape/],
    [
      'too many dimensions',
      npy(header("'<f4'", `(${'1,'.repeat(65)})`), four),
      /sizes of an array for the shape/,
    ],
    [
      'too few bytes',
      npy(header("'<f4'", '(2,)'), four),
      /8 bytes of float32 \[2\] for the array but received 4/,
    ],
    [
      'too many bytes',
      npy(header("'<f4'", '()'), new Uint8Array(5)),
      /4 bytes of float32 \[\] .* received 5/,
    ],
    ['no elements but bytes', npy(header("'<f4'", '(0, 9)'), four), /0 bytes .* received 4/],
    ['version 0', npy(header("'<f4'", '(1,)'), four, 0), /version 1, 2 or 3 .* received 0/],
    ['version 4', npy(header("'<f4'", '(1,)'), four, 4), /version 1, 2 or 3 .* received 4/],
    ['a header of 4 GiB', Buffer.from('934e554d5059020000ffffff', 'hex'), /at most 0 bytes for the header/],
    [
      'a header of 20000 bytes',
      npy(`${header("'<f4'", '(1,)')}${' '.repeat(20_000)}`, four, 2),
      /at most 10000 bytes/,
    ],
    ['another file', Buffer.from('PK\x03\x04 and so on'), /a \.npy file for the array/],
    ['nothing', new Uint8Array(), /a \.npy file for the array/],
  ])('%s', (_, file, message) => {
    expect(() => readNpy(file, 'the array')).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
    expect(() => readNpy(file, 'the array')).toThrow(message);
  });

  test('any bytes are read or refused, never anything else', () => {
    const start = npy(header("'<f4'", '(1,)'), four);
    const files = fc.oneof(
      fc.uint8Array({ maxLength: 300 }).map((rest) => Buffer.concat([start.subarray(0, 8), rest])),
      fc.tuple(fc.nat(start.length - 1), fc.nat(255)).map(([at, byte]) => {
        const file = Buffer.from(start);
        file[at] = byte;
        return file;
      }),
    );
    fc.assert(
      fc.property(files, (file) => {
        try {
          expect(readNpy(file, 'the array').data.byteLength).toBeLessThanOrEqual(file.length);
        } catch (error) {
          expect(error).toMatchObject({ code: 'CORRUPT' });
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe('objects that are refused', () => {
  const body = encodeMessage({ metadata: metadata(), content: new Map() });
  const messageBody = (() => {
    const bytes = Buffer.from(body.objects.get(body.id)!);
    return bytes.subarray(bytes.indexOf(0) + 1);
  })();
  const scalar = npy(header("'<f4'", '(1,)'), new Uint8Array(4));

  /** A message around what `make` adds under its content. */
  function around(make: (made: HandMade) => [type: string, children: string[], body: string | Uint8Array]) {
    const made = new HandMade();
    const content = made.add(...make(made));
    return { id: made.add('Message', [content], messageBody), objects: made.objects };
  }

  /** A message with an array record of one array. */
  const withArray = (add: (made: HandMade) => string) =>
    around((made) => {
      const id = add(made);
      const record = made.add('ArrayRecord', [id], JSON.stringify({ w: id }));
      return ['RecordDict', [record], JSON.stringify({ arrays: record })];
    });

  /** A message with one record whose body is protobuf. */
  const withValues = (type: string, hex: string) =>
    around((made) => {
      const record = made.add(type, [], Buffer.from(hex, 'hex'));
      return ['RecordDict', [record], JSON.stringify({ values: record })];
    });

  const hex = (text: string) => Buffer.from(text).toString('hex');
  const other = 'f'.repeat(64);

  const cases: [string, ReturnType<typeof around>, RegExp, Partial<DecodeLimits>?][] = [
    [
      'content of another type',
      around(() => ['ArrayRecord', [], '{}']),
      /RecordDict for the type of the content but received "ArrayRecord"/,
    ],
    ['a type that does not exist', around(() => ['Pickle', [], '{}']), /received "Pickle"/],
    [
      'a record of another type',
      around((made) => {
        const chunk = made.add('ArrayChunk', [], 'x');
        return ['RecordDict', [chunk], JSON.stringify({ a: chunk })];
      }),
      /ArrayRecord or MetricRecord or ConfigRecord for the type of the record a/,
    ],
    [
      'an array of another type',
      withArray((made) => made.add('MetricRecord', [], '')),
      /Array for the type of the array w/,
    ],
    [
      'an object that is missing',
      around(() => ['RecordDict', [other], `{"a": "${other}"}`]),
      /object ffffffffffff\.\.\. for the record a but received nothing/,
    ],
    [
      'an id that its object does not name',
      around(() => ['RecordDict', [], `{"a": "${other}"}`]),
      /objects it consists of for the ids in the content/,
    ],
    [
      'an id that its content does not name',
      around(() => ['RecordDict', [other], '{}']),
      /objects it consists of for the ids in the content/,
    ],
    [
      'an id that is none',
      around(() => ['RecordDict', ['../../etc/passwd'], '{}']),
      /different ids for the children of the content/,
    ],
    ['an id twice', around(() => ['RecordDict', [other, other], '{}']), /different ids for the children/],
    [
      'a name twice',
      around((made) => {
        const record = made.add('MetricRecord', [], '');
        return ['RecordDict', [record], `{"a": "${record}", "a": "${record}"}`];
      }),
      /each name once for the content but received "a"/,
    ],
    ['no JSON', around(() => ['RecordDict', [], 'a']), /a JSON object for character 0 of the content/],
    ['JSON that ends early', around(() => ['RecordDict', [], '{"a']), /a JSON string for character 2/],
    ['JSON of other values', around(() => ['RecordDict', [], '{"a": {}}']), /a JSON string for character 6/],
    ['JSON and more', around(() => ['RecordDict', [], '{} {}']), /nothing after the object/],
    ['a wrong escape', around(() => ['RecordDict', [], '{"\\x": "a"}']), /Cannot read message/],
    ['no UTF-8', around(() => ['RecordDict', [], Uint8Array.of(0x7b, 0xff, 0x7d)]), /Cannot read message/],
    ['no description of an array', withArray((made) => made.add('Array', [], '[]')), /the array w/],
    [
      'another format of an array',
      withArray((made) => made.addArray(scalar, { stype: 'pickle' })),
      /numpy\.ndarray.* for stype but received "pickle"/,
    ],
    [
      'a description that contradicts',
      withArray((made) => made.addArray(scalar, { dtype: 'float64', shape: [1] })),
      /float64 \[1\] for the array w but received "float32 \[1\]"/,
    ],
    [
      'a shape that contradicts',
      withArray((made) => made.addArray(scalar, { dtype: 'float32', shape: [1, 1] })),
      /float32 \[1, 1\] for the array w/,
    ],
    [
      'an index of no chunk',
      withArray((made) => made.addArray(scalar, { arraychunk_ids: [1] })),
      /the indices of 1 chunks/,
    ],
    [
      'a chunk of no index',
      withArray((made) => made.addArray(scalar, { arraychunk_ids: [] })),
      /the indices of 1 chunks/,
    ],
    [
      'a negative index',
      withArray((made) => made.addArray(scalar, { arraychunk_ids: [-1] })),
      /arraychunk_ids\[0\]/,
    ],
    [
      'a chunk with children',
      withArray((made) => {
        const chunk = made.add('ArrayChunk', [other], scalar);
        return made.add(
          'Array',
          [chunk],
          JSON.stringify({ dtype: '', shape: [], stype: 'numpy.ndarray', arraychunk_ids: [0] }),
        );
      }),
      /no children for a chunk of the array w/,
    ],
    [
      'a boolean as a metric',
      withValues('MetricRecord', `0a07${'0a0161'}${'12022001'}`),
      /a number for a of the record values but received "bool"/,
    ],
    ['a name without value', withValues('ConfigRecord', '0a030a0161'), /a value for a of the record values/],
    [
      'a metric twice',
      withValues('MetricRecord', `${'0a070a016112021002'}${'0a070a016112021002'}`),
      /each name once for the names of the record values/,
    ],
    ['protobuf that ends early', withValues('ConfigRecord', '0a70'), /Cannot read message/],
    [
      'a long name of a metric',
      withValues('MetricRecord', `0a0d0a07${hex('abcdefg')}12021002`),
      /at most 6 characters for a name in the record values but received "abcdefg"/,
      { maxNameLength: 6 },
    ],
    [
      'a long name of an array',
      withArray((made) => made.addArray(scalar)),
      /at most 5 characters for a name in the content/,
      { maxNameLength: 5 },
    ],
    [
      'many objects',
      withArray((made) => made.addArray(scalar)),
      /at most 4 for the objects of a message/,
      { maxObjects: 4 },
    ],
    [
      'many bytes',
      withArray((made) => made.addArray(scalar)),
      /at most 300 bytes for the objects of a message/,
      { maxBytes: 300 },
    ],
    [
      'a large record',
      around(() => ['RecordDict', [], `{${' '.repeat(2000)}}`]),
      /at most 1000 bytes for the names and descriptions in a message but received/,
      { maxRecordBytes: 1000 },
    ],
    [
      'many bytes of settings, in two records',
      around((made) => {
        const records = ['0a', '0b'].map((end) =>
          made.add('ConfigRecord', [], Buffer.from(`0a070a0161120210${end}`, 'hex')),
        );
        return ['RecordDict', records, JSON.stringify({ a: records[0], b: records[1] })];
      }),
      /at most 40 bytes for the metrics and settings of a message but received 50$/,
      { maxValueBytes: 40 },
    ],
  ];

  test.each(cases)('%s', (_, { id, objects }, message, limits) => {
    expect(() => decodeMessage(id, objects, limits)).toThrow(expect.objectContaining({ code: 'CORRUPT' }));
    expect(() => decodeMessage(id, objects, limits)).toThrow(message);
  });

  test('a small chunk that repeats into a huge array takes no memory', () => {
    const { id, objects } = withArray((made) => {
      const chunk = made.add('ArrayChunk', [], new Uint8Array(2 ** 20));
      const indices = Array.from({ length: 10_000 }, () => 0);
      return made.add(
        'Array',
        [chunk],
        JSON.stringify({ dtype: '', shape: [], stype: 'numpy.ndarray', arraychunk_ids: indices }),
      );
    });
    expect(() => decodeMessage(id, objects)).toThrow(
      'Expected at most 2147483648 bytes for the arrays of a message but received 10485760000',
    );
  });

  test.each([
    ['no head', 'RecordDict'],
    ['too little in its head', 'RecordDict 2\0{}'],
    ['too much in its head', 'RecordDict  2 2\0{}'],
    ['another length', 'RecordDict  3\0{}'],
    ['a length that is no number', 'RecordDict  two\0{}'],
    ['a length in other digits', 'RecordDict  02\0{}'],
  ])('%s', (_, text) => {
    const made = new HandMade();
    const content = made.addBytes(Buffer.from(text));
    const id = made.add('Message', [content], messageBody);
    expect(() => decodeMessage(id, made.objects)).toThrow(
      /type, ids and \d+ bytes for the head of the content/,
    );
  });

  test('messages without metadata, without content, with times that are none', () => {
    const made = new HandMade();
    const content = made.add('RecordDict', [], '{}');
    const refused = (children: string[], hexBody: string) => () =>
      decodeMessage(made.add('Message', children, Buffer.from(hexBody, 'hex')), made.objects);
    expect(refused([content], '')).toThrow('Expected metadata for the message but received nothing');
    expect(refused([], '0a00')).toThrow(
      'Expected an error or 1 object of content for the message but received []',
    );
    expect(refused([content], '0a001a020802')).toThrow('an error or 1 object of content');
    expect(refused([content], `0a0939${'000000000000f87f'}`)).toThrow('Expected number for ttl');
  });

  test('another object under the id', () => {
    const { id, objects } = withArray((made) => made.addArray(scalar));
    const [first] = objects.keys();
    objects.set(first as string, Buffer.from('ArrayChunk  0\0'));
    expect(() => decodeMessage(id, objects)).toThrow(`Expected sha256 ${first} for an object of a message`);
  });

  test('trees that are too deep, too large or of ids that are none', () => {
    const tree = (levels: number): ObjectTree => ({
      objectId: other,
      children: levels > 1 ? [tree(levels - 1)] : [],
    });
    expect(objectIds(tree(5))).toEqual([other]);
    expect(() => objectIds(tree(6))).toThrow('Expected at most 5 levels');
    const wide = { objectId: other, children: Array.from({ length: 10 }, () => tree(1)) };
    expect(() => objectIds(wide, { maxObjects: 10 })).toThrow(
      'Expected at most 10 for the objects of a message',
    );
    expect(() => objectIds({ objectId: 'F'.repeat(64), children: [] })).toThrow('64 hexadecimal digits');
  });
});

describe('messages that cannot be written', () => {
  const withRecord = (record: unknown) => () =>
    encodeMessage({ metadata: metadata(), content: new Map([['r', record]]) as RecordDict });
  const withArray = (dtype: string, shape: number[], data: unknown) =>
    withRecord({ kind: 'arrays', values: new Map([['w', { dtype, shape, data }]]) });
  const withValue = (kind: string, value: unknown) => withRecord({ kind, values: new Map([['v', value]]) });

  test.each<[string, () => unknown, RegExp]>([
    [
      'a type of another array',
      withArray('float32', [1], Float64Array.of(1)),
      /Float32Array for w\.data of float32/,
    ],
    [
      'an unknown type',
      withArray('bfloat16', [1], Uint16Array.of(1)),
      /one of float16, .* for w\.dtype but received "bfloat16"/,
    ],
    [
      'a shape of more elements',
      withArray('float32', [2, 2], floats(1)),
      /1 elements.* for w\.shape but received \[2,2\]/,
    ],
    ['a fraction in a shape', withArray('float32', [0.5, 2], floats(1)), /for w\.shape/],
    ['a list of two types', withValue('metrics', [1, 1n]), /for v but received/],
    ['an integer beyond 64 bits', withValue('metrics', 2n ** 64n), /for v but received 18446744073709551616/],
    ['integers of no common type', withValue('config', [-1n, 2n ** 63n]), /for v but received/],
    [
      'text as a metric',
      withValue('metrics', 'a'),
      /a number, integer of 64 bits, or a list of one of these for v/,
    ],
    ['an object', withValue('config', {}), /for v but received/],
    ['no value', withValue('config', null), /for v but received null/],
    ['neither content nor error', () => encodeMessage({ metadata: metadata() }), /either content or error/],
    [
      'content and an error',
      () => encodeMessage({ ...(inFlower.error as FlowerMessage), content: new Map() }),
      /either content or error/,
    ],
  ])('%s', (_, write, message) => {
    expect(write).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
    expect(write).toThrow(message);
  });
});

const python = process.env.DUET_FLOWER_PYTHON;
if (!python)
  process.stderr.write('Not compared with a live Flower: DUET_FLOWER_PYTHON names no Python that has it\n');

describe.skipIf(!python)('a live Flower', () => {
  const flower = (action: string, input = ''): unknown => {
    const env = { ...process.env, FLWR_TELEMETRY_ENABLED: '0', PYTHONDONTWRITEBYTECODE: '1' };
    const options = { input, env, maxBuffer: 2 ** 28, encoding: 'utf8' } as const;
    const { status, stdout, stderr } = spawnSync(python as string, [`${fixtures}flower.py`, action], options);
    if (status !== 0) throw new Error(stderr);
    return JSON.parse(stdout);
  };

  test('writes the fixtures', () => {
    expect(flower('make')).toEqual(stored);
  });

  test('reads our messages and gives them the same ids', () => {
    const encoded = fc.sample(messages, 200).map(encodeMessage);
    const written = encoded.map(({ id, objects }, index) => {
      const texts = Array.from(objects, ([key, bytes]) => [key, Buffer.from(bytes).toString('base64')]);
      return [index, { id, objects: Object.fromEntries(texts) }] as const;
    });
    const ids = flower('read', JSON.stringify({ messages: Object.fromEntries(written) }));
    expect(ids).toEqual(Object.fromEntries(written.map(([index, { id }]) => [index, id])));
  });
});
