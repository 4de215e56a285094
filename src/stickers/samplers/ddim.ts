/** DDIM, the sampler of the published code. */

import { invalid, requireInteger, requireKnown, requireNumber } from '../../arguments.js';
import { DuetError } from '../../errors.js';
import { type Sampler, type Spacing, timestepsOf } from './sampler.js';
import { type NoiseSchedule, requireSameLength, sqrt } from './schedule.js';

const f = Math.fround;

/** Options of `Ddim`. */
export interface DdimOptions {
  /** Network evaluations. Default 50 (published). */
  steps?: number;
  /** Share of fresh noise, 0..1. Default 0. */
  eta?: number;
  /** Default leading (published). */
  spacing?: Spacing;
}

/**
 * DDIM (arXiv 2010.02502), the sampler of the published code: eta 0 is deterministic, eta 1 is DDPM's ancestral
 * noise.
 *
 *   x0 = (x - sqrt(1-a) e) / sqrt(a)
 *   s = eta * sqrt((1-a') / (1-a) * (1 - a/a'))
 *   x' = sqrt(a') x0 + sqrt(1 - a' - s^2) e + s * noise
 *
 * with a at this timestep and a' one stride below it (at timestep 0 when that is negative). Each operation is rounded
 * to float32.
 */
export class Ddim implements Sampler {
  readonly timesteps: Int32Array;
  readonly needsNoise: boolean;
  readonly #schedule: NoiseSchedule;
  readonly #eta: number;
  readonly #stride: number;
  readonly #spacing: Spacing;

  /** @throws DuetError INVALID_ARGUMENT */
  constructor(schedule: NoiseSchedule, options: DdimOptions = {}) {
    const {
      steps = 50,
      eta = 0,
      spacing = 'leading',
    } = requireKnown(options, 'options', { steps: true, eta: true, spacing: true } satisfies Record<
      keyof DdimOptions,
      true
    >);
    if (!(requireNumber(eta, 'eta') >= 0 && eta <= 1)) throw invalid('number from 0 to 1', 'eta', eta);
    this.timesteps = timestepsOf(schedule, steps, spacing);
    this.needsNoise = eta > 0;
    this.#schedule = schedule;
    this.#eta = eta;
    this.#stride = Math.floor(schedule.steps / steps);
    this.#spacing = spacing;
  }

  step(sample: Float32Array, output: Float32Array, index: number, noise?: Float32Array): Float32Array {
    requireSameLength(sample, output);
    const { now, next, deviation } = this.coefficients(index);
    const original = this.original(sample, output, index);
    const keep = sqrt(next);
    const direction = sqrt(f(f(1 - next) - f(deviation * deviation)));
    const out = new Float32Array(sample.length);
    for (let i = 0; i < out.length; i++) {
      out[i] = f(keep * (original[i] as number)) + f(direction * (output[i] as number));
    }
    if (deviation === 0) return out;
    if (noise?.length !== out.length) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected ${out.length} normal numbers for a step with noise from share ${now} to ${next} but received ${noise?.length ?? 'nothing'}`,
      );
    }
    for (let i = 0; i < out.length; i++) out[i] = (out[i] as number) + f(deviation * (noise[i] as number));
    return out;
  }

  /** The clip that the prediction stands for, x0. */
  original(sample: Float32Array, output: Float32Array, index: number): Float32Array {
    const { now } = this.coefficients(index);
    const noisy = sqrt(f(1 - now));
    const scale = sqrt(now);
    return sample.map((value, i) => f(value - f(noisy * (output[i] as number))) / scale);
  }

  /** Shares of the picture at this and the next timestep, and the standard deviation of fresh noise. */
  coefficients(index: number): { now: number; next: number; variance: number; deviation: number } {
    const timestep = this.timesteps[requireInteger(index, 'index', 0, this.timesteps.length - 1)] as number;
    const following =
      this.#spacing === 'leading' ? timestep - this.#stride : (this.timesteps[index + 1] ?? -1);
    const now = this.#schedule.alphaAt(timestep);
    const next = this.#schedule.alphaAt(following);
    const variance = f(f(f(1 - next) / f(1 - now)) * f(1 - f(now / next)));
    return { now, next, variance, deviation: f(this.#eta * sqrt(variance)) };
  }
}
