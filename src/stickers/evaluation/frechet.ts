/** Frechet distance between two sets of features. */

import { requireInstance, requireList, requireObject } from '../../arguments.js';
import { DuetError } from '../../errors.js';
import { eigenSymmetric } from './eigen.js';

/** Mean and covariance of features. */
export interface FeatureStatistics {
  /** [D] */
  mean: Float64Array;
  /** [D, D], divided by count - 1 */
  covariance: Float64Array;
  /** Vectors they were made from. */
  count: number;
}

/**
 * Mean and covariance of features.
 * @param features one vector of D numbers a clip, at least two of them
 * @throws DuetError INVALID_ARGUMENT for fewer than two or different lengths, NOT_FINITE
 */
export function featureStatistics(features: readonly ArrayLike<number>[]): FeatureStatistics {
  const count = requireList(features, 'features').length;
  const size = features[0]?.length ?? 0;
  if (count < 2 || size === 0 || features.some((feature) => feature?.length !== size)) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected at least 2 feature vectors of one length but received ${count} of ${size}`,
    );
  }
  const mean = new Float64Array(size);
  for (const feature of features) {
    for (let i = 0; i < size; i++) mean[i]! += (feature[i] as number) / count;
  }
  if (!mean.every(Number.isFinite)) {
    throw new DuetError('NOT_FINITE', 'Expected finite features but received NaN or infinity');
  }
  const covariance = new Float64Array(size * size);
  const centred = new Float64Array(size);
  for (const feature of features) {
    for (let i = 0; i < size; i++) centred[i] = (feature[i] as number) - (mean[i] as number);
    for (let i = 0; i < size; i++) {
      const value = (centred[i] as number) / (count - 1);
      for (let j = 0; j < size; j++) covariance[i * size + j]! += value * (centred[j] as number);
    }
  }
  return { mean, covariance, count };
}

/**
 * Frechet distance between two sets of features (FID, arXiv 1706.08500; with features of a video network: FVD, arXiv
 * 1812.01717). Both are taken for normal distributions, and
 *
 *   d = |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)).
 *
 * The last term is the sum of the square roots of the eigenvalues of C1^(1/2) C2 C1^(1/2), which is symmetric.
 * @throws DuetError INVALID_ARGUMENT for statistics of different features, NOT_FINITE naming the one with NaN
 */
export function frechetDistance(a: FeatureStatistics, b: FeatureStatistics): number {
  for (const [which, statistics] of Object.entries({ first: a, second: b })) {
    const { mean, covariance } = requireObject(statistics, `the ${which} statistics`);
    for (const [part, values] of Object.entries({ mean, covariance })) {
      const name = `${part} of the ${which} statistics`;
      const bad = requireInstance(values, Float64Array, name).findIndex((value) => !Number.isFinite(value));
      if (bad >= 0)
        throw new DuetError(
          'NOT_FINITE',
          `Expected finite numbers in the ${name} but received ${values[bad]} at ${bad}`,
        );
    }
  }
  const size = a.mean.length;
  if (b.mean.length !== size) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected features of one length but received ${size} and ${b.mean.length}`,
    );
  }
  let distance = 0;
  for (let i = 0; i < size; i++) {
    distance += ((a.mean[i] as number) - (b.mean[i] as number)) ** 2;
    distance += (a.covariance[i * size + i] as number) + (b.covariance[i * size + i] as number);
  }
  const root = squareRoot(a.covariance, size);
  const between = multiply(multiply(root, b.covariance, size), root, size);
  const { values } = eigenSymmetric(between, size, false);
  // Rounding can make eigenvalues of 0 slightly negative.
  const shared = values.reduce((sum, value) => sum + Math.sqrt(Math.max(value, 0)), 0);
  return Math.max(distance - 2 * shared, 0);
}

/** Of a symmetric matrix without negative eigenvalues. */
function squareRoot(matrix: Float64Array, size: number): Float64Array {
  const { values, vectors } = eigenSymmetric(matrix, size, true);
  const scaled = vectors.slice();
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++)
      scaled[row * size + column]! *= Math.sqrt(Math.max(values[column] as number, 0));
  }
  return multiply(scaled, transposed(vectors, size), size);
}

function transposed(matrix: Float64Array, size: number): Float64Array {
  return Float64Array.from(matrix, (_, i) => matrix[(i % size) * size + Math.floor(i / size)] as number);
}

function multiply(a: Float64Array, b: Float64Array, size: number): Float64Array {
  const out = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    const target = out.subarray(i * size, (i + 1) * size);
    for (let k = 0; k < size; k++) {
      const factor = a[i * size + k] as number;
      if (factor === 0) continue;
      const row = b.subarray(k * size, (k + 1) * size);
      for (let j = 0; j < size; j++) target[j]! += factor * (row[j] as number);
    }
  }
  return out;
}
