/** What a curriculum is. */

import { isDeepStrictEqual } from 'node:util';
import { invalid, requireObject } from '../../arguments.js';
import { DuetError, shown } from '../../errors.js';
import { TASKS, type Task } from '../tasks.js';

/** Plain JSON: everything that later weights depend on. */
export type CurriculumState = Record<string, unknown>;

/**
 * What a curriculum is: at every optimiser step it weighs the six tasks, and after the step it hears the loss.
 *
 * The trainer asks for `weights(step)`, draws a task in their proportion, trains, and calls `observe(loss)`.
 * `state()` goes into the checkpoint as JSON; after `restore(state)` the curriculum continues as if nothing had
 * happened. Any object with these four functions is a curriculum.
 */
export interface Curriculum {
  /** For the settings and the report of a run. */
  readonly name: string;
  /**
   * Weights of the tasks in the order of TASKS; at least 0, not all 0, not normalised. Pure: it may be asked twice.
   * @param step optimiser steps done before this one, from 0
   */
  weights(step: number): number[];
  /**
   * The loss of the step that was just done; once an optimiser step, whatever the number of micro-batches.
   * @param task of the step; undefined where its micro-batches were of several tasks
   */
  observe(loss: number, task?: Task): void;
  /** Everything that later weights depend on. */
  state(): CurriculumState;
  /** @throws DuetError CORRUPT when the state is not one of this curriculum */
  restore(state: CurriculumState): void;
}

/** One number a task. */
export type TaskWeights = Record<Task, number>;

export function weightList(weights: TaskWeights): number[] {
  return TASKS.map((task) => weights[task]);
}

/**
 * A copy of the state as a checkpoint holds it.
 * @throws DuetError INVALID_ARGUMENT when it is no plain JSON
 */
export function plainState(curriculum: Curriculum): CurriculumState {
  const state: unknown = curriculum.state();
  const name = `state() of the curriculum ${curriculum.name ?? ''}`.trim();
  let copy: unknown;
  try {
    copy = JSON.parse(JSON.stringify(requireObject(state, name)));
  } catch (error) {
    if (error instanceof DuetError) throw error;
  }
  if (!isDeepStrictEqual(copy, state)) throw invalid('plain JSON', name, state);
  return copy as CurriculumState;
}

/** @throws DuetError CORRUPT */
export function stateError(name: string, expected: string, received: unknown): DuetError {
  return new DuetError(
    'CORRUPT',
    `Expected ${expected} in the state of the ${name} curriculum but received ${shown(received)}; was the run started with another curriculum?`,
  );
}
