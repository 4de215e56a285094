// The losses with their gradients, in double precision and from the definitions.

import { type Numbers, sizeOf } from './numbers.js';

export interface Loss {
  loss: number;
  gradient: Float64Array;
}

/** log softmax of one line. */
export function logSoftmax(line: readonly number[]): number[] {
  const top = Math.max(...line);
  const sum = line.reduce((total, x) => total + Math.exp(x - top), 0);
  return line.map((x) => x - top - Math.log(sum));
}

/** log sigmoid(x) without overflow. */
function logSigmoid(x: number): number {
  return x >= 0 ? -Math.log1p(Math.exp(-x)) : x - Math.log1p(Math.exp(x));
}

/** Mean over all elements of -[y log s(x) + (1 - y) log s(-x)], times the number of classes. */
export function binary(logits: Numbers, targets: Numbers, rows: number): Loss {
  const gradient = new Float64Array(logits.length);
  let loss = 0;
  for (let i = 0; i < logits.length; i++) {
    const x = logits[i]!;
    const y = targets[i]!;
    loss -= (y * logSigmoid(x) + (1 - y) * logSigmoid(-x)) / rows;
    gradient[i] = (1 / (1 + Math.exp(-x)) - y) / rows;
  }
  return { loss, gradient };
}

/**
 * T^2 / N sum q (log q - log p) along `axis`, p = softmax(logits / T), q = softmax(target / T), N the first dimension;
 * gradient T / N (p - q), none to the target.
 */
export function distillation(
  logits: Numbers,
  target: Numbers,
  shape: number[],
  axis: number,
  temperature: number,
): Loss {
  const gradient = new Float64Array(logits.length);
  const classes = shape[axis]!;
  const inner = sizeOf(shape.slice(axis + 1));
  const outer = sizeOf(shape.slice(0, axis));
  let loss = 0;
  for (let line = 0; line < outer * inner; line++) {
    const begin = Math.floor(line / inner) * classes * inner + (line % inner);
    const places = Array.from({ length: classes }, (_, i) => begin + i * inner);
    const logP = logSoftmax(places.map((i) => logits[i]! / temperature));
    const logQ = logSoftmax(places.map((i) => target[i]! / temperature));
    places.forEach((place, i) => {
      const q = Math.exp(logQ[i]!);
      if (q !== 0) loss += (temperature ** 2 / shape[0]!) * q * (logQ[i]! - logP[i]!);
      gradient[place] = (temperature / shape[0]!) * (Math.exp(logP[i]!) - q);
    });
  }
  return { loss, gradient };
}

/** Mean of -log softmax(x)[label] over the rows whose label is not negative. */
export function crossEntropy(logits: Numbers, labels: readonly number[]): Loss {
  const gradient = new Float64Array(logits.length);
  const classes = logits.length / labels.length;
  const counted = labels.filter((label) => label >= 0).length;
  let loss = 0;
  labels.forEach((label, row) => {
    if (label < 0) return;
    const line = logSoftmax(Array.from({ length: classes }, (_, i) => logits[row * classes + i]!));
    loss -= line[label]! / counted;
    line.forEach((value, i) => {
      gradient[row * classes + i] = (Math.exp(value) - (i === label ? 1 : 0)) / counted;
    });
  });
  return { loss, gradient };
}

/** (BCE * C + T^2 KL) / 2, what FedDAT minimises for either adapter (arXiv 2308.12305, equations 4 to 6). */
export function mutual(
  logits: Numbers,
  targets: Numbers,
  teacher: Numbers,
  rows: number,
  temperature: number,
) {
  const bce = binary(logits, targets, rows).loss;
  const kl = distillation(logits, teacher, [rows, logits.length / rows], 1, temperature).loss;
  return { bce, kl, loss: (bce + kl) / 2 };
}
