/** What a network may say about a noisy clip `x = sqrt(a) x0 + sqrt(1 - a) n`, and the noise n that follows from it. */

import type { NoiseSchedule } from './samplers/schedule.js';

/** Every kind of {@link Prediction}. */
export const PREDICTIONS = ['epsilon', 'velocity', 'sample'] as const;
/**
 * What a network predicts:
 * - `epsilon` the noise n (published)
 * - `velocity` sqrt(a) n - sqrt(1 - a) x0 (arXiv 2202.00512, appendix D)
 * - `sample` the clip x0
 */
export type Prediction = (typeof PREDICTIONS)[number];

/** The noise in `noisy`, as samplers take it. */
export function noiseOf(
  prediction: Prediction,
  schedule: NoiseSchedule,
  noisy: Float32Array,
  predicted: Float32Array,
  timestep: number,
): Float32Array {
  if (prediction === 'epsilon') return predicted;
  const alpha = schedule.alphaAt(timestep);
  const [keep, spread] = [Math.sqrt(alpha), Math.sqrt(1 - alpha)];
  const at = (i: number) => predicted[i] as number;
  return prediction === 'velocity'
    ? noisy.map((value, i) => spread * value + keep * at(i))
    : noisy.map((value, i) => (value - keep * at(i)) / spread);
}

/** The clip x0 = (x - sqrt(1 - a) n) / sqrt(a) that a noise stands for. */
export function originalOf(
  schedule: NoiseSchedule,
  noisy: Float32Array,
  noise: Float32Array,
  timestep: number,
): Float32Array {
  const alpha = schedule.alphaAt(timestep);
  const [keep, spread] = [Math.sqrt(alpha), Math.sqrt(1 - alpha)];
  return noisy.map((value, i) => (value - spread * (noise[i] as number)) / keep);
}
