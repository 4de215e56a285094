// Comparing an op with its reference: the forward values, and the gradients against central differences of the
// double-precision reference (never of the fp32 op, whose rounding would drown them).
//
// Tolerances, with u = 2^-24 (6e-8), the unit roundoff of fp32:
// - EXACT_ARITHMETIC 1e-6, element by element: ops of a few roundings (16 u), computed in double inside or element-wise.
// - FP32 1e-5, against the largest magnitude of the tensor: a sum of n products in fp32 is off by about sqrt(n) u of the
//   size of its terms, at most n u. With n up to a few thousand and terms of the size of the result that is 4e-6; a wrong
//   term, scale or index shows at 1e-2 and more.
// - BF16 2^-7 (8e-3), against the largest magnitude: inputs are exact in bf16, then two or three values on the way are
//   rounded to 8 bits (2^-9 each).
// The central difference with h = 1e-5 adds about 1e-10.

import { expect } from 'vitest';
import type { TensorData } from '../../../src/native/core.js';
import { native } from '../../../src/native.js';
import { f32, inBf16, largest, type Numbers, sizeOf, uniform } from './numbers.js';

// Ops are compared on one thread; tests/ops/threads.test.ts compares one thread with several. Small work gains nothing
// from a second thread, and on a busy machine waits for it.
native.setThreads(1);

export const EXACT_ARITHMETIC = 1e-6;
export const FP32 = 1e-5;
export const BF16 = 2 ** -7;

export type Attributes = Record<string, number | string | boolean>;

export function floats(tensor: TensorData | undefined): Float32Array {
  expect(tensor?.dtype).toBe('f32');
  return tensor!.data as Float32Array;
}

/** Where two lists differ most by this measure, as words for a failing test. */
function worst(actual: Numbers, expected: Numbers, allowed: (i: number) => number): string | undefined {
  let most = 1;
  let words: string | undefined;
  for (let i = 0; i < expected.length; i++) {
    if (Object.is(actual[i], expected[i]) || actual[i] === expected[i]) continue;
    const difference = Math.abs(actual[i]! - expected[i]!);
    const ratio = difference / allowed(i);
    if (ratio <= most) continue;
    most = Number.isNaN(ratio) ? Number.POSITIVE_INFINITY : ratio;
    words = `element ${i} is ${actual[i]}, expected ${expected[i]}: ${most.toPrecision(3)} times the tolerance`;
  }
  return words;
}

/** Every difference is at most `tolerance` times the largest expected magnitude. */
export function expectClose(actual: Numbers, expected: Numbers, tolerance: number, what: string): void {
  const scale = tolerance * largest(expected) || Number.MIN_VALUE;
  expect(actual.length, `${what}: number of elements`).toBe(expected.length);
  expect(
    worst(actual, expected, () => scale),
    what,
  ).toBeUndefined();
}

/** Every difference is at most `tolerance` times the expected element (plus an absolute part). NaN matches NaN. */
export function expectEachClose(
  actual: Numbers,
  expected: Numbers,
  tolerance: number,
  what: string,
  absolute = 1e-37,
): void {
  expect(actual.length, `${what}: number of elements`).toBe(expected.length);
  expect(
    worst(actual, expected, (i) => absolute + tolerance * Math.abs(expected[i]!)),
    what,
  ).toBeUndefined();
}

/** Bit for bit. */
export function expectSame(actual: Float32Array, expected: Float32Array, what: string): void {
  const bytes = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  expect(bytes(actual).equals(bytes(expected)), `${what}: the same bits`).toBe(true);
}

/** The derivative of `loss` by element `i` of `values`, which are put back as they were. */
export function centralDifference(values: Float64Array, i: number, loss: () => number, h = 1e-5): number {
  const before = values[i]!;
  const step = h * Math.max(1, Math.abs(before));
  values[i] = before + step;
  const above = loss();
  values[i] = before - step;
  const below = loss();
  values[i] = before;
  return (above - below) / (2 * step);
}

/** Up to `count` different places among `length`, always with the first and the last. */
export function places(length: number, count: number, seed = 1): number[] {
  if (length <= count) return Array.from({ length }, (_, i) => i);
  const draw = uniform(seed);
  const chosen = new Set(count > 1 ? [0, length - 1] : []);
  while (chosen.size < count) chosen.add(Math.floor(draw() * length));
  return [...chosen];
}

export interface OpCase {
  op: string;
  inputs: Record<string, TensorData>;
  attributes?: Attributes;
  /** The output from the inputs, in double precision. */
  reference: (inputs: Record<string, Float64Array>) => Float64Array;
  /** Inputs whose gradients are compared; default all fp32 ones. */
  gradients?: string[];
  /** Of the output and of the gradients, against the largest magnitude. Default FP32, with `compute: 'bf16'` BF16. */
  tolerance?: number;
  gradientTolerance?: number;
  /**
   * Gradients that cancel to little are off by the rounding of what cancelled. A gradient counts as at least this share of
   * the largest upstream one. Default 1e-3, with `compute: 'bf16'` 0.25.
   */
  floor?: number;
  /** Elements of each gradient that are differentiated. Default 24. */
  samples?: number;
}

/** Runs an op and compares output and gradients with the reference. */
export async function checkOp(given: OpCase): Promise<Record<string, TensorData>> {
  const { op, attributes = {}, samples = 24 } = given;
  const half = attributes.compute === 'bf16';
  const tolerance = given.tolerance ?? (half ? BF16 : FP32);
  const floor = given.floor ?? (half ? 0.25 : 1e-3);
  const gradientTolerance = given.gradientTolerance ?? given.tolerance ?? (half ? BF16 : FP32);
  const inputs = { ...given.inputs };
  const names = Object.keys(inputs).filter((name) => inputs[name]!.dtype === 'f32');
  if (half) for (const name of names) inputs[name] = inBf16(inputs[name]!);

  const values = Object.fromEntries(
    Object.entries(inputs).map(([name, tensor]) => [name, Float64Array.from(tensor.data as Float32Array)]),
  );
  const expected = given.reference(values);
  const alone = await native.runOp(op, inputs, attributes);
  expect(sizeOf(alone.out!.shape), `${op}: shape of out`).toBe(expected.length);
  expectClose(floats(alone.out), expected, tolerance, `${op} out`);

  const gradOutput = f32(alone.out!.shape, 77);
  const upstream = (half ? inBf16(gradOutput) : gradOutput).data as Float32Array;
  const results = await native.runOp(op, inputs, attributes, { ...gradOutput, data: upstream });
  expectSame(floats(results.out), floats(alone.out), `${op} out with and without a gradient`);
  const loss = () => given.reference(values).reduce((sum, y, i) => sum + y * upstream[i]!, 0);
  for (const name of given.gradients ?? names) {
    const gradient = floats(results[`grad.${name}`]);
    expect(results[`grad.${name}`]!.shape).toEqual(inputs[name]!.shape);
    const chosen = places(gradient.length, samples);
    const wanted = chosen.map((i) => centralDifference(values[name]!, i, loss));
    const got = chosen.map((i) => gradient[i]!);
    const scale =
      gradientTolerance * Math.max(largest(wanted), floor * largest(upstream)) || Number.MIN_VALUE;
    expect(
      worst(got, wanted, () => scale),
      `${op} grad.${name} at ${chosen.join(', ')}`,
    ).toBeUndefined();
  }
  return results;
}
