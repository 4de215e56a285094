/** A case of reference numbers, its outcome, and the comparison of tensors. */

import type { DeviceName } from '../device.js';
import type { TensorData } from '../native/core.js';
import { FACTOR, FEW, toleranceFor } from './tolerance.js';

export interface Outcome {
  name: string;
  status: 'pass' | 'fail' | 'skipped';
  /** Error over tolerance of the worst comparison, with both; absent when skipped. */
  worst?: { what: string; error: number; tolerance: number };
  /** Numbers compared. */
  compared: number;
  /** Why it was skipped, or what went wrong apart from numbers. */
  reason?: string;
}

export interface GoldenCase {
  name: string;
  run(): Promise<Outcome>;
}

export interface GoldenContext {
  /** The folder of reference numbers. */
  folder: string;
  device: DeviceName;
  threads: number;
}

type Numbers = ArrayLike<number> | BigInt64Array;

/** Collects comparisons; the worst one decides. */
export class Comparison {
  readonly name: string;
  #worst: Outcome['worst'];
  #worstRatio = -1;
  #compared = 0;

  constructor(name: string) {
    this.name = name;
  }

  /** Compares element by element; a wrong length or a NaN is an infinite error. */
  tensor(what: string, actual: Numbers | undefined, expected: Numbers, tolerance: number): void {
    const errors = errorsOf(actual, expected);
    this.#compared += expected.length;
    this.#note(
      what,
      errors.reduce((most, error) => Math.max(most, error), 0),
      tolerance,
    );
  }

  /** The same with the tolerance of the rule. */
  close(
    what: string,
    actual: ArrayLike<number> | undefined,
    expected: ArrayLike<number>,
    distance?: number,
  ): void {
    this.tensor(what, actual, expected, toleranceFor(distance, expected));
  }

  /** A parameter trained with Adam: all but a few elements with the tolerance of the rule. */
  trained(
    what: string,
    actual: ArrayLike<number> | undefined,
    expected: ArrayLike<number>,
    distance?: number,
  ): void {
    const errors = errorsOf(actual, expected).sort();
    const tolerance = toleranceFor(distance, expected);
    const few = Math.max(1, Math.floor(FEW * errors.length));
    this.#compared += expected.length;
    this.#note(what, errors.at(-1) ?? 0, FACTOR * tolerance);
    this.#note(`${what}, all but ${few}`, errors.at(-1 - few) ?? 0, tolerance);
  }

  scalar(what: string, actual: number | undefined, expected: number, tolerance: number): void {
    this.tensor(what, actual === undefined ? undefined : [actual], [expected], tolerance);
  }

  outcome(): Outcome {
    const { name } = this;
    if (!this.#worst) return { name, status: 'fail', compared: 0, reason: 'nothing to compare was found' };
    const status = this.#worst.error <= this.#worst.tolerance ? 'pass' : 'fail';
    return { name, status, worst: this.#worst, compared: this.#compared };
  }

  #note(what: string, error: number, tolerance: number): void {
    const ratio = error === 0 ? 0 : error / tolerance;
    if (ratio > this.#worstRatio) {
      this.#worstRatio = ratio;
      this.#worst = { what, error, tolerance };
    }
  }
}

/** Absolute differences, element by element; infinite for a NaN and, all of them, for a wrong length. */
function errorsOf(actual: Numbers | undefined, expected: Numbers): Float64Array {
  const errors = new Float64Array(expected.length || 1).fill(Number.POSITIVE_INFINITY);
  if (actual?.length !== expected.length) return errors;
  if (expected.length === 0) return errors.fill(0);
  for (let index = 0; index < expected.length; index++) {
    const difference = Math.abs(Number(actual[index]) - Number(expected[index]));
    if (!Number.isNaN(difference)) errors[index] = difference;
  }
  return errors;
}

export function skipped(name: string, reason: string): GoldenCase {
  return { name, run: async () => ({ name, status: 'skipped', compared: 0, reason }) };
}

/** A case that is listed beside the others, but not stored. */
export function missing(name: string): GoldenCase {
  return {
    name,
    run: async () => ({ name, status: 'fail', compared: 0, reason: 'its file is not there' }),
  };
}

/** Cases for the names that are listed without a file. */
export function missingOf(
  listed: Readonly<Record<string, unknown>>,
  there: readonly string[],
  prefix: string,
): GoldenCase[] {
  return Object.keys(listed)
    .filter((name) => !there.includes(name))
    .map((name) => missing(`${prefix}${name}`));
}

/** The numbers of a float tensor. */
export function floats(tensor: TensorData | undefined): Float32Array {
  return tensor?.data instanceof Float32Array ? tensor.data : new Float32Array(0);
}
