/** The adaptive part of RDTF's curriculum. */

import { requireInteger, requireKnown, requireNumber, requireObject } from '../../arguments.js';
import type { Task } from '../tasks.js';
import {
  type Curriculum,
  type CurriculumState,
  stateError,
  type TaskWeights,
  weightList,
} from './curriculum.js';

/** How the loss becomes a level. */
export interface AdaptiveOptions {
  /** Factor of the last loss. Default 5. */
  proportional: number;
  /** Factor of the mean loss. Default 3. */
  integral: number;
  /** Factor of the last change. Default 1.3. */
  derivative: number;
  /** Losses and signals that are remembered. Default 1000. */
  window: number;
  /** Signals needed before ranks mean something. Default 10. */
  minimumHistory: number;
}

export const ADAPTIVE_DEFAULTS: AdaptiveOptions = {
  proportional: 5,
  integral: 3,
  derivative: 1.3,
  window: 1000,
  minimumHistory: 10,
};

/** Task weights of level 0 (easy tasks) to 4 (hard tasks); the published values. */
export const LEVEL_WEIGHTS: readonly TaskWeights[] = [0.1, 0.3, 0.5, 0.7, 0.9].map((hard) => ({
  i2v: hard,
  t2v: hard,
  it2v: hard,
  interpolation: Number((1 - hard).toFixed(1)),
  pre_frame_prediction: 0.5,
  post_frame_prediction: 0.5,
}));

export const NEUTRAL_LEVEL = 2;

/**
 * The adaptive part of RDTF's curriculum (arXiv 2503.17735): how well the network copes right now, as a PID
 * controller sees the loss.
 *
 * Before every step the signal `P = 5 * last loss + 3 * mean of the last 1000 + 1.3 * (last - the one before)` is
 * ranked among its own last 1000 values. A signal below most of them (the loss is low or falling) gives a high level,
 * which favours generation; a high one gives a low level, which favours interpolation. Until there are 10 earlier
 * signals the level is the neutral one.
 *
 * The published function cannot run as it stands (undefined names) and, with those supplied, reaches two of its five
 * levels only: it searches an ascending list as if it descended and drops the smallest instead of the oldest value.
 * This is what it evidently intends.
 */
export class AdaptiveCurriculum implements Curriculum {
  readonly name: string = 'adaptive';
  readonly #options: AdaptiveOptions;
  #losses: number[] = [];
  #signals: number[] = [];
  #level = NEUTRAL_LEVEL;

  /** @throws DuetError INVALID_ARGUMENT for options that cannot work */
  constructor(options: Partial<AdaptiveOptions> = {}) {
    const given = requireKnown(options, 'options of the curriculum', { ...ADAPTIVE_DEFAULTS });
    this.#options = { ...ADAPTIVE_DEFAULTS, ...given };
    const { window, minimumHistory, ...factors } = this.#options;
    requireInteger(window, 'window', 2);
    requireInteger(minimumHistory, 'minimumHistory', 1);
    for (const [name, factor] of Object.entries(factors)) requireNumber(factor, name);
  }

  /** 0..4, for the next step. */
  get level(): number {
    return this.#level;
  }

  /** The signal of the next step; undefined until two losses are known. */
  get signal(): number | undefined {
    return this.#signals.at(-1);
  }

  weights(): number[] {
    return weightList(LEVEL_WEIGHTS[this.#level] as TaskWeights);
  }

  /** What the next step needs depends on past losses alone, so it is settled here and `weights` stays pure. */
  observe(loss: number, _task?: Task): void {
    const { window, minimumHistory } = this.#options;
    remember(this.#losses, requireNumber(loss, 'loss'), window);
    if (this.#losses.length < 2) return;
    const signal = this.#signalOf(this.#losses);
    const known = this.#signals.length;
    if (known >= minimumHistory) {
      const ratio = this.#signals.filter((earlier) => earlier >= signal).length / known;
      this.#level = Math.min(LEVEL_WEIGHTS.length - 1, Math.floor(LEVEL_WEIGHTS.length * ratio));
    }
    remember(this.#signals, signal, window);
  }

  state(): CurriculumState {
    return { losses: [...this.#losses], signals: [...this.#signals], level: this.#level };
  }

  restore(state: CurriculumState): void {
    requireObject(state, 'state');
    this.#losses = this.#numbers(state, 'losses');
    this.#signals = this.#numbers(state, 'signals');
    const { level } = state;
    if (!Number.isInteger(level) || LEVEL_WEIGHTS[level as number] === undefined) {
      throw stateError(this.name, `level 0 to ${LEVEL_WEIGHTS.length - 1}`, level);
    }
    this.#level = level as number;
  }

  #signalOf(losses: readonly number[]): number {
    const { proportional, integral, derivative } = this.#options;
    const last = losses.at(-1) as number;
    const before = losses.at(-2) as number;
    const mean = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
    return proportional * last + integral * mean + derivative * (last - before);
  }

  #numbers(state: CurriculumState, name: string): number[] {
    const values = state[name];
    if (!Array.isArray(values) || !values.every((value) => typeof value === 'number')) {
      throw stateError(this.name, `a list of numbers for ${name}`, values);
    }
    return values.slice(-this.#options.window);
  }
}

function remember(values: number[], value: number, window: number): void {
  values.push(value);
  if (values.length > window) values.shift();
}
