/** What a strategy decides; the round loop itself is in ../federation.ts. */

import { z } from 'zod';
import { requireInteger, requireList, requireObject } from '../../arguments.js';
import { DuetError } from '../../errors.js';
import type { Tensors } from '../../native/core.js';
import type { AdapterMode, TrainingOptions } from '../../native/federated.js';
import { native } from '../../native.js';
import { validated } from '../../validation.js';

/** How a client's share of the average is counted. */
export type Weighting = 'samples' | 'uniform';

/** Names of evaluations: the dual adapter, the client's own adapter alone, the shared adapter alone. */
export type EvaluationName = 'gated' | 'local' | 'shared';

/** One way to evaluate a client. */
export interface Evaluation {
  /** In reports. */
  name: EvaluationName;
  /** Adapters of the pass. */
  mode: AdapterMode;
}

/** What a client sends after its local training. */
export interface ClientUpdate {
  /** Name. */
  client: string;
  /** Training samples. */
  samples: number;
  /** Its parameters that travel, by name. */
  shared: Tensors;
}

/**
 * What a strategy decides: which parameters stay with a client, which travel, how a client trains, how the server
 * combines what it receives, and in which modes a client is evaluated. Your own strategy is an object of this shape
 * (examples/03-own-strategy.mjs).
 */
export interface Strategy {
  /** In reports and folders. */
  readonly name: string;
  /** Its settings, as they are stored with a run. */
  readonly settings: Readonly<Record<string, string | number | boolean>>;
  /** How a client's batches are trained on. */
  readonly training: Pick<TrainingOptions, 'method' | 'adapter' | 'temperature' | 'order' | 'clearGradients'>;
  /** The first one is what strategies are compared by. */
  readonly evaluations: readonly Evaluation[];
  /** One model is trained on the data of all clients together. */
  readonly pooled: boolean;
  /** Which shared adapter is adapter_2 in a gated evaluation; undefined where there is none. */
  readonly gatedWith?: 'received' | 'aggregate';
  /** Does this parameter stay with a client whose head is called `task`? */
  isPersonal(name: string, task: string): boolean;
  /** Does this parameter travel between server and a client whose head is called `task`? */
  isShared(name: string, task: string): boolean;
  /** The server's new shared parameters. Those nobody sent keep their `previous` values. */
  aggregate(previous: Tensors, updates: readonly ClientUpdate[]): Promise<Tensors>;
}

export const weightingSchema = z.enum(['samples', 'uniform']).default('samples');

/**
 * Weighted mean, parameter by parameter, over the clients that sent it: acc += value * (n_c / n), in client order,
 * fp32, from 0 (as published; the published program passes weights of 1 for everyone, which is 'uniform').
 * @param previous values of parameters that nobody sent
 * @throws DuetError INVALID_ARGUMENT when the samples of the senders sum to 0 or their values differ in length
 */
export async function weightedMean(
  previous: Tensors,
  updates: readonly ClientUpdate[],
  weighting: Weighting,
): Promise<Tensors> {
  requireObject(previous, 'previous');
  for (const { client, samples, shared } of requireList(updates, 'updates', requireObject)) {
    requireObject(shared, `shared of client ${client}`);
    requireInteger(samples, `samples of client ${client}`, 0);
  }
  const share = validated(weightingSchema, weighting, 'weightedMean');
  const names = new Set([
    ...Object.keys(previous),
    ...updates.flatMap((update) => Object.keys(update.shared)),
  ]);
  const means = [...names].map(async (name): Promise<[string, Float32Array]> => {
    const senders = updates.filter((update) => update.shared[name] !== undefined);
    const kept = previous[name];
    if (senders.length === 0 && kept) return [name, kept];
    const counts = senders.map((update) => (share === 'uniform' ? 1 : update.samples));
    const total = counts.reduce((sum, count) => sum + count, 0);
    if (!(total > 0)) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected samples to weight the average of ${name} by but received 0`,
      );
    }
    const sets = senders.map((update) => update.shared[name] as Float32Array);
    const weights = counts.map((count) => count / total);
    return [name, await native.weightedAverage(sets, weights)];
  });
  return Object.fromEntries(await Promise.all(means));
}
