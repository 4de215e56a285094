/** DPM-Solver++ (2M). */

import { requireInteger, requireKnown } from '../../arguments.js';
import { DuetError } from '../../errors.js';
import { type Sampler, type Spacing, timestepsOf } from './sampler.js';
import { type NoiseSchedule, requireSameLength } from './schedule.js';

/** Options of `DpmSolver`. */
export interface DpmSolverOptions {
  /** Network evaluations. Default 20. */
  steps?: number;
  /** Default leading, as DDIM. */
  spacing?: Spacing;
}

/**
 * DPM-Solver++ (2M) of arXiv 2211.01095: a second-order multistep solver that needs few evaluations.
 *
 * With `alpha = sqrt(a)`, `sigma = sqrt(1 - a)`, `lambda = ln(alpha / sigma)` and the clip `x0` that each prediction
 * stands for, a step from s to t with h = lambda_t - lambda_s is
 *
 *   x_t = sigma_t / sigma_s * x_s - alpha_t * (e^-h - 1) * D
 *
 * where D is x0 at the first and the last step (order 1), and otherwise `x0 + (x0 - x0_before) / (2 r)` with `r =
 * h_before / h`. It ends at the first timestep, as DDIM does here. Steps must be taken in order from 0: the solver
 * remembers one prediction.
 */
export class DpmSolver implements Sampler {
  readonly timesteps: Int32Array;
  readonly needsNoise = false;
  readonly #schedule: NoiseSchedule;
  #before: { original: Float32Array; index: number } | undefined;

  /** @throws DuetError INVALID_ARGUMENT */
  constructor(schedule: NoiseSchedule, options: DpmSolverOptions = {}) {
    const { steps = 20, spacing = 'leading' } = requireKnown(options, 'options', {
      steps: true,
      spacing: true,
    } satisfies Record<keyof DpmSolverOptions, true>);
    this.timesteps = timestepsOf(schedule, steps, spacing);
    this.#schedule = schedule;
  }

  step(sample: Float32Array, output: Float32Array, index: number): Float32Array {
    requireSameLength(sample, output);
    const last = this.timesteps.length - 1;
    requireInteger(index, 'index', 0);
    if (index > last || (index > 0 && this.#before?.index !== index - 1)) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected the steps 0 to ${last} of DPM-Solver++ in order but received ${index} after ${this.#before?.index ?? 'none'}`,
      );
    }
    const here = this.#at(index);
    const there = this.#at(index + 1);
    const h = there.lambda - here.lambda;
    const original = sample.map((value, i) => (value - here.sigma * (output[i] as number)) / here.alpha);
    const earlier = index > 0 && index < last ? this.#before?.original : undefined;
    const extrapolation = earlier ? h / (2 * (here.lambda - this.#at(index - 1).lambda)) : 0;
    const keep = there.sigma / here.sigma;
    const add = -there.alpha * Math.expm1(-h);
    const out = new Float32Array(sample.length);
    for (let i = 0; i < out.length; i++) {
      const x0 = original[i] as number;
      const target = earlier ? x0 + extrapolation * (x0 - (earlier[i] as number)) : x0;
      out[i] = keep * (sample[i] as number) + add * target;
    }
    this.#before = { original, index };
    return out;
  }

  #at(index: number): { alpha: number; sigma: number; lambda: number } {
    const timestep = this.timesteps[index] ?? 0;
    const share = this.#schedule.alphaAt(timestep);
    return {
      alpha: Math.sqrt(share),
      sigma: Math.sqrt(1 - share),
      lambda: this.#schedule.logSnrAt(timestep),
    };
  }
}
