/**
 * What a client does in a round, whether it lives in the process of its federation (federation.ts) or is a site of its own
 * (site.ts): it trains from the shared parameters and its own, and it is evaluated.
 */

import { requireObject } from '../arguments.js';
import { Random } from '../data/random.js';
import { DuetError } from '../errors.js';
import { otherAdapter } from '../models/names.js';
import type { Vilt } from '../models/vilt.js';
import type { Tensors } from '../native/core.js';
import { type FederatedClient, type LocalReport, taskOf, trainLocally } from './client.js';
import { type ClientEvaluation, evaluateClient } from './evaluation.js';
import type { TrainingSettings } from './options.js';
import { laidOut, scheduleFor } from './schedule.js';
import type { Strategy } from './strategies/strategy.js';
import { streamOf } from './streams.js';

/** What a client keeps between rounds. */
export interface ClientState {
  personal: Tensors;
  /** Shared parameters as this client last received them. */
  received: Tensors;
}

/** What the clients of a federation have in common. */
interface Common {
  readonly model: Vilt;
  readonly strategy: Strategy;
  readonly settings: TrainingSettings & { rounds?: number | undefined };
}

export interface ClientRound {
  client: FederatedClient;
  /** Its number in the federation. */
  index: number;
  round: number;
  /** The server's. */
  shared: Tensors;
  personal: Tensors;
  /** Continues a kept optimizer. */
  optimizer?: Tensors | undefined;
  signal?: AbortSignal | undefined;
  onBatch?: ((batch: number, batches: number, loss: number) => void) | undefined;
}

export interface TrainedClient {
  report: LocalReport;
  /** What it sends. */
  shared: Tensors;
  personal: Tensors;
}

/** A client's local training of a round. */
export async function trainClient(common: Common, now: ClientRound): Promise<TrainedClient> {
  const { model, strategy, settings } = common;
  const { client, index, round, signal, onBatch } = now;
  const { seed, localEpochs, batchSize, learningRate, optimizer, rounds = 1, maxGradNorm } = settings;
  const task = taskOf(client);
  const batches = client.train.batchCount(batchSize);
  await model.write({ ...sharedOf(strategy, client, now.shared), ...now.personal });
  const report = await trainLocally(model, {
    client,
    round,
    epochs: localEpochs,
    batchSize,
    options: {
      ...strategy.training,
      task,
      optimizer: { learningRate, ...optimizer },
      schedule: strategy.pooled
        ? laidOut(rounds * localEpochs * batches, settings.schedule)
        : scheduleFor(batches, settings.schedule),
      ...(maxGradNorm !== undefined && { maxGradNorm }),
      seed: new Random(seed, streamOf('dropout', round, index)).word(),
    },
    optimizerState: now.optimizer,
    order: (epoch) => ({ seed, stream: streamOf('order', round, index, epoch) }),
    signal,
    onBatch,
  });
  const wanted = (name: string) => strategy.isShared(name, task) || strategy.isPersonal(name, task);
  const trained = await model.read(model.names(wanted));
  return {
    report,
    shared: sharedOf(strategy, client, trained),
    personal: personalOf(strategy, client, trained),
  };
}

/** A client's evaluation with what the model shall hold; undefined for a client without evaluation data. */
export async function evaluateHeld(
  { model, strategy, settings }: Common,
  client: FederatedClient,
  held: Tensors,
  options: {
    signal?: AbortSignal | undefined;
    onBatch: (batch: number, batches: number) => void;
  },
): Promise<ClientEvaluation | undefined> {
  const { batchSize, evaluationBatchSize = batchSize } = settings;
  const planned = client.evaluation?.batchCount(evaluationBatchSize) ?? 0;
  await model.write(held);
  return evaluateClient(model, client, strategy.evaluations, {
    batchSize: evaluationBatchSize,
    signal: options.signal,
    onBatch: (batch) => options.onBatch(batch, planned),
  });
}

/** Those of some parameters that travel between the server and this client. */
export function sharedOf(strategy: Strategy, client: FederatedClient, values: Tensors): Tensors {
  return pick(values, (name) => strategy.isShared(name, taskOf(client)));
}

/** Those of some parameters that stay with this client. */
export function personalOf(strategy: Strategy, client: FederatedClient, values: Tensors): Tensors {
  return pick(values, (name) => strategy.isPersonal(name, taskOf(client)));
}

/** What the model holds while it is a client; `whole` adds the adapter_2 of strategies that have none. */
export function heldTensors(
  { gatedWith }: Strategy,
  shared: Tensors,
  own: ClientState,
  whole: boolean,
): Tensors {
  const held = { ...shared, ...own.personal };
  if (gatedWith === undefined && !whole) return held;
  for (const [name, value] of Object.entries(gatedWith === 'aggregate' ? shared : own.received)) {
    const copy = otherAdapter(name, 'adapter_1', 'adapter_2');
    if (copy !== name) held[copy] = value;
  }
  return held;
}

/**
 * Shared parameters that came from elsewhere have the names and lengths of those they replace.
 * @param source of the message, e.g. `aggregate of strategy feddat`
 */
export function requireSameTensors(made: Tensors, before: Tensors, source: string): Tensors {
  requireObject(made, `result of ${source}`);
  for (const name of new Set([...Object.keys(before), ...Object.keys(made)])) {
    const [expected, received] = [before[name]?.length, made[name]?.length];
    if (expected === received) continue;
    const count = (values: number | undefined) => (values === undefined ? 'none' : `${values} values`);
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected ${count(expected)} of ${name} from ${source} but received ${count(received)}`,
    );
  }
  return made;
}

/** Of values as they travel, fp32. */
export function byteLength(tensors: Tensors): number {
  return Object.values(tensors).reduce((sum, tensor) => sum + tensor.length * 4, 0);
}

function pick(values: Tensors, wanted: (name: string) => boolean): Tensors {
  return Object.fromEntries(Object.entries(values).filter(([name]) => wanted(name)));
}
