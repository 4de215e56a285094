/** What a round reports: to the caller, and as one line of metrics.jsonl. */

import type { LocalReport } from './client.js';
import type { Accuracies, EvaluationReport } from './evaluation.js';

/** A client's share of a round that was lost. */
export interface Failure {
  /** Name. */
  client: string;
  /** What it did when it failed. */
  during: 'training' | 'evaluation';
  /** Of its error; INTERNAL for an error without one. */
  code: string;
  /** Of its error. */
  message: string;
}

/** One round: a line of metrics.jsonl. */
export interface RoundReport {
  /** From 1; 0 is the evaluation before the first round. */
  number: number;
  /** Name. */
  strategy: string;
  /** The numbers to look at: mean loss over clients, and accuracies (0 to 1, mean over clients) when evaluated. */
  metrics: { loss?: number; accuracy?: Accuracies };
  /** Local trainings of this round, in order. */
  clients: LocalReport[];
  /** Clients whose training or evaluation failed. */
  failures: Failure[];
  /** In rounds that are evaluated. */
  evaluation?: EvaluationReport;
  /** Shared parameters that travelled, fp32: from clients to the server (`up`) and back (`down`). */
  bytes: { up: number; down: number };
  /** Best evaluated round so far by the strategy's first accuracy. */
  best?: { round: number; accuracy: number };
  /** Wall clock; everything else is the same for the same seed. */
  timing: { seconds: number; trainSeconds: number; evaluateSeconds: number };
}

/** What is going on, for a progress line. */
export interface Progress {
  phase: 'training' | 'evaluation';
  strategy: string;
  round: number;
  rounds: number;
  client: string;
  /** From 1. */
  batch: number;
  batches: number;
  /** Of the last batch of a training. */
  loss?: number;
}
