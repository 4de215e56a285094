/** The noise schedule. */

import { invalid, requireInstance, requireInteger, requireKnown, requireNumber } from '../../arguments.js';
import { DuetError } from '../../errors.js';

/** Defaults are the published values. */
export interface NoiseScheduleOptions {
  /** Training timesteps. Default 1000. */
  steps?: number;
  /** Default 0.00085. */
  betaStart?: number;
  /** Default 0.012. */
  betaEnd?: number;
}

/**
 * The noise schedule: how much of the picture is left after t of T steps of adding noise (DDPM, arXiv 2006.11239).
 *
 * The published schedule is "scaled linear": square roots of beta from sqrt(0.00085) to sqrt(0.012) at equal
 * distances, 1000 steps. All numbers are float32, rounded where the published code rounds them. Timesteps are
 * 0..steps-1.
 */
export class NoiseSchedule {
  /** Training timesteps. */
  readonly steps: number;
  /** [steps] */
  readonly betas: Float32Array;
  /** [steps], the running product of 1 - beta: the share of the picture's variance that is left at t. */
  readonly alphasCumprod: Float32Array;

  /** @throws DuetError INVALID_ARGUMENT */
  constructor(options: NoiseScheduleOptions = {}) {
    const {
      steps = 1000,
      betaStart = 0.00085,
      betaEnd = 0.012,
    } = requireKnown(options, 'options', { steps: true, betaStart: true, betaEnd: true } satisfies Record<
      keyof NoiseScheduleOptions,
      true
    >);
    requireInteger(steps, 'steps', 2, 1_000_000);
    requireNumber(betaStart, 'betaStart');
    requireNumber(betaEnd, 'betaEnd');
    if (!(betaStart > 0 && betaStart <= betaEnd && betaEnd < 1)) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected 0 < betaStart <= betaEnd < 1 but received ${betaStart} and ${betaEnd}`,
      );
    }
    this.steps = steps;
    this.betas = linspace(betaStart ** 0.5, betaEnd ** 0.5, steps).map((root) => root * root);
    this.alphasCumprod = new Float32Array(steps);
    // As the published library: the product itself in double, each stored value in float32.
    let product = 1;
    for (let t = 0; t < steps; t++) {
      product *= Math.fround(1 - (this.betas[t] as number));
      this.alphasCumprod[t] = product;
    }
  }

  /** The share left at timestep t; before the first timestep that of the first one (`set_alpha_to_one` false). */
  alphaAt(timestep: number): number {
    return this.alphasCumprod[Math.max(requireNumber(timestep, 'timestep'), 0)] as number;
  }

  /** ln(sqrt(a) / sqrt(1 - a)), half the logarithm of the signal-to-noise ratio. */
  logSnrAt(timestep: number): number {
    const alpha = this.alphaAt(timestep);
    return 0.5 * Math.log(alpha / (1 - alpha));
  }

  /**
   * `sqrt(a) x + sqrt(1 - a) noise` for each item of a batch.
   * @param sample [batch, ...]
   * @param noise like sample
   * @param timesteps [batch]
   */
  addNoise(sample: Float32Array, noise: Float32Array, timesteps: ArrayLike<number>): Float32Array {
    return this.#mix(sample, noise, timesteps, 1);
  }

  /** The target of velocity prediction, `sqrt(a) noise - sqrt(1 - a) x`. Arguments as for `addNoise`. */
  velocity(sample: Float32Array, noise: Float32Array, timesteps: ArrayLike<number>): Float32Array {
    return this.#mix(noise, sample, timesteps, -1);
  }

  #mix(first: Float32Array, second: Float32Array, timesteps: ArrayLike<number>, sign: 1 | -1): Float32Array {
    requireSameLength(first, second);
    if (typeof timesteps?.length !== 'number') throw invalid('list', 'timesteps', timesteps);
    for (const timestep of Array.from(timesteps)) requireInteger(timestep, 'a timestep', 0, this.steps - 1);
    const out = new Float32Array(first.length);
    const item = first.length / timesteps.length;
    for (let b = 0; b < timesteps.length; b++) {
      const alpha = this.alphaAt(timesteps[b] as number);
      const keep = sqrt(alpha);
      const add = sign * sqrt(1 - alpha);
      for (let i = b * item; i < (b + 1) * item; i++) {
        out[i] = Math.fround(keep * (first[i] as number)) + Math.fround(add * (second[i] as number));
      }
    }
    return out;
  }
}

/** Square root in float32. */
export function sqrt(value: number): number {
  return Math.fround(Math.sqrt(Math.fround(value)));
}

export function requireSameLength(a: Float32Array, b: Float32Array): void {
  requireInstance(a, Float32Array, 'the first array');
  requireInstance(b, Float32Array, 'the second array');
  if (a.length === b.length) return;
  throw new DuetError(
    'INVALID_ARGUMENT',
    `Expected arrays of one length but received ${a.length} and ${b.length}`,
  );
}

/** `count` float32 values at equal distances, built from both ends as the published library does. */
function linspace(start: number, end: number, count: number): Float32Array {
  const step = Math.fround((Math.fround(end) - Math.fround(start)) / (count - 1));
  return Float32Array.from({ length: count }, (_, i) =>
    i < count / 2
      ? Math.fround(start) + Math.fround(step * i)
      : Math.fround(end) - Math.fround(step * (count - i - 1)),
  );
}
