/** The answers a head can give, and how answers are scored. */

import {
  requireInstance,
  requireInteger,
  requireIterable,
  requireList,
  requireObject,
  requireText,
} from '../arguments.js';
import { DuetError, messageOf } from '../errors.js';
import { normaliseAnswer } from './answer-text.js';
import { readJson, writeText } from './files.js';

/** An answer and how many people gave it. */
export interface AnswerCount {
  answer: string;
  count: number;
}

/**
 * The VQA v2 score of an answer that `count` of the ten people gave: min(1, 0.3 * count), i.e. 0, 0.3, 0.6, 0.9, 1,
 * 1, ... (the average of min(1, others / 3) over the ten ways of leaving one person out; Goyal et al., "Making the V
 * in VQA Matter", CVPR 2017). The same numbers are the soft targets of training.
 * @throws DuetError INVALID_ARGUMENT for a count that is not an integer of at least 0
 */
export function answerScore(count: number): number {
  return Math.min(10, 3 * requireInteger(count, 'count', 0)) / 10;
}

/** Counts equal answers after normalisation, most frequent first (ties in order of first mention). */
export function countAnswers(answers: readonly string[], normalise = normaliseAnswer): AnswerCount[] {
  const counts = new Map<string, number>();
  for (const answer of answers) {
    const normal = normalise(answer);
    if (normal !== '') counts.set(normal, (counts.get(normal) ?? 0) + 1);
  }
  return [...counts].map(([answer, count]) => ({ answer, count })).sort((a, b) => b.count - a.count);
}

/**
 * VQA accuracy of one answer against the answers people gave, 0 to 1 (see `answerScore`).
 * @param counts normalised answers with their counts, as in `VqaSample.counts`
 */
export function vqaAccuracy(answer: string, counts: readonly AnswerCount[]): number {
  const normal = normaliseAnswer(requireText(answer, 'answer'));
  return answerScore(
    requireList(counts, 'counts', requireObject).find((entry) => entry.answer === normal)?.count ?? 0,
  );
}

/** Which answers become classes. */
export interface AnswerVocabularyOptions {
  /** Keep the most frequent answers. Default 3129, the usual number for VQA v2. */
  top?: number;
  /** Keep only answers that are the answer of at least this many questions. Default 1. */
  minCount?: number;
}

/** What the vocabulary needs to know of a sample. */
export interface AnsweredSample {
  /** The most frequent answer, normalised. */
  answer: string;
  counts: readonly AnswerCount[];
}

/**
 * An ordered list of answers; the position is the class of the head. Usually the most frequent answers of the
 * training questions. Answers are compared in the normal form of the VQA evaluation (lower case, no articles, numbers
 * as digits).
 */
export class AnswerVocabulary {
  /** In their normal form, in the order of their classes. */
  readonly answers: readonly string[];
  readonly #classes: Map<string, number>;

  /**
   * @throws DuetError INVALID_ARGUMENT when the list is empty or an answer (in its normal form) is there
   * twice
   */
  constructor(answers: readonly string[]) {
    if (requireList(answers, 'answers', requireText).length === 0) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        'Expected at least 1 answer for an answer vocabulary but received 0',
      );
    }
    this.answers = answers.map(normaliseAnswer);
    const empty = this.answers.indexOf('');
    if (empty >= 0) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected answers of which the normal form keeps something but nothing is left of "${answers[empty]}"`,
      );
    }
    this.#classes = new Map(this.answers.map((answer, index) => [answer, index]));
    if (this.#classes.size !== this.answers.length) {
      const twice = this.answers.find((answer, index) => this.#classes.get(answer) !== index);
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected different answers but '${twice}' is in the list twice`,
      );
    }
  }

  /**
   * The most frequent answers of training samples; equally frequent ones in alphabetical (code unit) order.
   */
  static fromSamples(
    samples: Iterable<AnsweredSample>,
    options: AnswerVocabularyOptions = {},
  ): AnswerVocabulary {
    const { top = 3129, minCount = 1 } = requireObject(options, 'options');
    requireInteger(top, 'top', 1);
    requireInteger(minCount, 'minCount', 0);
    const counts = new Map<string, number>();
    for (const sample of requireIterable(samples, 'samples')) {
      const { answer } = requireObject(sample, 'a sample');
      counts.set(answer, (counts.get(answer) ?? 0) + 1);
    }
    const answers = [...counts]
      .filter(([answer, count]) => count >= minCount && answer !== '')
      .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
      .slice(0, top)
      .map(([answer]) => answer);
    if (answers.length === 0) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected training questions with answers given at least ${minCount} times but found none`,
      );
    }
    return new AnswerVocabulary(answers);
  }

  /** Reads `{"answers": [...]}` or a plain list. */
  static async load(path: string): Promise<AnswerVocabulary> {
    const json = await readJson(path, 'answers');
    const list = Array.isArray(json) ? json : (json as { answers?: unknown } | null)?.answers;
    if (!Array.isArray(list) || !list.every((answer) => typeof answer === 'string')) {
      throw new DuetError('CORRUPT', `Expected {"answers": [text, ...]} in ${path}`);
    }
    try {
      return new AnswerVocabulary(list);
    } catch (error) {
      throw new DuetError('CORRUPT', `${messageOf(error)} (in ${path})`, { cause: error });
    }
  }

  /** Writes `{"answers": [...]}`. */
  async save(path: string): Promise<void> {
    await writeText(path, `${JSON.stringify({ answers: this.answers }, null, 1)}\n`, 'answers');
  }

  /** Number of classes. */
  get size(): number {
    return this.answers.length;
  }

  /** The class of an answer, or undefined when it is not in the vocabulary. */
  classOf(answer: string): number | undefined {
    return this.#classes.get(normaliseAnswer(requireText(answer, 'answer')));
  }

  /** The classes with a score above 0 for a sample, each with its score. Empty when no answer is known. */
  targetsOf(sample: Pick<AnsweredSample, 'counts'>): [answerClass: number, score: number][] {
    const targets: [number, number][] = [];
    for (const { answer, count } of requireSample(sample, 'sample').counts) {
      const answerClass = this.#classes.get(answer);
      if (answerClass !== undefined) targets.push([answerClass, answerScore(count)]);
    }
    return targets;
  }

  /** Soft targets of samples, row after row: [samples, size]. */
  softTargets(samples: readonly Pick<AnsweredSample, 'counts'>[]): Float32Array {
    const targets = new Float32Array(requireList(samples, 'samples').length * this.size);
    for (const [row, sample] of samples.entries()) {
      for (const [answerClass, score] of this.targetsOf(sample))
        targets[row * this.size + answerClass] = score;
    }
    return targets;
  }

  /**
   * VQA accuracy of logits, the answer of each row being its largest value: the sum over the samples (divide
   * by their number). Rows whose answer is outside the vocabulary score 0.
   */
  scoreOf(logits: Float32Array, samples: readonly Pick<AnsweredSample, 'counts'>[]): number {
    requireInstance(logits, Float32Array, 'logits');
    if (logits.length !== requireList(samples, 'samples').length * this.size) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected ${samples.length} x ${this.size} logits but received ${logits.length}`,
      );
    }
    let score = 0;
    for (const [row, sample] of samples.entries()) {
      const best = largest(logits, row * this.size, this.size);
      score += this.targetsOf(sample).find(([answerClass]) => answerClass === best)?.[1] ?? 0;
    }
    return score;
  }
}

function requireSample<T extends Pick<AnsweredSample, 'counts'>>(sample: T, name: string): T {
  requireList(requireObject(sample, name).counts, `counts of ${name}`, requireObject);
  return sample;
}

function largest(values: Float32Array, from: number, count: number): number {
  let best = 0;
  for (let index = 1; index < count; index++) {
    if (values[from + index]! > values[from + best]!) best = index;
  }
  return best;
}
