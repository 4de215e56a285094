/**
 * ONNX files of a few nodes, written field by field in the wire format of protocol buffers: numbers of fields as in onnx.proto
 * (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
 */

type Bytes = Uint8Array;

function varint(value: number): Bytes {
  const bytes: number[] = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) + 128);
  return Uint8Array.of(...bytes, value);
}

/** A field: a number as varint, a text, or the bytes of a message. */
function field(number: number, value: number | string | Bytes): Bytes {
  if (typeof value === 'number') return Buffer.concat([varint(number * 8), varint(value)]);
  const bytes = Buffer.from(value as string);
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

const message = (...fields: Bytes[]): Bytes => Buffer.concat(fields);
const FLOAT = 1;

/** A value of float32; axes are sizes, or names where any size will do. */
function valueInfo(name: string, axes: readonly (number | string)[]): Bytes {
  const dimensions = axes.map((axis) => field(1, message(field(typeof axis === 'number' ? 1 : 2, axis))));
  const tensor = message(field(1, FLOAT), field(2, message(...dimensions)));
  return message(field(1, name), field(2, message(field(1, tensor))));
}

export interface OnnxNode {
  op: string;
  inputs: string[];
  output: string;
}

export interface OnnxGraph {
  nodes: readonly OnnxNode[];
  weights?: Record<string, { shape: readonly number[]; data: Float32Array }>;
  input: [name: string, axes: readonly (number | string)[]];
  output: [name: string, axes: readonly (number | string)[]];
}

/** The bytes of an .onnx file (operator set 13). */
export function onnxModel({ nodes, weights = {}, input, output }: OnnxGraph): Bytes {
  const graph = message(
    ...nodes.map(({ op, inputs, output: made }) =>
      field(1, message(...inputs.map((name) => field(1, name)), field(2, made), field(4, op))),
    ),
    field(2, 'graph'),
    ...Object.entries(weights).map(([name, { shape, data }]) =>
      field(
        5,
        message(
          ...shape.map((size) => field(1, size)),
          field(2, FLOAT),
          field(8, name),
          field(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)),
        ),
      ),
    ),
    field(11, valueInfo(...input)),
    field(12, valueInfo(...output)),
  );
  return message(field(1, 8), field(8, message(field(2, 13))), field(7, graph));
}
