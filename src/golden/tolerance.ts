/**
 * How far a number may be from its reference. One rule for all cases:
 *
 * - Where a case stores the distance of its float32 numbers from the same computation in float64
 *   (`max_abs_diff_to_float64` and the like), ten times that distance.
 * - Where it stores none, 1e-5 of the largest reference value of the tensor.
 * - Pictures 1e-6, and exactly 0 for everything that is an integer (ids, masks, patch positions, sizes).
 *
 * A scalar is measured relative to its own value; its tolerance is ten times the largest such relative distance of
 * the case, for a single one may be small by luck.
 *
 * Where numbers come with a tolerance of their own, that one, or ten times the stored distance if this is larger.
 *
 * Few numbers may all be near float64 by luck, so a distance counts as half the last bit of the largest float32 value at least.
 * Adam magnifies rounding where a gradient is nearly zero: one in a thousand elements of a trained parameter (and one at
 * least) may be ten times farther than the others.
 */

export const FACTOR = 10;
export const HALF_BIT = 2 ** -24;
export const FEW = 1e-3;
export const RELATIVE = 1e-5;
export const PICTURES = 1e-6;
export const EXACT = 0;

/** @param distance to float64, as stored; undefined where it is not */
export function toleranceFor(distance: number | undefined, reference: ArrayLike<number>): number {
  let largest = 0;
  for (let index = 0; index < reference.length; index++) {
    largest = Math.max(largest, Math.abs(reference[index] as number));
  }
  return distance === undefined ? RELATIVE * largest : FACTOR * Math.max(distance, HALF_BIT * largest);
}

/** A tolerance the numbers come with, and never below ten times their distance to float64 (0 where none is stored). */
export function atLeast(suggested: number, distance = 0): number {
  return Math.max(suggested, FACTOR * distance);
}

/** Relative tolerance of scalars that are stored with their float64 values. */
export function relativeTolerance(scalars: Iterable<{ value: number; float64: number }>): number {
  let largest = HALF_BIT;
  for (const { value, float64 } of scalars) {
    if (float64 !== 0) largest = Math.max(largest, Math.abs(value - float64) / Math.abs(float64));
  }
  return FACTOR * largest;
}
