/**
 * Eigenvalues of a symmetric matrix: Householder reduction to three diagonals, then QL with implicit shifts (Golub and
 * Van Loan, Matrix Computations, sections 8.3.1 and 8.3.3; the classic procedures tred2 and tql2 of EISPACK). Takes a
 * few n^3 operations, so a thousand rows take seconds.
 */

import { DuetError } from '../../errors.js';

export interface Eigen {
  /** In no particular order. */
  values: Float64Array;
  /** [size, size]; column j belongs to value j. Empty when not asked for. */
  vectors: Float64Array;
}

/** @param matrix [size, size], symmetric; not changed */
export function eigenSymmetric(matrix: Float64Array, size: number, withVectors: boolean): Eigen {
  const a = matrix.slice();
  const diagonal = new Float64Array(size);
  const beside = new Float64Array(size);
  const vectors = tridiagonal(a, size, diagonal, beside, withVectors);
  implicitQl(diagonal, beside, vectors, size);
  return { values: diagonal, vectors };
}

/**
 * Householder reflections from the first column on. Afterwards `diagonal` and `beside` (beside[i] couples i and i+1) hold
 * the matrix in three diagonals; the result is the product of the reflections, or empty.
 */
function tridiagonal(
  a: Float64Array,
  size: number,
  diagonal: Float64Array,
  beside: Float64Array,
  withVectors: boolean,
): Float64Array {
  const q = new Float64Array(withVectors ? size * size : 0);
  if (withVectors) for (let i = 0; i < size; i++) q[i * size + i] = 1;
  const v = new Float64Array(size);
  const p = new Float64Array(size);
  for (let k = 0; k < size - 1; k++) {
    diagonal[k] = a[k * size + k] as number;
    let norm = 0;
    for (let i = k + 1; i < size; i++) norm = Math.hypot(norm, a[i * size + k] as number);
    const first = a[(k + 1) * size + k] as number;
    const alpha = first > 0 ? -norm : norm;
    beside[k] = alpha;
    if (norm === 0) continue;
    // v reflects column k onto (alpha, 0, ..., 0); beta = 2 / v.v
    v.fill(0);
    for (let i = k + 1; i < size; i++) v[i] = a[i * size + k] as number;
    v[k + 1] = first - alpha;
    const beta = 1 / (norm * (norm + Math.abs(first)));
    // A := H A H on the rest, as A - v w' - w v' with w = p - (beta / 2) (p.v) v, p = beta A v
    let dot = 0;
    for (let i = k + 1; i < size; i++) {
      let sum = 0;
      for (let j = k + 1; j < size; j++) sum += (a[i * size + j] as number) * (v[j] as number);
      p[i] = beta * sum;
      dot += (p[i] as number) * (v[i] as number);
    }
    for (let i = k + 1; i < size; i++) p[i]! -= 0.5 * beta * dot * (v[i] as number);
    for (let i = k + 1; i < size; i++) {
      const [vi, pi] = [v[i] as number, p[i] as number];
      for (let j = k + 1; j < size; j++) a[i * size + j]! -= vi * (p[j] as number) + pi * (v[j] as number);
    }
    if (withVectors) {
      for (let i = 0; i < size; i++) {
        let sum = 0;
        for (let j = k + 1; j < size; j++) sum += (q[i * size + j] as number) * (v[j] as number);
        for (let j = k + 1; j < size; j++) q[i * size + j]! -= beta * sum * (v[j] as number);
      }
    }
  }
  if (size > 0) diagonal[size - 1] = a[size * size - 1] as number;
  return q;
}

const MOST_ITERATIONS = 60;

function implicitQl(diagonal: Float64Array, beside: Float64Array, vectors: Float64Array, size: number): void {
  // What is negligible is measured by the whole matrix: where it has many eigenvalues of 0, all that is left of its neighbours is rounding.
  let largest = 0;
  for (let i = 0; i < size; i++)
    largest = Math.max(largest, Math.abs(diagonal[i] as number) + Math.abs(beside[i] as number));
  const none = () =>
    new DuetError('NOT_FINITE', 'Expected eigenvalues of a finite symmetric matrix but found none');
  if (!Number.isFinite(largest)) throw none();
  for (let l = 0; l < size; l++) {
    for (let iteration = 0; ; iteration++) {
      let m = l;
      while (m < size - 1 && Math.abs(beside[m] as number) > Number.EPSILON * largest) m++;
      if (m === l) break;
      if (iteration === MOST_ITERATIONS) throw none();
      rotate(diagonal, beside, vectors, size, l, m);
    }
  }
}

/** One QL sweep with Wilkinson's shift on rows l..m. */
function rotate(
  diagonal: Float64Array,
  beside: Float64Array,
  vectors: Float64Array,
  size: number,
  l: number,
  m: number,
): void {
  let g = ((diagonal[l + 1] as number) - (diagonal[l] as number)) / (2 * (beside[l] as number));
  const r0 = Math.hypot(g, 1);
  g = (diagonal[m] as number) - (diagonal[l] as number) + (beside[l] as number) / (g + (g >= 0 ? r0 : -r0));
  let [sine, cosine, shift] = [1, 1, 0];
  for (let i = m - 1; i >= l; i--) {
    const f = sine * (beside[i] as number);
    const b = cosine * (beside[i] as number);
    const r = Math.hypot(f, g);
    beside[i + 1] = r;
    if (r === 0) {
      diagonal[i + 1]! -= shift;
      beside[m] = 0;
      return;
    }
    sine = f / r;
    cosine = g / r;
    g = (diagonal[i + 1] as number) - shift;
    const t = ((diagonal[i] as number) - g) * sine + 2 * cosine * b;
    shift = sine * t;
    diagonal[i + 1] = g + shift;
    g = cosine * t - b;
    for (let row = 0; row < vectors.length; row += size) {
      const [left, right] = [vectors[row + i] as number, vectors[row + i + 1] as number];
      vectors[row + i + 1] = sine * left + cosine * right;
      vectors[row + i] = cosine * left - sine * right;
    }
  }
  diagonal[l]! -= shift;
  beside[l] = g;
  beside[m] = 0;
}
