// Plain double-precision layers, written from their formulas. Sizes follow from the lengths: a weight is outputs x inputs.

import type { Numbers } from './numbers.js';

export type Activation = 'none' | 'gelu' | 'relu' | 'tanh' | 'silu' | 'quick_gelu' | 'gelu_tanh';

/** The error function: its Taylor series near 0, the continued fraction of erfc (Lentz) beyond; to about 1e-15. */
export function erf(x: number): number {
  const a = Math.abs(x);
  if (a < 2.5) {
    let term = x;
    let sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) {
      term *= (-x * x) / n;
      sum += term / (2 * n + 1);
    }
    return (2 / Math.sqrt(Math.PI)) * sum;
  }
  if (a > 6) return Math.sign(x);
  let fraction = a;
  for (let n = 120; n > 0; n--) fraction = a + n / 2 / fraction;
  return Math.sign(x) * (1 - Math.exp(-a * a) / (Math.sqrt(Math.PI) * fraction));
}

export const activations: Record<Activation, (x: number) => number> = {
  none: (x) => x,
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  relu: (x) => (x > 0 || Number.isNaN(x) ? x : 0),
  tanh: Math.tanh,
  silu: (x) => x / (1 + Math.exp(-x)),
  quick_gelu: (x) => x / (1 + Math.exp(-1.702 * x)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

/** The derivatives of the same. */
export const slopes: Record<Activation, (x: number) => number> = {
  none: () => 1,
  gelu: (x) => 0.5 * (1 + erf(x / Math.SQRT2)) + (x * Math.exp(-0.5 * x * x)) / Math.sqrt(2 * Math.PI),
  relu: (x) => (x > 0 ? 1 : 0),
  tanh: (x) => 1 - Math.tanh(x) ** 2,
  silu: (x) => (1 + Math.exp(-x) + x * Math.exp(-x)) / (1 + Math.exp(-x)) ** 2,
  quick_gelu: (x) => {
    const s = 1 / (1 + Math.exp(-1.702 * x));
    return s * (1 + 1.702 * x * (1 - s));
  },
  gelu_tanh: (x) => {
    const t = Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * x * x);
  },
};

export function activate(x: Numbers, kind: Activation): Float64Array {
  return Float64Array.from(x, activations[kind]);
}

export function plus(a: Numbers, b: Numbers): Float64Array {
  return Float64Array.from(a, (value, i) => value + b[i]!);
}

/** x W^T + b */
export function linear(x: Numbers, weight: Numbers, inputs: number, bias?: Numbers): Float64Array {
  const outputs = weight.length / inputs;
  const rows = x.length / inputs;
  const y = new Float64Array(rows * outputs);
  for (let row = 0; row < rows; row++) {
    for (let j = 0; j < outputs; j++) {
      let sum = bias ? bias[j]! : 0;
      for (let i = 0; i < inputs; i++) sum += x[row * inputs + i]! * weight[j * inputs + i]!;
      y[row * outputs + j] = sum;
    }
  }
  return y;
}

/** (x - mean) / sqrt(variance + epsilon) * gamma + beta, with the biased variance of each row. */
export function layerNorm(x: Numbers, gamma: Numbers, beta: Numbers, epsilon: number): Float64Array {
  const columns = gamma.length;
  const y = new Float64Array(x.length);
  for (let begin = 0; begin < x.length; begin += columns) {
    let mean = 0;
    let variance = 0;
    for (let i = 0; i < columns; i++) mean += x[begin + i]! / columns;
    for (let i = 0; i < columns; i++) variance += (x[begin + i]! - mean) ** 2 / columns;
    for (let i = 0; i < columns; i++) {
      y[begin + i] = ((x[begin + i]! - mean) / Math.sqrt(variance + epsilon)) * gamma[i]! + beta[i]!;
    }
  }
  return y;
}

export interface AdapterWeights {
  down: Numbers;
  downBias: Numbers;
  up: Numbers;
  upBias: Numbers;
}

/** base + U relu(D x + d) + u */
export function adapter(x: Numbers, base: Numbers, a: AdapterWeights): Float64Array {
  const rank = a.downBias.length;
  const hidden = activate(linear(x, a.down, a.upBias.length, a.downBias), 'relu');
  return plus(base, linear(hidden, a.up, rank, a.upBias));
}

/** The mean of several adapters on the same input. */
export function meanOfAdapters(x: Numbers, base: Numbers, adapters: AdapterWeights[]): Float64Array {
  const outputs = adapters.map((weights) => adapter(x, base, weights));
  return outputs[0]!.map((_, i) => outputs.reduce((sum, y) => sum + y[i]!, 0) / outputs.length);
}

export interface EmbeddingTerm {
  table: Numbers;
  /** One a row; below 0 adds nothing. */
  index: Numbers;
  weight?: Numbers;
}

/** y[r] = sum of weight[r] * table[index[r]] */
export function embedding(terms: EmbeddingTerm[], width: number): Float64Array {
  const rows = terms[0]!.index.length;
  const y = new Float64Array(rows * width);
  for (const { table, index, weight } of terms) {
    for (let row = 0; row < rows; row++) {
      if (index[row]! < 0) continue;
      const factor = weight ? weight[row]! : 1;
      for (let i = 0; i < width; i++) y[row * width + i]! += factor * table[index[row]! * width + i]!;
    }
  }
  return y;
}
