/** RDTF's curriculum, both parts. */

import type { Task } from '../tasks.js';
import { AdaptiveCurriculum, type AdaptiveOptions } from './adaptive.js';
import type { Curriculum, CurriculumState } from './curriculum.js';
import { STATIC_WEIGHTS, StaticCurriculum, type ThreeWeights } from './static.js';

/**
 * RDTF's difficulty-adaptive curriculum (arXiv 2503.17735): the prior difficulty of a task over the course of
 * training (static part) plus how well the network copes with it now (adaptive part). A task's weight is the sum of
 * both.
 */
export class DifficultyAdaptiveCurriculum implements Curriculum {
  readonly name = 'difficulty-adaptive';
  readonly #static: StaticCurriculum;
  readonly #adaptive: AdaptiveCurriculum;

  /** @param steps optimiser steps of the static part (published: 500,000) */
  constructor(
    steps: number,
    options: Partial<AdaptiveOptions> = {},
    weights: Record<Task, ThreeWeights> = STATIC_WEIGHTS,
  ) {
    this.#static = new StaticCurriculum(steps, weights);
    this.#adaptive = new AdaptiveCurriculum(options);
  }

  /** 0..4, of the adaptive part. */
  get level(): number {
    return this.#adaptive.level;
  }

  /** Signal of the adaptive part. */
  get signal(): number | undefined {
    return this.#adaptive.signal;
  }

  weights(step: number): number[] {
    const now = this.#adaptive.weights();
    return this.#static.weights(step).map((weight, task) => weight + (now[task] as number));
  }

  observe(loss: number): void {
    this.#adaptive.observe(loss);
  }

  state(): CurriculumState {
    return this.#adaptive.state();
  }

  restore(state: CurriculumState): void {
    this.#adaptive.restore(state);
  }
}
