/** A client: its data, the name of its head, and its local training on the one model of the process. */

import { DuetError, messageOf, throwIfAborted } from '../errors.js';
import { DEFAULT_TASK, type Vilt } from '../models/vilt.js';
import type { StepResult, TrainingOptions } from '../native/federated.js';
import type { BatchSource } from './batch-source.js';

/** One participant of a federation: its data and the name of its head. */
export interface FederatedClient {
  /** Unique in a federation; used in messages, metrics and file names. */
  name: string;
  /** Head of the model this client trains; default `vqa`. */
  task?: string;
  /** What it trains on. */
  train: BatchSource;
  /** What it is evaluated on; absent: it is not evaluated. */
  evaluation?: BatchSource;
}

/** What a local training reports: sums over its batches are divided by their number, scores by samples. */
export interface LocalReport {
  /** Name. */
  client: string;
  /** Samples trained on, over all local epochs. */
  samples: number;
  /** Batches trained on, over all local epochs. */
  batches: number;
  /** What was minimised (FedDAT: L_1), mean over batches. */
  loss: number;
  /** FedDAT: bce1, kl1, loss1, bce0, kl0, loss0; otherwise bce. Means over batches. */
  losses: Record<string, number>;
  /** Target score at the highest logit before each update, mean over samples: 0 to 1. */
  trainAccuracy: number;
  /** Of the last update. */
  learningRate: number;
}

export interface LocalTraining {
  client: FederatedClient;
  round: number;
  epochs: number;
  batchSize: number;
  options: TrainingOptions;
  /** Continues a kept optimizer. */
  optimizerState?: Record<string, Float32Array> | undefined;
  /** Names the order of an epoch's samples. */
  order: (epoch: number) => { seed: number; stream: number };
  signal?: AbortSignal | undefined;
  onBatch?: ((batch: number, batches: number, loss: number) => void) | undefined;
}

export function taskOf(client: FederatedClient): string {
  return client.task ?? DEFAULT_TASK;
}

/**
 * Trains the model's current tensors on the client's data. Stops between two steps when the signal is aborted.
 * @throws DuetError NOT_FINITE naming client, round and batch when a loss is NaN or infinite
 */
export async function trainLocally(model: Vilt, training: LocalTraining): Promise<LocalReport> {
  const { client, epochs, batchSize, signal } = training;
  await model.startTraining(training.options);
  if (training.optimizerState) await model.setOptimizerState(training.optimizerState);
  const planned = epochs * client.train.batchCount(batchSize);
  const sums: Record<string, number> = {};
  let batches = 0;
  let samples = 0;
  let loss = 0;
  let correct = 0;
  let learningRate = 0;
  for (let epoch = 0; epoch < epochs; epoch++) {
    const source = client.train.batches({
      batchSize,
      order: training.order(epoch),
      ...(signal && { signal }),
    });
    for await (const batch of source) {
      throwIfAborted(signal, 'The training');
      const where = `client ${client.name}, round ${training.round}, batch ${batches + 1} of ${planned}`;
      const result = await finiteStep(() => model.step(batch), where);
      batches++;
      samples += batch.batch;
      loss += result.loss;
      correct += result.correct;
      learningRate = result.learningRates.at(-1) ?? learningRate;
      for (const [name, value] of partsOf(result)) sums[name] = (sums[name] ?? 0) + value;
      training.onBatch?.(batches, planned, result.loss);
    }
  }
  if (batches === 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected at least 1 training batch for client ${client.name} but received 0`,
    );
  }
  const losses = Object.fromEntries(Object.entries(sums).map(([name, sum]) => [name, sum / batches]));
  const trainAccuracy = correct / samples;
  return { client: client.name, samples, batches, loss: loss / batches, losses, trainAccuracy, learningRate };
}

/** One step whose losses are all finite numbers. */
export async function finiteStep(step: () => Promise<StepResult>, where: string): Promise<StepResult> {
  try {
    const result = await step();
    const bad = [['loss', result.loss] as const, ...partsOf(result)].find(
      ([, value]) => !Number.isFinite(value),
    );
    if (bad)
      throw new DuetError(
        'NOT_FINITE',
        `${bad[0]} is ${bad[1]}; lower the learning rate or look at this batch's data`,
      );
    return result;
  } catch (error) {
    if (!(error instanceof DuetError) || error.code !== 'NOT_FINITE') throw error;
    throw new DuetError('NOT_FINITE', `The loss is not finite at ${where}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function partsOf(result: StepResult): (readonly [string, number])[] {
  if (result.feddat) return Object.entries(result.feddat);
  return result.bce === undefined ? [] : [['bce', result.bce]];
}
