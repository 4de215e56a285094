/**
 * Flower's content-addressed objects: a message taken apart into hashed pieces, and put together again.
 *
 *   object = "<type> <id,id,...> <length of body>" 0x00 body      id = sha256 of the object, hex
 *
 *   Message > RecordDict > ArrayRecord > Array > ArrayChunk       (or MetricRecord, ConfigRecord below RecordDict)
 *
 * Pieces that are equal have one id and exist once. An array is a .npy file cut into chunks.
 */

import { createHash } from 'node:crypto';
import { z } from 'zod';
import { invalid } from '../../arguments.js';
import { validated } from '../../validation.js';
import { corrupt, readingOf } from './corrupt.js';
import { type NumpyArray, npyHeader, readNpy } from './npy.js';
import type { ArrayRecord, ConfigRecord, FlowerMessage, MetricRecord, RecordDict } from './records.js';
import { asciiJson, formatReferences, parseReferences } from './references.js';
import { decodeBody, decodeValues, encodeBody, encodeValues } from './wire.js';

/** Ids of an object and of what it consists of. */
export interface ObjectTree {
  objectId: string;
  children: ObjectTree[];
}

export interface DecodeLimits {
  /** Of all objects of a message, and of its arrays put together. Default: 2 GiB. */
  maxBytes: number;
  /** Of what names and describes arrays and records, all together. Default: 32 MiB. */
  maxRecordBytes: number;
  /** Of metrics and settings, all together; in memory they may take 100 times as much. Default: 4 MiB. */
  maxValueBytes: number;
  /** Default: 100000. */
  maxObjects: number;
  /** Characters of a record's, array's, metric's or setting's name. Default: 1024. */
  maxNameLength: number;
  /** False where checkObject has been called for every object. Default: true. */
  verify: boolean;
}

const DEFAULT_LIMITS: DecodeLimits = {
  maxBytes: 2 ** 31,
  maxRecordBytes: 2 ** 25,
  maxValueBytes: 2 ** 22,
  maxObjects: 100_000,
  maxNameLength: 1024,
  verify: true,
};

const CHUNK_BYTES = 5 * 2 ** 20;
const ARRAY_FORMAT = 'numpy.ndarray';
/** From Message to ArrayChunk. */
const DEEPEST = 5;
const ID = /^[0-9a-f]{64}$/;

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

const short = (id: string) => `${id.slice(0, 12)}...`;

/** @returns its id, the ids of its pieces, and all objects by id, each after the ones it consists of */
export function encodeMessage(message: FlowerMessage): {
  id: string;
  tree: ObjectTree;
  objects: Map<string, Uint8Array>;
} {
  const objects = new Map<string, Uint8Array>();

  const add = (type: string, parts: ObjectTree[], body: Uint8Array[]): ObjectTree => {
    const children = [...new Map(parts.map((part) => [part.objectId, part])).values()];
    const ids = children.map((child) => child.objectId).join(',');
    const length = body.reduce((sum, part) => sum + part.length, 0);
    const bytes = Buffer.concat([Buffer.from(`${type} ${ids} ${length}\0`), ...body]);
    const objectId = sha256(bytes);
    if (!objects.has(objectId)) objects.set(objectId, bytes);
    return { objectId, children };
  };

  const addReferences = (type: string, parts: Map<string, ObjectTree>): ObjectTree => {
    const references = Array.from(parts, ([name, { objectId }]) => [name, objectId] as const);
    return add(type, [...parts.values()], [Buffer.from(formatReferences(references))]);
  };

  const addArray = (array: NumpyArray, name: string): ObjectTree => {
    const header = npyHeader(array, name);
    const { buffer, byteOffset, byteLength } = array.data;
    const data = new Uint8Array(buffer, byteOffset, byteLength);
    const chunks: ObjectTree[] = [];
    for (let start = 0; start < header.length + data.length; start += CHUNK_BYTES) {
      const end = start + CHUNK_BYTES;
      const ofData = [start, end].map((place) => Math.max(0, place - header.length));
      chunks.push(add('ArrayChunk', [], [header.subarray(start, end), data.subarray(...ofData)]));
    }
    const unique = [...new Set(chunks.map((chunk) => chunk.objectId))];
    const indices = chunks.map((chunk) => unique.indexOf(chunk.objectId));
    const body =
      `{"dtype": ${asciiJson(array.dtype)}, "shape": [${array.shape.join(', ')}], ` +
      `"stype": "${ARRAY_FORMAT}", "arraychunk_ids": [${indices.join(', ')}]}`;
    return add('Array', chunks, [Buffer.from(body)]);
  };

  const addRecord = (record: ArrayRecord | MetricRecord | ConfigRecord): ObjectTree => {
    if (record.kind !== 'arrays') {
      return add(record.kind === 'metrics' ? 'MetricRecord' : 'ConfigRecord', [], [encodeValues(record)]);
    }
    const arrays = Array.from(record.values, ([name, array]) => [name, addArray(array, name)] as const);
    return addReferences('ArrayRecord', new Map(arrays));
  };

  const { content, error } = message;
  if ((content === undefined) === (error === undefined)) {
    throw invalid('either content or error', 'a message of Flower', content === undefined ? 'none' : 'both');
  }
  const records = Array.from(content ?? [], ([name, record]) => [name, addRecord(record)] as const);
  const parts = content === undefined ? [] : [addReferences('RecordDict', new Map(records))];
  const tree = add('Message', parts, [encodeBody(message)]);
  return { id: tree.objectId, tree, objects };
}

/**
 * The objects of a message, each once and after the ones it consists of: what to pull.
 * @throws DuetError CORRUPT for a tree that is too deep or too large, or an id that is none
 */
export function objectIds(tree: ObjectTree, limits?: Partial<DecodeLimits>): string[] {
  const { maxObjects } = { ...DEFAULT_LIMITS, ...limits };
  const ids = new Set<string>();
  let count = 0;
  const visit = ({ objectId, children }: ObjectTree, depth: number) => {
    if (depth > DEEPEST) throw corrupt(`at most ${DEEPEST} levels`, 'the objects of a message', depth);
    if (++count > maxObjects) throw corrupt(`at most ${maxObjects}`, 'the objects of a message', 'more');
    if (!ID.test(objectId)) throw corrupt('64 hexadecimal digits', 'the id of an object', objectId);
    for (const child of children) visit(child, depth + 1);
    ids.add(objectId);
  };
  visit(tree, 1);
  return [...ids];
}

/** @throws DuetError CORRUPT when the bytes are not those of this id */
export function checkObject(id: string, bytes: Uint8Array): void {
  const actual = sha256(bytes);
  if (actual !== id) throw corrupt(`sha256 ${id}`, 'an object of a message', actual);
}

/**
 * The message whose object has this id; `objects` may hold others too. Names with equal arrays share one array.
 * @throws DuetError CORRUPT when an object is missing, damaged, of a wrong type or beyond the limits
 */
export function decodeMessage(
  id: string,
  objects: ReadonlyMap<string, Uint8Array>,
  limits?: Partial<DecodeLimits>,
): FlowerMessage {
  return readingOf(`message ${short(id)}`, () =>
    new MessageReader(objects, { ...DEFAULT_LIMITS, ...limits }).message(id),
  );
}

interface ObjectParts {
  type: string;
  children: string[];
  body: Uint8Array;
}

const arraySchema = z.object({
  dtype: z.string(),
  shape: z.array(z.int().nonnegative()),
  stype: z.literal(ARRAY_FORMAT),
  arraychunk_ids: z.array(z.int().nonnegative()),
});

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/** What is counted while a message is read, by which limit, and its name in messages. */
const COUNTED = {
  objects: ['maxBytes', 'the objects of a message'],
  records: ['maxRecordBytes', 'the names and descriptions in a message'],
  values: ['maxValueBytes', 'the metrics and settings of a message'],
  arrays: ['maxBytes', 'the arrays of a message'],
} as const;

class MessageReader {
  readonly #objects: ReadonlyMap<string, Uint8Array>;
  readonly #limits: DecodeLimits;
  readonly #opened = new Map<string, ObjectParts>();
  readonly #records = new Map<string, ArrayRecord | MetricRecord | ConfigRecord>();
  readonly #arrays = new Map<string, NumpyArray>();
  readonly #counted = { objects: 0, records: 0, values: 0, arrays: 0 };

  constructor(objects: ReadonlyMap<string, Uint8Array>, limits: DecodeLimits) {
    this.#objects = objects;
    this.#limits = limits;
  }

  message(id: string): FlowerMessage {
    const { children, body } = this.#open(id, ['Message'], 'the message');
    const { metadata, error } = decodeBody(body, 'the message');
    const [content, ...others] = children;
    const message = { metadata: { ...metadata, messageId: id } };
    if (error !== undefined && content === undefined) return { ...message, error };
    if (error !== undefined || content === undefined || others.length > 0)
      throw corrupt('an error or 1 object of content', 'the message', children);
    return { ...message, content: this.#content(content) };
  }

  #content(id: string): RecordDict {
    const references = this.#references(this.#open(id, ['RecordDict'], 'the content'), 'the content');
    return new Map(Array.from(references, ([name, record]) => [name, this.#record(record, name)]));
  }

  #record(id: string, name: string): ArrayRecord | MetricRecord | ConfigRecord {
    const known = this.#records.get(id);
    if (known) return known;
    const what = `the record ${name}`;
    const parts = this.#open(id, ['ArrayRecord', 'MetricRecord', 'ConfigRecord'], what);
    const record = this.#decodeRecord(parts, what);
    this.#records.set(id, record);
    return record;
  }

  #decodeRecord(parts: ObjectParts, what: string): ArrayRecord | MetricRecord | ConfigRecord {
    if (parts.type === 'ArrayRecord') {
      const references = this.#references(parts, what);
      const arrays = Array.from(references, ([name, array]) => [name, this.#array(array, name)] as const);
      return { kind: 'arrays', values: new Map(arrays) };
    }
    requireNoChildren(parts, what);
    const kind = parts.type === 'MetricRecord' ? 'metrics' : 'config';
    return decodeValues(kind, parts.body, what, (name) => this.#checkName(name, what));
  }

  #array(id: string, name: string): NumpyArray {
    const known = this.#arrays.get(id);
    if (known) return known;
    const what = `the array ${name}`;
    const { children, body } = this.#open(id, ['Array'], what);
    const described = validated(arraySchema, JSON.parse(utf8.decode(body)), what, 'CORRUPT');
    const array = readNpy(this.#joined(children, described.arraychunk_ids, what), what);
    // The legacy strategies leave the description empty.
    const { dtype, shape } = described;
    if (dtype !== '' && (dtype !== array.dtype || shape.join() !== array.shape.join()))
      throw corrupt(`${dtype} [${shape.join(', ')}]`, what, `${array.dtype} [${array.shape.join(', ')}]`);
    this.#arrays.set(id, array);
    return array;
  }

  /** The bytes of an array from its chunks, a chunk being in several places where it repeats. */
  #joined(children: readonly string[], indices: readonly number[], what: string): Uint8Array {
    if (new Set(indices).size !== children.length || indices.some((index) => index >= children.length))
      throw corrupt(`the indices of ${children.length} chunks`, what, indices);
    const chunks = children.map((id) => {
      const chunk = this.#open(id, ['ArrayChunk'], `a chunk of ${what}`);
      requireNoChildren(chunk, `a chunk of ${what}`);
      return chunk.body;
    });
    const length = indices.reduce((sum, index) => sum + (chunks[index] as Uint8Array).length, 0);
    this.#count('arrays', length);
    const bytes = new Uint8Array(length);
    let offset = 0;
    for (const index of indices) {
      const chunk = chunks[index] as Uint8Array;
      bytes.set(chunk, offset);
      offset += chunk.length;
    }
    return bytes;
  }

  /** Names and object ids of a record; the ids are exactly those of its object. */
  #references({ children, body }: ObjectParts, what: string): Map<string, string> {
    const references = parseReferences(utf8.decode(body), what);
    for (const name of references.keys()) this.#checkName(name, what);
    const [ids, own] = [new Set(references.values()), new Set(children)];
    const wrong = children.find((id) => !ids.has(id)) ?? [...ids].find((id) => !own.has(id));
    if (wrong !== undefined) throw corrupt('the objects it consists of', `the ids in ${what}`, wrong);
    return references;
  }

  #open(id: string, types: readonly string[], what: string): ObjectParts {
    const known = this.#opened.get(id);
    const parts = known ?? this.#parse(id, what);
    if (!types.includes(parts.type)) throw corrupt(types.join(' or '), `the type of ${what}`, parts.type);
    this.#opened.set(id, parts);
    return parts;
  }

  #parse(id: string, what: string): ObjectParts {
    const bytes = this.#objects.get(id);
    if (bytes === undefined) throw corrupt(`object ${short(id)}`, what, undefined);
    this.#count('objects', bytes.length);
    const { maxObjects, maxRecordBytes, verify } = this.#limits;
    if (this.#opened.size >= maxObjects)
      throw corrupt(`at most ${maxObjects}`, 'the objects of a message', 'more');
    if (verify) checkObject(id, bytes);
    const parts = splitObject(bytes, maxRecordBytes, what);
    const isValues = parts.type === 'MetricRecord' || parts.type === 'ConfigRecord';
    if (parts.type !== 'ArrayChunk') this.#count(isValues ? 'values' : 'records', bytes.length);
    return parts;
  }

  #count(counted: keyof typeof COUNTED, bytes: number): void {
    this.#counted[counted] += bytes;
    const [limit, what] = COUNTED[counted];
    const most = this.#limits[limit];
    if (this.#counted[counted] > most) throw corrupt(`at most ${most} bytes`, what, this.#counted[counted]);
  }

  #checkName(name: string, what: string): void {
    const { maxNameLength } = this.#limits;
    if (name.length > maxNameLength)
      throw corrupt(`at most ${maxNameLength} characters`, `a name in ${what}`, name);
  }
}

function splitObject(bytes: Uint8Array, longestHead: number, what: string): ObjectParts {
  const end = bytes.subarray(0, longestHead).indexOf(0);
  const head = Buffer.from(bytes.subarray(0, Math.max(0, end))).toString('latin1');
  const [type = '', ids = '', length = '', ...others] = head.split(' ');
  const children = ids === '' ? [] : ids.split(',');
  const body = bytes.subarray(end + 1);
  if (length !== String(body.length) || others.length > 0)
    throw corrupt(`type, ids and ${body.length} bytes`, `the head of ${what}`, head);
  if (!children.every((id) => ID.test(id)) || new Set(children).size !== children.length)
    throw corrupt('different ids', `the children of ${what}`, ids);
  return { type, children, body };
}

function requireNoChildren({ children }: ObjectParts, what: string): void {
  if (children.length > 0) throw corrupt('no children', what, children);
}
