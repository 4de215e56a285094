// Helpers of the tests of Flower's messages: metadata, objects made by hand, and random messages.

import { createHash } from 'node:crypto';
import fc from 'fast-check';
import type {
  ArrayData,
  ArrayRecord,
  ConfigRecord,
  FlowerMessage,
  MessageMetadata,
  MetricRecord,
  NumpyArray,
  RecordDict,
} from '../src/federated/flower/records.js';

/** That of the fixtures. */
export function metadata(changes: Partial<MessageMetadata> = {}): MessageMetadata {
  return {
    runId: 2n ** 64n - 2n,
    messageId: '',
    srcNodeId: 1n,
    dstNodeId: 2n ** 63n + 5n,
    replyToMessageId: '',
    groupId: '3',
    ttl: 43200,
    messageType: 'train',
    createdAt: 1.7e9 + 0.25,
    ...changes,
  };
}

export function array(dtype: string, shape: number[], data: ArrayData): NumpyArray {
  return { dtype, shape, data };
}

/** Objects made by hand, right in their hashes and lengths whatever they hold. */
export class HandMade {
  readonly objects = new Map<string, Uint8Array>();

  add(type: string, children: string[], body: string | Uint8Array, length?: number | string): string {
    const bytes = Buffer.from(body);
    const head = Buffer.from(`${type} ${children.join(',')} ${length ?? bytes.length}\0`);
    return this.addBytes(Buffer.concat([head, bytes]));
  }

  addBytes(bytes: Uint8Array): string {
    const id = createHash('sha256').update(bytes).digest('hex');
    this.objects.set(id, bytes);
    return id;
  }

  /** An array whose .npy file is these bytes. */
  addArray(npy: Uint8Array, description: object = {}): string {
    const chunk = this.add('ArrayChunk', [], npy);
    const body = { dtype: '', shape: [], stype: 'numpy.ndarray', arraychunk_ids: [0], ...description };
    return this.add('Array', [chunk], JSON.stringify(body));
  }
}

const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
const uint64 = fc.bigInt({ min: 2n ** 63n, max: 2n ** 64n - 1n });
const text = fc.string({ unit: 'binary', maxLength: 12 });
const bytes = fc.uint8Array({ maxLength: 12 });
const name = fc.oneof(text, fc.constantFrom('__proto__', 'constructor', '0', '10', 'a b', '"', '\\'));

const data: Record<string, (length: number) => fc.Arbitrary<ArrayData>> = {
  float16: (length) => fc.uint16Array({ minLength: length, maxLength: length }),
  float32: (length) => fc.float32Array({ minLength: length, maxLength: length }),
  float64: (length) => fc.float64Array({ minLength: length, maxLength: length }),
  int8: (length) => fc.int8Array({ minLength: length, maxLength: length }),
  int32: (length) => fc.int32Array({ minLength: length, maxLength: length }),
  int64: (length) => fc.bigInt64Array({ minLength: length, maxLength: length }),
  uint8: (length) => fc.uint8Array({ minLength: length, maxLength: length }),
  bool: (length) => fc.uint8Array({ minLength: length, maxLength: length, max: 1 }),
};

export const arrays: fc.Arbitrary<NumpyArray> = fc
  .tuple(fc.constantFrom(...Object.keys(data)), fc.array(fc.nat({ max: 4 }), { maxLength: 4 }))
  .chain(([dtype, shape]) => {
    const elements = shape.reduce((product, size) => product * size, 1);
    return (data[dtype] as (length: number) => fc.Arbitrary<ArrayData>)(elements).map((values) =>
      array(dtype, shape, values),
    );
  });

const lists = <T>(element: fc.Arbitrary<T>) => fc.array(element, { maxLength: 5 });

const numbers = [fc.double(), int64, uint64] as const;
const metrics = fc.oneof(
  ...numbers,
  lists(fc.double()),
  lists(int64),
  lists(fc.oneof(uint64, fc.constant(1n))),
);
const settings = fc.oneof(metrics, fc.boolean(), text, bytes, lists(fc.boolean()), lists(text), lists(bytes));

const records: fc.Arbitrary<ArrayRecord | MetricRecord | ConfigRecord> = fc.oneof(
  fc
    .array(fc.tuple(name, arrays), { maxLength: 4 })
    .map((values): ArrayRecord => ({ kind: 'arrays', values: new Map(values) })),
  fc
    .array(fc.tuple(name, metrics))
    .map((values): MetricRecord => ({ kind: 'metrics', values: new Map(values) })),
  fc
    .array(fc.tuple(name, settings))
    .map((values): ConfigRecord => ({ kind: 'config', values: new Map(values) })),
);

export const contents: fc.Arbitrary<RecordDict> = fc
  .array(fc.tuple(name, records), { maxLength: 5 })
  .map((entries) => new Map(entries));

const metadatas: fc.Arbitrary<MessageMetadata> = fc
  .record({
    runId: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    dstNodeId: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    ttl: fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }),
    createdAt: fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }),
    groupId: text,
    messageType: fc.constantFrom('train', 'evaluate', 'query.any_thing'),
  })
  .map(metadata);

export const messages: fc.Arbitrary<FlowerMessage> = fc.oneof(
  fc.record({ metadata: metadatas, content: contents }),
  fc.record({
    metadata: metadatas,
    error: fc.record({ code: fc.maxSafeInteger(), reason: text }),
  }),
);
