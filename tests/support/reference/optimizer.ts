// AdamW with decoupled decay (Loshchilov & Hutter 2019) and the learning-rate schedules, in double precision.

import type { OptimizerOptions, ScheduleOptions } from '../../../src/native/core.js';
import type { Numbers } from './numbers.js';

export class AdamW {
  readonly value: Float64Array;
  readonly average: Float64Array;
  readonly averageSquare: Float64Array;
  step = 0;

  constructor(value: Numbers) {
    this.value = Float64Array.from(value);
    this.average = new Float64Array(value.length);
    this.averageSquare = new Float64Array(value.length);
  }

  update(gradient: Numbers, options: OptimizerOptions): void {
    const [beta1, beta2] = options.betas;
    this.step += 1;
    for (let i = 0; i < this.value.length; i++) {
      const g = gradient[i]!;
      const m = beta1 * this.average[i]! + (1 - beta1) * g;
      const v = beta2 * this.averageSquare[i]! + (1 - beta2) * g * g;
      this.average[i] = m;
      this.averageSquare[i] = v;
      const mHat = m / (1 - beta1 ** this.step);
      const vHat = v / (1 - beta2 ** this.step);
      const decayed = this.value[i]! * (1 - options.learningRate * options.weightDecay);
      this.value[i] = decayed - (options.learningRate * mHat) / (Math.sqrt(vHat) + options.epsilon);
    }
  }
}

/** Names that are not decayed. */
export function withoutDecay(name: string): boolean {
  return name.includes('bias') || name.includes('LayerNorm.weight');
}

/** The learning rate of update number `step`, counted from 0. */
export function learningRateAt(base: number, schedule: ScheduleOptions, step: number): number {
  const { kind, warmupSteps, maxSteps } = schedule;
  if (step < warmupSteps) return (base * step) / warmupSteps;
  if (kind === 'constant') return base;
  if (step >= maxSteps) return 0;
  const done = (step - warmupSteps) / (maxSteps - warmupSteps);
  return kind === 'linear' ? base * (1 - done) : (base * (1 + Math.cos(Math.PI * done))) / 2;
}
