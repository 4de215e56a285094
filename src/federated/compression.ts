/**
 * How an update is written for the way to a duet server, in tensors of a safetensors file:
 *
 * ```
 * fp32   <name> f32     the values themselves, exactly
 * bf16   <name> bf16    value - received, rounded to nearest: off by at most 2^-8 of itself
 * int8   <name> u8      (value - received) / scale + 128, and scales/<name> f32, one for every 256 values: off by at most half of
 *                       1/127 of the largest difference among them (stochastic rounding: less than all of it)
 * ```
 *
 * To that the rounding of received + difference in fp32 is added. int8 takes about a quarter of the bytes of fp32.
 */

import { invalid, requireInstance, requireInteger, requireObject } from '../arguments.js';
import { DuetError, messageOf, shown } from '../errors.js';
import type { DType, TensorData, Tensors } from '../native/core.js';
import { native } from '../native.js';
import { updatePairs } from './update.js';

/** All codecs. */
export const CODEC_NAMES = ['fp32', 'bf16', 'int8'] as const;
/** Name of a codec. */
export type CodecName = (typeof CODEC_NAMES)[number];

/** One way to write updates, known to both sides by its name. */
export interface UpdateCodec {
  /** In messages. */
  readonly name: CodecName;
  /**
   * @param received the shared parameters the update began from
   * @throws DuetError NOT_FINITE naming the parameter whose values, or differences, are not finite; INVALID_ARGUMENT for other names or
   *   lengths than received
   */
  encode(values: Tensors, received: Tensors): Record<string, TensorData>;
  /**
   * @param encoded what a stranger sent
   * @throws DuetError CORRUPT for other names, types or lengths than this codec writes for these parameters, for scales that are
   *   negative, and for values that are not finite
   */
  decode(encoded: Record<string, TensorData>, received: Tensors): Tensors;
}

/** Names the draws of stochastic rounding: the same ones for the same update of a round. */
export interface RoundingDraws {
  seed: number;
  stream: number;
}

/**
 * A codec by its name.
 * @param draws int8 rounds stochastically, so that updates are right on average; without them to nearest. Decoding needs none.
 */
export function updateCodec(name: CodecName, draws?: RoundingDraws): UpdateCodec {
  if (!CODEC_NAMES.includes(name)) throw invalid(`one of ${CODEC_NAMES.join(', ')}`, 'codec', name);
  if (draws !== undefined) {
    for (const key of ['seed', 'stream'] as const) requireInteger(requireObject(draws, 'draws')[key], key, 0);
    if (name !== 'int8')
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected no draws for ${name}: only int8 rounds stochastically`,
      );
  }
  return name === 'int8' ? int8(draws) : name === 'bf16' ? bf16 : fp32;
}

const fp32: UpdateCodec = {
  name: 'fp32',
  encode: (values, received) => {
    const entries = updatePairs(values, received).map(([name, data]): [string, TensorData] => {
      if (!native.allFinite(data)) throw notFinite('NOT_FINITE', name);
      return [name, { dtype: 'f32', shape: [data.length], data }];
    });
    return Object.fromEntries(entries);
  },
  decode: (encoded, received) =>
    decoded(encoded, received, [['', 'f32']], (name, [values], before) => {
      const data = values?.data as Float32Array;
      requireLength(data, before.length, name);
      if (!native.allFinite(data)) throw notFinite('CORRUPT', name);
      return data;
    }),
};

const bf16: UpdateCodec = {
  name: 'bf16',
  encode: (values, received) => {
    const entries = updatePairs(values, received).map(([name, value, before]): [string, TensorData] => {
      return [name, naming(name, () => native.encodeBf16(value, before))];
    });
    return Object.fromEntries(entries);
  },
  decode: (encoded, received) =>
    decoded(encoded, received, [['', 'bf16']], (_, [values], before) =>
      native.decodeBf16(values as TensorData, before),
    ),
};

const SCALES = 'scales/';

function int8(draws: RoundingDraws | undefined): UpdateCodec {
  return {
    name: 'int8',
    encode: (values, received) => {
      let counter = 0;
      const entries = updatePairs(values, received).flatMap(
        ([name, value, before]): [string, TensorData][] => {
          const made = naming(name, () => native.encodeInt8(value, before, draws && { ...draws, counter }));
          counter += Math.ceil(value.length / 4);
          return [
            [name, { dtype: 'u8', shape: [made.values.length], data: made.values }],
            [SCALES + name, { dtype: 'f32', shape: [made.scales.length], data: made.scales }],
          ];
        },
      );
      return Object.fromEntries(entries);
    },
    decode: (encoded, received) => {
      const parts: Part[] = [
        ['', 'u8'],
        [SCALES, 'f32'],
      ];
      return decoded(encoded, received, parts, (_, [values, scales], before) =>
        native.decodeInt8(values?.data as Uint8Array, scales?.data as Float32Array, before),
      );
    },
  };
}

/** What comes before a parameter's name, and the type of what is called so. */
type Part = readonly [prefix: string, dtype: DType];

/** Every parameter from its parts; no other tensor may be there. */
function decoded(
  encoded: Record<string, TensorData>,
  received: Tensors,
  parts: readonly Part[],
  decode: (name: string, tensors: TensorData[], before: Float32Array) => Float32Array,
): Tensors {
  const names = Object.keys(requireObject(received, 'received'));
  const expected = new Set(names.flatMap((name) => parts.map(([prefix]) => prefix + name)));
  const strange = Object.keys(requireObject(encoded, 'encoded')).find((name) => !expected.has(name));
  if (strange !== undefined)
    throw new DuetError(
      'CORRUPT',
      `Expected no tensor ${strange} in an update: it is no parameter that travels`,
    );
  const made = Object.entries(received).map(([name, before]): [string, Float32Array] => {
    const tensors = parts.map(([prefix, dtype]) => {
      const tensor = Object.hasOwn(encoded, prefix + name) ? encoded[prefix + name] : undefined;
      if (tensor?.dtype === dtype && tensor.data instanceof ARRAYS[dtype]) return tensor;
      throw new DuetError(
        'CORRUPT',
        `Expected ${dtype} for ${prefix}${name} of an update but found ${shown(tensor?.dtype)}`,
      );
    });
    return [name, naming(name, () => decode(name, tensors, requireInstance(before, Float32Array, name)))];
  });
  return Object.fromEntries(made);
}

const ARRAYS = {
  f32: Float32Array,
  bf16: Uint16Array,
  f16: Uint16Array,
  i64: BigInt64Array,
  i32: Int32Array,
  u8: Uint8Array,
} satisfies Record<DType, unknown>;

function requireLength(values: Float32Array, length: number, name: string): void {
  if (values.length === length) return;
  throw new DuetError(
    'CORRUPT',
    `Expected ${length} values of ${name} in an update but found ${values.length}`,
  );
}

function notFinite(code: 'NOT_FINITE' | 'CORRUPT', name: string): DuetError {
  return new DuetError(code, `Expected finite values of ${name} in an update`);
}

/** Errors of the native core say which parameter they are about. */
function naming<T>(name: string, call: () => T): T {
  try {
    return call();
  } catch (error) {
    if (!(error instanceof DuetError)) throw error;
    throw new DuetError(error.code, `Update of ${name}: ${messageOf(error)}`, { cause: error });
  }
}
