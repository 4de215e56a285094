/** Messages, settings and metrics of Flower in protobuf. */

import { create, fromBinary, type MessageInitShape, toBinary } from '@bufbuild/protobuf';
import { invalid } from '../../arguments.js';
import { corrupt } from './corrupt.js';
import { type Message, MessageSchema, type Metadata } from './proto/message_pb.js';
import {
  ConfigRecordSchema,
  type ConfigRecordValue,
  type ConfigRecordValueSchema,
} from './proto/records_pb.js';
import type {
  ConfigRecord,
  ConfigScalar,
  ConfigValue,
  FlowerMessage,
  MessageMetadata,
  MetricRecord,
} from './records.js';

type Wire = ConfigRecordValue['value'];
type Scalar = 'double' | 'sint64' | 'uint64' | 'bool' | 'string' | 'bytes';

const LISTS = {
  double: 'doubleList',
  sint64: 'sintList',
  uint64: 'uintList',
  bool: 'boolList',
  string: 'stringList',
  bytes: 'bytesList',
} as const;
const METRICS: readonly Wire['case'][] = ['double', 'sint64', 'uint64', 'doubleList', 'sintList', 'uintList'];

const NOT_READING_UNKNOWN = { readUnknownFields: false };

function scalarType(value: ConfigScalar): Scalar | undefined {
  if (typeof value === 'number') return 'double';
  if (typeof value === 'boolean') return 'bool';
  if (typeof value === 'string') return 'string';
  if (value instanceof Uint8Array) return 'bytes';
  if (typeof value !== 'bigint') return undefined;
  if (BigInt.asIntN(64, value) === value) return 'sint64';
  return BigInt.asUintN(64, value) === value ? 'uint64' : undefined;
}

/** The one type of all elements; large integers make a list of uint64. */
function listType(values: readonly ConfigScalar[], whenEmpty: Scalar): Scalar | undefined {
  const types = new Set(values.map(scalarType));
  if (types.size === 0) return whenEmpty;
  const [first, second] = types;
  if (types.size === 1) return first;
  const integers =
    types.size === 2 && [first, second].every((type) => type === 'sint64' || type === 'uint64');
  return integers && values.every((value) => (value as bigint) >= 0n) ? 'uint64' : undefined;
}

function wireValue(value: ConfigValue, kind: 'metrics' | 'config', name: string): Wire {
  // Flower takes an empty list for the first type the record allows.
  const empty = kind === 'config' ? 'bool' : 'double';
  const list = Array.isArray(value);
  const type = list ? listType(value, empty) : scalarType(value);
  const wire = type && (list ? { case: LISTS[type], value: { vals: value } } : { case: type, value });
  if (wire === undefined || (kind === 'metrics' && !METRICS.includes(wire.case))) {
    const scalars = kind === 'config' ? 'a number, integer, boolean, text, bytes' : 'a number, integer';
    throw invalid(`${scalars} of 64 bits, or a list of one of these`, name, value);
  }
  return wire as Wire;
}

/** The body of a record's object. */
export function encodeValues(record: MetricRecord | ConfigRecord): Uint8Array {
  const items = Array.from(record.values, ([key, value]: [string, ConfigValue]) => ({
    key,
    value: { value: wireValue(value, record.kind, key) } as MessageInitShape<typeof ConfigRecordValueSchema>,
  }));
  return toBinary(ConfigRecordSchema, create(ConfigRecordSchema, { items }));
}

/** @param checkName throws for names that are too long */
export function decodeValues<R extends MetricRecord | ConfigRecord>(
  kind: R['kind'],
  body: Uint8Array,
  what: string,
  checkName: (name: string) => void,
): R {
  const values = new Map<string, ConfigValue>();
  for (const { key, value: wrapped } of fromBinary(ConfigRecordSchema, body, NOT_READING_UNKNOWN).items) {
    checkName(key);
    if (values.has(key)) throw corrupt('each name once', `the names of ${what}`, key);
    const wire = wrapped?.value;
    if (wire?.case === undefined) throw corrupt('a value', `${key} of ${what}`, undefined);
    if (kind === 'metrics' && !METRICS.includes(wire.case))
      throw corrupt('a number', `${key} of ${what}`, wire.case);
    values.set(key, ownValue(wire));
  }
  return { kind, values } as R;
}

/** The value itself; bytes are copied, for they are a view of the object's. */
function ownValue(wire: Exclude<Wire, { case: undefined }>): ConfigValue {
  if (wire.case === 'bytes') return new Uint8Array(wire.value);
  if (wire.case === 'bytesList') return wire.value.vals.map((bytes) => new Uint8Array(bytes));
  return typeof wire.value === 'object' ? wire.value.vals : wire.value;
}

/** A message as the Fleet API carries it: its content is empty, for that travels as objects. */
export function wireMessage(message: FlowerMessage): Message {
  const { metadata, error } = message;
  return create(MessageSchema, {
    metadata,
    ...(error === undefined ? { content: {} } : { error: { ...error, code: BigInt(error.code) } }),
  });
}

/** The body of a message's object, which has neither its id nor its content. */
export function encodeBody(message: FlowerMessage): Uint8Array {
  const wire = wireMessage({ ...message, metadata: { ...message.metadata, messageId: '' } });
  wire.content = undefined;
  return toBinary(MessageSchema, wire);
}

/** What the body of a message's object says: who, what, and the error if it is one. */
export function decodeBody(body: Uint8Array, what: string): Omit<FlowerMessage, 'content'> {
  const { metadata, error } = fromBinary(MessageSchema, body, NOT_READING_UNKNOWN);
  if (metadata === undefined) throw corrupt('metadata', what, undefined);
  const message = { metadata: metadataOf(metadata, what) };
  return error === undefined
    ? message
    : { ...message, error: { code: Number(error.code), reason: error.reason } };
}

/** @throws DuetError CORRUPT where its times are no numbers */
export function metadataOf(wire: Metadata, what: string): MessageMetadata {
  const { $typeName, $unknown, ...metadata } = wire;
  for (const name of ['ttl', 'createdAt'] as const)
    if (!Number.isFinite(metadata[name])) throw corrupt('number', `${name} of ${what}`, metadata[name]);
  return metadata;
}
