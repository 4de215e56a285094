/**
 * VQA accuracy of a client's model in the modes of a strategy: the target score at the highest logit, averaged over samples.
 * Every batch is prepared once and goes through all modes.
 */

import { DuetError, throwIfAborted } from '../errors.js';
import type { Vilt } from '../models/vilt.js';
import type { LabelledBatch } from './batch-source.js';
import { type FederatedClient, taskOf } from './client.js';
import type { Evaluation } from './strategies/strategy.js';

/** Accuracies from 0 to 1 by name of evaluation. */
export type Accuracies = Record<string, number>;

/** Accuracies over some samples. */
export interface Scored {
  /** How many. */
  samples: number;
  /** VQA accuracy, 0 to 1, by name of evaluation. */
  accuracy: Accuracies;
}

/** The evaluation of one client. */
export interface ClientEvaluation extends Scored {
  /** Name. */
  client: string;
  /** By question type, where the samples have one. */
  questionTypes?: Record<string, Scored>;
}

/** The evaluation of all clients that have evaluation data. */
export interface EvaluationReport {
  /** In the order of the federation. */
  clients: ClientEvaluation[];
  /** Mean over clients, each counting the same. */
  mean: Accuracies;
  /** All clients' samples of a type together. */
  questionTypes?: Record<string, Scored>;
}

/** Evaluates the model's current tensors on a client's data. */
export async function evaluateClient(
  model: Vilt,
  client: FederatedClient,
  evaluations: readonly Evaluation[],
  options: {
    batchSize: number;
    signal?: AbortSignal | undefined;
    onBatch?: ((batch: number) => void) | undefined;
  },
): Promise<ClientEvaluation | undefined> {
  const { evaluation } = client;
  if (!evaluation) return undefined;
  const { batchSize, signal } = options;
  const total = new Tally();
  const byType = new Map<string, Tally>();
  let number = 0;
  for await (const batch of evaluation.batches({ batchSize, ...(signal && { signal }) })) {
    for (const { name, mode } of evaluations) {
      throwIfAborted(signal, 'The evaluation');
      const logits = await model.evaluate(batch, taskOf(client), mode);
      const scores = scoresOf(logits, batch, ` of batch ${number + 1} of the evaluation "${name}"`);
      for (const [row, score] of scores.entries()) {
        total.add(name, score);
        const type = batch.questionTypes?.[row];
        if (!type) continue;
        const tally = byType.get(type) ?? new Tally();
        byType.set(type, tally);
        tally.add(name, score);
      }
    }
    options.onBatch?.(++number);
  }
  const result: ClientEvaluation = { client: client.name, ...total.scored() };
  if (byType.size > 0) result.questionTypes = byName(byType);
  return result;
}

/** The means of several clients' evaluations. */
export function summarise(clients: ClientEvaluation[]): EvaluationReport {
  const mean: Accuracies = {};
  for (const name of new Set(clients.flatMap((client) => Object.keys(client.accuracy)))) {
    const values = clients.map((client) => client.accuracy[name]).filter((value) => value !== undefined);
    mean[name] = values.reduce((sum, value) => sum + value, 0) / values.length;
  }
  const byType = new Map<string, Tally>();
  for (const [type, scored] of clients.flatMap((client) => Object.entries(client.questionTypes ?? {}))) {
    const tally = byType.get(type) ?? new Tally();
    byType.set(type, tally);
    tally.include(scored);
  }
  return byType.size > 0 ? { clients, mean, questionTypes: byName(byType) } : { clients, mean };
}

/** The target score at the highest logit, sample by sample. @param where for the message of logits that are not finite */
export function scoresOf(logits: Float32Array, batch: LabelledBatch, where = ''): number[] {
  const classes = logits.length / batch.batch;
  return Array.from({ length: batch.batch }, (_, row) => {
    const line = logits.subarray(row * classes, (row + 1) * classes);
    let best = 0;
    for (let index = 1; index < classes; index++) if (line[index]! > line[best]!) best = index;
    const bad = line.find((value) => !Number.isFinite(value));
    if (bad !== undefined) {
      throw new DuetError(
        'NOT_FINITE',
        `Expected finite logits${where} but one is ${bad}: the training before it has diverged; lower the learning rate`,
      );
    }
    return batch.targets[row * classes + best]!;
  });
}

class Tally {
  readonly #sums = new Map<string, { score: number; samples: number }>();

  add(name: string, score: number, samples = 1): void {
    const sum = this.#sums.get(name) ?? { score: 0, samples: 0 };
    this.#sums.set(name, { score: sum.score + score, samples: sum.samples + samples });
  }

  include(scored: Scored): void {
    for (const [name, accuracy] of Object.entries(scored.accuracy)) {
      this.add(name, accuracy * scored.samples, scored.samples);
    }
  }

  scored(): Scored {
    const accuracy: Accuracies = {};
    let samples = 0;
    for (const [name, sum] of this.#sums) {
      accuracy[name] = sum.score / sum.samples;
      samples = sum.samples;
    }
    return { samples, accuracy };
  }
}

function byName(tallies: Map<string, Tally>): Record<string, Scored> {
  const sorted = [...tallies].sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(sorted.map(([type, tally]) => [type, tally.scored()]));
}
