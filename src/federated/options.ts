/** Everything a federation can be told, with the defaults of the published program, and how it is checked. */

import { z } from 'zod';
import { requireFunction, requireInstance, requireList, requireObject, requireText } from '../arguments.js';
import { DuetError } from '../errors.js';
import { Vilt } from '../models/vilt.js';
import type { OptimizerOptions } from '../native/core.js';
import { requireRunDir } from '../run/run-folder.js';
import { validated } from '../validation.js';
import { requireSource } from './batch-source.js';
import { type FederatedClient, taskOf } from './client.js';
import type { Progress } from './report.js';
import { type Schedule, scheduleSchema } from './schedule.js';
import type { Strategy } from './strategies/strategy.js';

/** How clients train and are evaluated. Defaults are those of the published program (arXiv 2308.12305). */
export interface ClientTrainingOptions {
  /** Passes over a client's data a round, 1 to 4095. Default 1. */
  localEpochs?: number;
  /** Samples in a batch. Default 32. */
  batchSize?: number;
  /** Samples in an evaluation batch. Default: `batchSize`. */
  evaluationBatchSize?: number;
  /** Highest learning rate of the schedule. Default 1e-4. */
  learningRate?: number;
  /** Of every draw of the run. Default 0. */
  seed?: number;
  /** AdamW: betas [0.9, 0.98], epsilon 1e-8, weightDecay 0.01. */
  optimizer?: Partial<Omit<OptimizerOptions, 'learningRate'>>;
  /** kind linear, nominalEpochs 15, warmup 0.1 (share of the steps). */
  schedule?: Partial<Schedule>;
  /** Gradients are scaled down to this global norm. Default: they are not. */
  maxGradNorm?: number;
}

/** Everything a federation can be told. */
export interface FederationOptions extends ClientTrainingOptions {
  /** A model with adapters and the heads of all clients. */
  model: Vilt;
  /** What travels and how clients train, e.g. `new FedDat()`. */
  strategy: Strategy;
  /** 1 to 65535, with different names. `vqaClients` makes them from data sets. */
  clients: readonly FederatedClient[];
  /** Rounds of the whole run, 1 to 2^20 - 1. */
  rounds: number;
  /** Clients of a round: a share of all, at least `minimum`. Default: all. */
  sampling?: { fraction?: number; minimum?: number };
  /** Share of a round's clients that must succeed, else the run stops. Default 0: one is enough. */
  quorum?: number;
  /** Evaluate every so many rounds and after the last; `before`: also before the first. Default every round. */
  evaluation?: { every?: number; before?: boolean };
  /** Folder for config, metrics and checkpoints. Default: nothing is written. */
  runDir?: string;
  /** Continue what is in `runDir`; an empty folder starts a new run. Default false. */
  resume?: boolean;
  /** Checkpoints kept besides the best one. Default 2. */
  keepCheckpoints?: number;
  /** Told after every batch of a training or evaluation. */
  onProgress?: (progress: Progress) => void;
}

const count = z.int().min(1);

export const MOST_ROUNDS = 2 ** 20 - 1;
export const MOST_CLIENTS = 2 ** 16 - 1;

export const trainingSchema = z.strictObject({
  localEpochs: count.max(2 ** 12 - 1).default(1),
  batchSize: count.default(32),
  evaluationBatchSize: count.optional(),
  learningRate: z.number().gt(0).max(1).default(1e-4),
  seed: z.int().min(0).default(0),
  optimizer: z
    .strictObject({
      betas: z.tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)]).default([0.9, 0.98]),
      epsilon: z.number().gt(0).default(1e-8),
      weightDecay: z.number().min(0).default(0.01),
    })
    .prefault({}),
  schedule: scheduleSchema.prefault({}),
  maxGradNorm: z.number().gt(0).optional(),
});

/** How clients train and are evaluated, with all defaults. */
export type TrainingSettings = z.output<typeof trainingSchema>;

const schema = z.strictObject({
  rounds: count.max(MOST_ROUNDS),
  ...trainingSchema.shape,
  sampling: z
    .strictObject({ fraction: z.number().gt(0).max(1).default(1), minimum: count.default(1) })
    .prefault({}),
  quorum: z.number().min(0).max(1).default(0),
  evaluation: z.strictObject({ every: count.default(1), before: z.boolean().default(false) }).prefault({}),
  runDir: z.string().min(1).optional(),
  resume: z.boolean().default(false),
  keepCheckpoints: count.default(2),
});

/**
 * The options with all defaults; `FederationOptions` says what each of them is.
 * @interface
 */
export type FederationSettings = z.output<typeof schema>;

/** Separates what is settings from what is objects, and checks both. */
export function federationSettings(options: FederationOptions): FederationSettings {
  const { model, strategy, clients, onProgress, ...settings } = requireObject(options, 'federation options');
  requireInstance(model, Vilt, 'model', 'open one with Vilt.fromPretrained');
  requireStrategy(strategy);
  requireList(clients, 'clients', requireObject);
  if (onProgress !== undefined) requireFunction(onProgress, 'onProgress');
  const checked = validated(schema, settings, 'federation options');
  requireRunDir(checked);
  checkClients(model, strategy, clients, checked);
  return checked;
}

/** @throws DuetError INVALID_ARGUMENT for anything but a strategy */
export function requireStrategy(strategy: Strategy): void {
  const { training, evaluations, isPersonal, isShared, aggregate } = requireObject(
    strategy,
    'strategy',
    'make one, e.g. new FedDat()',
  );
  requireObject(training, 'training of the strategy');
  requireList(evaluations, 'evaluations of the strategy', requireObject);
  for (const [name, call] of Object.entries({ isPersonal, isShared, aggregate }))
    requireFunction(call, `${name} of the strategy`);
}

function checkClients(
  model: Vilt,
  strategy: Strategy,
  clients: readonly FederatedClient[],
  settings: FederationSettings,
): void {
  if (clients.length === 0 || clients.length > MOST_CLIENTS) {
    throw invalid(`Expected 1 to ${MOST_CLIENTS} clients but received ${clients.length}`);
  }
  for (const [index, client] of clients.entries()) requireClient(client, `clients[${index}]`);
  const names = clients.map((client) => client.name);
  const twice = names.find((name, index) => names.indexOf(name) !== index);
  if (twice !== undefined)
    throw invalid(`Expected different names for clients but "${twice}" is there twice`);
  if (settings.sampling.minimum > clients.length) {
    const { minimum } = settings.sampling;
    throw invalid(
      `Expected at most the ${clients.length} clients of the federation for the least number in a round (sampling.minimum, --min-clients) but received ${minimum}`,
    );
  }
  requireTrainable(model, clients);
  if (strategy.pooled && new Set(clients.map(taskOf)).size > 1) {
    throw invalid(`Expected one task for all clients with strategy ${strategy.name} but received several`);
  }
}

/** @throws DuetError INVALID_ARGUMENT for anything but a client */
export function requireClient({ name, task, train, evaluation }: FederatedClient, what: string): void {
  requireText(name, `name of ${what}`);
  if (task !== undefined) requireText(task, `task of client ${name}`);
  requireSource(train, `train of client ${name}`);
  if (evaluation !== undefined) requireSource(evaluation, `evaluation of client ${name}`);
}

/** @throws DuetError INVALID_ARGUMENT for a model without adapters or a client's head, or a client without data */
export function requireTrainable(model: Vilt, clients: readonly FederatedClient[]): void {
  if (model.adapterReduction === undefined) {
    throw invalid('Expected a model with adapters; open it with { adapters: { reduction: 16 } }');
  }
  for (const client of clients) {
    const task = taskOf(client);
    if (!model.heads.has(task)) {
      const known = [...model.heads.keys()].join(', ') || 'none';
      throw invalid(
        `Expected a head of the model (${known}) for task of client ${client.name} but received "${task}"`,
      );
    }
    if (client.train.size < 1)
      throw invalid(`Expected at least 1 training sample for client ${client.name} but received 0`);
  }
}

function invalid(message: string): DuetError {
  return new DuetError('INVALID_ARGUMENT', message);
}
