// softmax(scale Q K^T + bias) V per sequence and head (Vaswani et al. 2017, equation 1), in double precision.

import type { Numbers } from './numbers.js';

export interface AttentionProblem {
  /** query rows x width */
  q: Numbers;
  /** key rows x width */
  k: Numbers;
  v: Numbers;
  width: number;
  heads: number;
  /** [queryBegin, queryEnd, keyBegin, keyEnd] of every sequence */
  spans: number[][];
  /** One a key row, 0 hides it. */
  keyMask?: Numbers;
  /** Query i of a sequence sees its keys 0 .. i. */
  causal?: boolean;
  /** Of the scores; default 1 / sqrt(columns of a head). */
  scale?: number;
  /** heads x length x length, added to the scaled scores. */
  bias?: Numbers;
  /** What a probability is multiplied with after the softmax (dropout): 0 or 1 / (1 - p). */
  keep?: (queryRow: number, head: number, key: number) => number;
}

/** Query rows x width; rows of no sequence are 0. */
export function attention(problem: AttentionProblem): Float64Array {
  const { q, k, v, width, heads, spans, keyMask, keep } = problem;
  const size = width / heads;
  const scale = problem.scale ?? 1 / Math.sqrt(size);
  const length = Math.sqrt((problem.bias?.length ?? 0) / heads);
  const y = new Float64Array(q.length);
  for (const [queryBegin, queryEnd, keyBegin, keyEnd] of spans as [number, number, number, number][]) {
    for (let head = 0; head < heads; head++) {
      for (let row = queryBegin; row < queryEnd; row++) {
        const scores: number[] = [];
        for (let key = keyBegin; key < keyEnd; key++) {
          let dot = 0;
          for (let i = head * size; i < (head + 1) * size; i++)
            dot += q[row * width + i]! * k[key * width + i]!;
          const place = (head * length + row - queryBegin) * length + key - keyBegin;
          const late = problem.causal && key - keyBegin > row - queryBegin;
          const hidden = late || (keyMask && keyMask[key] === 0);
          scores.push(hidden ? Number.NEGATIVE_INFINITY : dot * scale + (problem.bias?.[place] ?? 0));
        }
        const top = Math.max(...scores);
        const exponentials = scores.map((score) => Math.exp(score - top));
        const sum = exponentials.reduce((a, b) => a + b, 0);
        for (let j = 0; j < scores.length; j++) {
          const probability = (exponentials[j]! / sum) * (keep ? keep(row, head, j) : 1);
          for (let i = head * size; i < (head + 1) * size; i++) {
            y[row * width + i]! += probability * v[(keyBegin + j) * width + i]!;
          }
        }
      }
    }
  }
  return y;
}

/** Columns [from, to) of a row-major matrix. */
export function columnsOf(x: Numbers, columns: number, from: number, to: number): Float64Array {
  const rows = x.length / columns;
  const y = new Float64Array(rows * (to - from));
  for (let row = 0; row < rows; row++)
    for (let i = from; i < to; i++) y[row * (to - from) + i - from] = x[row * columns + i]!;
  return y;
}
