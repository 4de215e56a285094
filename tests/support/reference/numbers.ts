// Numbers for tests: seeded draws, tensors for `runOp`, and rounding to bf16.
// Everything the native side gets is fp32 (or bf16) exactly, so a reference that starts from the same values in double
// precision measures the arithmetic of an op and not the rounding of its inputs.

import type { TensorData } from '../../../src/native/core.js';

export type Numbers = ArrayLike<number>;

/** Uniform draws from [0, 1) (mulberry32; nothing to do with the generator under test). */
export function uniform(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `count` normal draws. */
export function normals(count: number, seed: number, deviation = 1, mean = 0): Float32Array {
  const draw = uniform(seed);
  return Float32Array.from(
    { length: count },
    () => mean + deviation * Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw()),
  );
}

/** Nearest bf16 (ties to even), as the fp32 number it stands for. */
export function roundToBf16(value: number): number {
  const view = new DataView(new ArrayBuffer(4));
  view.setFloat32(0, value);
  const bits = view.getUint32(0);
  if (Number.isNaN(value)) return value;
  view.setUint32(0, ((bits + 0x7fff + ((bits >>> 16) & 1)) & 0xffff0000) >>> 0);
  return view.getFloat32(0);
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** An fp32 tensor of these values, or of normal draws with this seed. */
export function f32(shape: number[], values: Numbers | number, deviation = 1): TensorData {
  const data = typeof values === 'number' ? normals(sizeOf(shape), values, deviation) : values;
  return { dtype: 'f32', shape, data: Float32Array.from(data) };
}

export function i32(values: Numbers, shape: number[] = [values.length]): TensorData {
  return { dtype: 'i32', shape, data: Int32Array.from(values) };
}

export function u8(values: Numbers): TensorData {
  return { dtype: 'u8', shape: [values.length], data: Uint8Array.from(values) };
}

/** The same tensor with every value rounded to bf16. */
export function inBf16(tensor: TensorData): TensorData {
  return { ...tensor, data: (tensor.data as Float32Array).map(roundToBf16) };
}

/** The largest magnitude; NaN when there is one. */
export function largest(values: Numbers): number {
  let most = 0;
  for (let i = 0; i < values.length; i++) {
    const size = Math.abs(values[i]!);
    if (size > most || Number.isNaN(size)) most = size;
    if (Number.isNaN(most)) return most;
  }
  return most;
}
