/** The static part of RDTF's curriculum. */

import { invalid, requireInteger, requireList, requireNumber, requireObject } from '../../arguments.js';
import { TASKS, type Task } from '../tasks.js';
import type { Curriculum, CurriculumState } from './curriculum.js';

/** Weight at the start, at half and from the end on. */
export type ThreeWeights = readonly [start: number, middle: number, end: number];

const GENERATION: ThreeWeights = [0.1, 0.5, 0.9];
const PREDICTION: ThreeWeights = [0.7, 0.5, 0.3];

/** The published values. */
export const STATIC_WEIGHTS: Record<Task, ThreeWeights> = {
  i2v: GENERATION,
  t2v: GENERATION,
  it2v: GENERATION,
  interpolation: [0.9, 0.5, 0.1],
  pre_frame_prediction: PREDICTION,
  post_frame_prediction: PREDICTION,
};

/**
 * The static part of RDTF's curriculum (arXiv 2503.17735): each task goes through three weights, at the start, at
 * half the steps and at the end, in straight lines. Tasks that leave little open (interpolation) fade out, tasks that
 * leave much open (generation) fade in. Source: `update_sample_weights` of the published code.
 */
export class StaticCurriculum implements Curriculum {
  readonly name: string = 'static';
  readonly #steps: number;
  readonly #weights: Record<Task, ThreeWeights>;

  /**
   * @param steps optimiser steps until the last weights are reached (published: 500,000); at least 2
   * @throws DuetError INVALID_ARGUMENT
   */
  constructor(steps: number, weights: Record<Task, ThreeWeights> = STATIC_WEIGHTS) {
    this.#steps = requireInteger(steps, 'the steps of the curriculum', 2);
    this.#weights = requireObject(weights, 'weights');
    for (const task of TASKS) {
      if (requireList(weights[task], `weights of ${task}`, requireNumber).length !== 3)
        throw invalid('three numbers', `weights of ${task}`, weights[task]);
    }
  }

  weights(step: number): number[] {
    requireInteger(step, 'step', 0);
    return TASKS.map((task) => threePoints(this.#weights[task], step, this.#steps));
  }

  observe(): void {}

  state(): CurriculumState {
    return {};
  }

  restore(): void {}
}

function threePoints([start, middle, end]: ThreeWeights, step: number, steps: number): number {
  const half = Math.floor(steps / 2);
  if (step < half) return start + (middle - start) * (step / half);
  if (step < steps) return middle + (end - middle) * ((step - half) / half);
  return end;
}
