/** What a sampler is, which timesteps it visits, and the loop that goes from noise to a clip. */

import {
  invalid,
  requireFunction,
  requireInstance,
  requireInteger,
  requireNumber,
  requireObject,
} from '../../arguments.js';
import { DuetError, throwIfAborted } from '../../errors.js';
import { NoiseSchedule, requireSameLength } from './schedule.js';

/**
 * A way from noise to a clip in a number of steps. Its `step` takes the current sample and the noise that the network
 * sees in it and returns the sample of the next, less noisy timestep.
 */
export interface Sampler {
  /** The timesteps at which the network is asked, descending. */
  readonly timesteps: Int32Array;
  /** True when `step` needs fresh normal noise. */
  readonly needsNoise: boolean;
  /**
   * One step, from `timesteps[index]` to the next one.
   * @param sample the current sample
   * @param output the network's prediction of the noise in it, of the same length
   * @param index steps are taken in order, from 0
   * @param noise standard normal numbers like `sample`, where `needsNoise`
   * @returns a new array
   */
  step(sample: Float32Array, output: Float32Array, index: number, noise?: Float32Array): Float32Array;
}

/**
 * - `leading` as published: multiples of floor(T / count), plus 1. Starts below the last timestep when there are few.
 * - `trailing` from the very last timestep on, at equal distances (arXiv 2305.08891)
 * - `log-snr` from the very last timestep on, at equal distances of ln(signal / noise): finer where little noise is
 *   left, which suits DPM-Solver++ on small pictures (arXiv 2206.00927)
 */
export type Spacing = 'leading' | 'trailing' | 'log-snr';

/** `count` timesteps, descending. @throws DuetError INVALID_ARGUMENT for more steps than there are timesteps */
export function timestepsOf(schedule: NoiseSchedule, count: number, spacing: Spacing): Int32Array {
  const all = requireInstance(schedule, NoiseSchedule, 'schedule').steps;
  requireInteger(count, 'the number of sampling steps', 1, all);
  switch (spacing) {
    case 'leading': {
      const stride = Math.floor(all / count);
      // The published offset of 1; it must not lead beyond the last timestep (count = T).
      return Int32Array.from({ length: count }, (_, i) => Math.min((count - 1 - i) * stride + 1, all - 1));
    }
    case 'trailing':
      return Int32Array.from({ length: count }, (_, i) => Math.round(all - (i * all) / count) - 1);
    case 'log-snr':
      return equalLogSnr(schedule, count);
    default:
      throw invalid('leading, trailing or log-snr', 'spacing', spacing);
  }
}

function equalLogSnr(schedule: NoiseSchedule, count: number): Int32Array {
  const last = schedule.steps - 1;
  const [low, high] = [schedule.logSnrAt(last), schedule.logSnrAt(0)];
  const timesteps = new Int32Array(count);
  let timestep = last;
  for (let i = 0; i < count; i++) {
    const wanted = low + ((high - low) * i) / count;
    while (timestep > 0 && schedule.logSnrAt(timestep - 1) <= wanted) timestep--;
    // Each one lower than the one before, and room for those that follow.
    const highest = i === 0 ? last : (timesteps[i - 1] as number) - 1;
    timesteps[i] = Math.max(Math.min(timestep, highest), count - 1 - i);
  }
  return timesteps;
}

/**
 * Classifier-free guidance (arXiv 2207.12598): `negative + scale * (positive - negative)`, element by element in float32.
 * Scale 1 is the positive prediction alone.
 */
export function guide(negative: Float32Array, positive: Float32Array, scale: number): Float32Array {
  requireSameLength(negative, positive);
  requireNumber(scale, 'scale');
  const out = new Float32Array(positive.length);
  for (let i = 0; i < out.length; i++) {
    const base = negative[i] as number;
    out[i] = base + Math.fround(scale * Math.fround((positive[i] as number) - base));
  }
  return out;
}

/** Watching and stopping a sampling. */
export interface SampleOptions {
  /** Normal noise of a length, for samplers that need it. */
  noise?: (length: number, index: number) => Float32Array | Promise<Float32Array>;
  /** Called after every step with its result, e.g. for previews; may change it in place (known frames). */
  onStep?: (sample: Float32Array, index: number, timestep: number) => void | Promise<void>;
  /** Ends with CANCELLED between two steps. */
  signal?: AbortSignal;
}

/**
 * Goes through all steps of a sampler.
 * @param initial standard normal noise, for latents [B, C, F, H, W]; not changed
 * @param predict the network: the noise in `sample` at `timestep`, guidance included
 * @throws DuetError CANCELLED, INVALID_ARGUMENT when noise is needed and not given
 */
export async function sample(
  sampler: Sampler,
  initial: Float32Array,
  predict: (sample: Float32Array, timestep: number, index: number) => Promise<Float32Array>,
  options: SampleOptions = {},
): Promise<Float32Array> {
  const { noise, onStep, signal } = requireObject(options, 'options');
  requireFunction(requireObject(sampler, 'sampler').step, 'step of the sampler');
  requireInstance(sampler.timesteps, Int32Array, 'timesteps of the sampler');
  requireInstance(initial, Float32Array, 'initial');
  requireFunction(predict, 'predict');
  for (const [name, call] of Object.entries({ noise, onStep }))
    if (call !== undefined) requireFunction(call, name);
  if (sampler.needsNoise && !noise) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      'Expected a source of noise for a sampler with eta above 0 but received nothing',
    );
  }
  let current = initial;
  for (const [index, timestep] of sampler.timesteps.entries()) {
    throwIfAborted(signal, 'Sampling');
    const output = await predict(current, timestep, index);
    const fresh = sampler.needsNoise ? await noise?.(current.length, index) : undefined;
    current = sampler.step(current, output, index, fresh);
    await onStep?.(current, index, timestep);
  }
  throwIfAborted(signal, 'Sampling');
  return current;
}
