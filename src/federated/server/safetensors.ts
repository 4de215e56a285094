/**
 * Bodies of the protocol: safetensors in memory. Nothing the format does not describe is accepted, and nothing is allocated that a
 * header only claims. Files are read and written by the native reader.
 */

import { DuetError, messageOf } from '../../errors.js';
import type { DType, TensorData } from '../../native/core.js';

export interface SafetensorsBody {
  tensors: Record<string, TensorData>;
  metadata: Record<string, string>;
}

/** Longest header in bytes. */
export const MAX_HEADER = 1 << 20;
const LENGTH_BYTES = 8;

const KINDS = {
  f32: { name: 'F32', array: Float32Array },
  bf16: { name: 'BF16', array: Uint16Array },
  f16: { name: 'F16', array: Uint16Array },
  i64: { name: 'I64', array: BigInt64Array },
  i32: { name: 'I32', array: Int32Array },
  u8: { name: 'U8', array: Uint8Array },
} as const;
const DTYPES = Object.keys(KINDS) as DType[];

/** Tensors in the order given, one after the other, each at a multiple of 8 bytes where their lengths allow it. */
export function encodeBody(
  tensors: Record<string, TensorData>,
  metadata: Record<string, string> = {},
): Uint8Array<ArrayBuffer> {
  const header: Record<string, unknown> = {};
  if (Object.keys(metadata).length > 0) header.__metadata__ = metadata;
  // Wide elements first, so that all of them are aligned.
  const entries = Object.entries(tensors).sort(
    ([, a], [, b]) => b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT,
  );
  let end = 0;
  for (const [name, { dtype, shape, data }] of entries) {
    const begin = end;
    end += data.byteLength;
    header[name] = { dtype: KINDS[dtype].name, shape, data_offsets: [begin, end] };
  }
  const text = Buffer.from(JSON.stringify(header));
  const start = LENGTH_BYTES + Math.ceil(text.length / LENGTH_BYTES) * LENGTH_BYTES;
  if (start > MAX_HEADER)
    throw new DuetError('INVALID_ARGUMENT', `Expected a header of at most ${MAX_HEADER} bytes`);
  const body = new Uint8Array(start + end);
  new DataView(body.buffer).setBigUint64(0, BigInt(start - LENGTH_BYTES), true);
  body.fill(0x20, LENGTH_BYTES, start);
  body.set(text, LENGTH_BYTES);
  let position = start;
  for (const [, { data }] of entries) {
    body.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), position);
    position += data.byteLength;
  }
  return body;
}

/**
 * The tensors of a body, as views into it where they are aligned.
 * @param what names it in messages
 * @throws DuetError CORRUPT for anything but a whole safetensors body of the types above
 */
export function decodeBody(body: Uint8Array<ArrayBuffer>, what: string): SafetensorsBody {
  const corrupt = (words: string) => new DuetError('CORRUPT', `${what} is no safetensors body: ${words}`);
  if (body.length < LENGTH_BYTES) throw corrupt(`it has ${body.length} bytes`);
  const length = new DataView(body.buffer, body.byteOffset).getBigUint64(0, true);
  if (length > MAX_HEADER || LENGTH_BYTES + Number(length) > body.length)
    throw corrupt(`its header claims ${length} bytes`);
  const start = LENGTH_BYTES + Number(length);
  let header: unknown;
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(body.subarray(LENGTH_BYTES, start));
    header = JSON.parse(text);
  } catch (error) {
    throw corrupt(messageOf(error));
  }
  if (!isObject(header)) throw corrupt('its header is no object');
  const { __metadata__: metadata = {}, ...described } = header;
  if (!isObject(metadata) || Object.values(metadata).some((text) => typeof text !== 'string'))
    throw corrupt('its metadata are no texts');
  const tensors: Record<string, TensorData> = Object.create(null);
  let position = start;
  for (const { name, dtype, shape, begin, end } of Object.entries(described)
    .map(([name, entry]) => checkedEntry(name, entry, corrupt))
    .sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (start + begin !== position || start + end > body.length)
      throw corrupt(`tensor ${name} does not begin where the one before it ends, or is cut off`);
    position = start + end;
    tensors[name] = { dtype, shape, data: view(body, start + begin, start + end, KINDS[dtype].array) };
  }
  if (position !== body.length) throw corrupt(`${body.length - position} bytes belong to no tensor`);
  return { tensors, metadata: metadata as Record<string, string> };
}

function checkedEntry(name: string, entry: unknown, corrupt: (words: string) => DuetError) {
  const { dtype, shape, data_offsets: offsets, ...rest } = isObject(entry) ? entry : {};
  const known = DTYPES.find((one) => KINDS[one].name === dtype);
  if (known === undefined || Object.keys(rest).length > 0 || !isCounts(shape) || !isCounts(offsets))
    throw corrupt(`tensor ${name} is not described by a known dtype, a shape and data_offsets`);
  const [begin = 0, end = 0] = offsets;
  const size = shape.reduce((product, edge) => product * edge, KINDS[known].array.BYTES_PER_ELEMENT);
  if (offsets.length !== 2 || end - begin !== size)
    throw corrupt(`tensor ${name} has not the ${size} bytes of its shape`);
  return { name, dtype: known, shape, begin, end };
}

function view(
  body: Uint8Array<ArrayBuffer>,
  begin: number,
  end: number,
  array: (typeof KINDS)[DType]['array'],
): TensorData['data'] {
  const at = body.byteOffset + begin;
  if (at % array.BYTES_PER_ELEMENT !== 0) return new array(body.slice(begin, end).buffer);
  return new array(body.buffer, at, (end - begin) / array.BYTES_PER_ELEMENT);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((count) => Number.isSafeInteger(count) && count >= 0);
}
