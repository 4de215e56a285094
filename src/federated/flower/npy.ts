/**
 * Arrays in NumPy's .npy format, as Flower carries them: versions 1 to 3 are read in row-major and column-major order,
 * version 1 is written, byte for byte as NumPy does. Little-endian numbers only, never Python objects.
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
 */

import { invalid } from '../../arguments.js';
import { corrupt } from './corrupt.js';

/** Elements of an array in row-major order; Uint16Array holds the bits of float16. */
export type ArrayData =
  | Float32Array
  | Float64Array
  | Uint16Array
  | Int32Array
  | BigInt64Array
  | Int8Array
  | Uint8Array;

/** One array of an ArrayRecord. */
export interface NumpyArray {
  /** NumPy's name: float16, float32, float64, int8, int32, int64, uint8 or bool (one byte, 0 or 1). */
  dtype: string;
  shape: number[];
  data: ArrayData;
}

interface ArrayType {
  /** In a .npy header. */
  descr: string;
  data: {
    new (length: number): ArrayData;
    new (buffer: ArrayBufferLike, offset: number, length: number): ArrayData;
    readonly BYTES_PER_ELEMENT: number;
  };
}

const TYPES = new Map<string, ArrayType>([
  ['float16', { descr: '<f2', data: Uint16Array }],
  ['float32', { descr: '<f4', data: Float32Array }],
  ['float64', { descr: '<f8', data: Float64Array }],
  ['int8', { descr: '|i1', data: Int8Array }],
  ['int32', { descr: '<i4', data: Int32Array }],
  ['int64', { descr: '<i8', data: BigInt64Array }],
  ['uint8', { descr: '|u1', data: Uint8Array }],
  ['bool', { descr: '|b1', data: Uint8Array }],
]);
const NAMES = new Map([...TYPES].map(([name, { descr }]) => [descr, name]));

const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
/** NumPy itself refuses longer headers of files it does not trust. */
const LONGEST_HEADER = 10_000;
/** As in NumPy 2; earlier ones stop at 32. */
const MOST_DIMENSIONS = 64;

/** How many elements, or undefined where the sizes are no array's. */
function elementsIn(shape: readonly number[]): number | undefined {
  if (shape.length > MOST_DIMENSIONS || !shape.every((size) => Number.isSafeInteger(size) && size >= 0))
    return undefined;
  const elements = shape.includes(0) ? 0 : shape.reduce((product, size) => product * size, 1);
  return Number.isSafeInteger(elements) ? elements : undefined;
}

/**
 * The header of the .npy file of an array; its elements follow it.
 * @throws DuetError INVALID_ARGUMENT when dtype, shape and data do not fit each other
 */
export function npyHeader(array: NumpyArray, name: string): Uint8Array {
  const { dtype, shape, data } = array;
  const type = TYPES.get(dtype);
  if (type === undefined) throw invalid(`one of ${[...TYPES.keys()].join(', ')}`, `${name}.dtype`, dtype);
  if (!(data instanceof type.data)) throw invalid(type.data.name, `${name}.data of ${dtype}`, data);
  if (elementsIn(shape) !== data.length) {
    throw invalid(`${data.length} elements, as many as its data has,`, `${name}.shape`, shape);
  }
  const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const fields = `{'descr': '${type.descr}', 'fortran_order': False, 'shape': (${sizes}), }`;
  // NumPy leaves room for the first size to grow, then aligns the elements.
  const growth = shape.length > 0 ? 21 - String(shape[0]).length : 0;
  const length = fields.length + growth + 1;
  const padding = 64 - ((MAGIC.length + 4 + length) % 64);
  const text = `${fields}${' '.repeat(growth + padding)}\n`;
  const header = Buffer.alloc(MAGIC.length + 4 + text.length);
  header.set([...MAGIC, 1, 0]);
  header.writeUInt16LE(text.length, 8);
  header.write(text, 10, 'latin1');
  return header;
}

interface Header {
  descr: string;
  fortranOrder: boolean;
  shape: number[];
}

const FIELD =
  /\s*(['"])(descr|fortran_order|shape)\1\s*:\s*('[^'\\]*'|"[^"\\]*"|True|False|\([\d\s,]*\))\s*(?:,|(?=\}))/y;
const SIZES = /^\(\s*(?:(\d+(?:\s*,\s*\d+)*)\s*,?)?\s*\)$/;

/** The Python dictionary of a header; its three fields come in any order. */
function parseHeader(text: string, what: string): Header {
  const fields = new Map<string, string>();
  const dictionary = text.trim();
  FIELD.lastIndex = 1;
  let end = 1;
  for (let field = FIELD.exec(dictionary); field !== null; field = FIELD.exec(dictionary)) {
    fields.set(field[2] as string, field[3] as string);
    end = FIELD.lastIndex;
  }
  const [descr, order, sizes] = ['descr', 'fortran_order', 'shape'].map((key) => fields.get(key) ?? '');
  const shape = SIZES.exec(sizes as string);
  const whole = dictionary.startsWith('{') && /^\s*\}$/.test(dictionary.slice(end));
  if (!whole || !/^['"]/.test(descr as string) || !/^(True|False)$/.test(order as string) || shape === null)
    throw corrupt('descr, fortran_order and shape', `the header of ${what}`, dictionary);
  return {
    descr: (descr as string).slice(1, -1),
    fortranOrder: order === 'True',
    shape: shape[1] === undefined ? [] : shape[1].split(',').map(Number),
  };
}

/**
 * The array of a .npy file. Its elements are a view of `bytes` where they lie aligned and in row-major order.
 * @param what names the file in messages
 * @throws DuetError CORRUPT
 */
export function readNpy(bytes: Uint8Array, what: string): NumpyArray {
  if (bytes.length < 12 || MAGIC.some((byte, index) => bytes[index] !== byte))
    throw corrupt('a .npy file', what, bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const version = bytes[6] as number;
  if (version < 1 || version > 3) throw corrupt('version 1, 2 or 3', `the .npy format of ${what}`, version);
  const start = version === 1 ? 10 : 12;
  const length = version === 1 ? view.getUint16(8, true) : view.getUint32(8, true);
  const most = Math.min(LONGEST_HEADER, bytes.length - start);
  if (length > most) throw corrupt(`at most ${most} bytes`, `the header of ${what}`, length);

  const offset = start + length;
  const header = parseHeader(Buffer.from(bytes.subarray(start, offset)).toString('latin1'), what);
  const dtype = NAMES.get(header.descr);
  if (dtype === undefined)
    throw corrupt(`one of ${[...NAMES.keys()].join(', ')}`, `the type of ${what}`, header.descr);
  const type = (TYPES.get(dtype) as ArrayType).data;
  const size = type.BYTES_PER_ELEMENT;
  const elements = elementsIn(header.shape);
  if (elements === undefined) throw corrupt('sizes of an array', `the shape of ${what}`, header.shape);
  if (elements * size !== bytes.length - offset) {
    const expected = `${elements * size} bytes of ${dtype} [${header.shape.join(', ')}]`;
    throw corrupt(expected, what, bytes.length - offset);
  }
  const place = bytes.byteOffset + offset;
  const data =
    place % size === 0
      ? new type(bytes.buffer, place, elements)
      : new type(new Uint8Array(bytes.subarray(offset)).buffer, 0, elements);
  const transposed = header.fortranOrder && header.shape.filter((dimension) => dimension !== 1).length > 1;
  return {
    dtype,
    shape: header.shape,
    data: transposed ? rowMajor(data, header.shape, new type(elements)) : data,
  };
}

/** Elements in column-major order (the first index varies fastest) put in row-major order. */
function rowMajor(data: ArrayData, shape: readonly number[], result: ArrayData): ArrayData {
  const strides: number[] = [];
  shape.reduce((stride, size) => {
    strides.push(stride);
    return stride * size;
  }, 1);
  const last = shape.length - 1;
  const [columns, columnStride] = [shape[last] as number, strides[last] as number];
  const index = shape.map(() => 0);
  let from = 0;
  for (let row = 0; row < result.length; row += columns) {
    for (let column = 0; column < columns; column++)
      result[row + column] = data[from + column * columnStride] as number;
    for (let axis = last - 1; axis >= 0; axis--) {
      from += strides[axis] as number;
      index[axis] = (index[axis] as number) + 1;
      if ((index[axis] as number) < (shape[axis] as number)) break;
      from -= (strides[axis] as number) * (shape[axis] as number);
      index[axis] = 0;
    }
  }
  return result;
}
