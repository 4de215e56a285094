/** FedAvg over one bottleneck adapter. */

import { z } from 'zod';
import { isAdapter, isHeadOf } from '../../models/names.js';
import type { Tensors } from '../../native/core.js';
import { validated } from '../../validation.js';
import {
  type ClientUpdate,
  type Evaluation,
  type Strategy,
  weightedMean,
  weightingSchema,
} from './strategy.js';

const schema = z.strictObject({ weights: weightingSchema, sharedHead: z.boolean().default(false) });

/** Options of `FedAvg`. */
export interface FedAvgOptions {
  /** Shares of the average: by sample count (default) or equal. */
  weights?: 'samples' | 'uniform';
  /** The head travels and is averaged too. Default false. */
  sharedHead?: boolean;
}

/**
 * FedAvg (McMahan et al., AISTATS 2017, arXiv 1602.05629) over one bottleneck adapter: adapter_1 trains, travels and
 * is averaged. The head stays with the client, as in the published FedDAT program, or travels too (`sharedHead`).
 */
export class FedAvg implements Strategy {
  readonly name = 'fedavg';
  readonly settings: z.output<typeof schema>;
  readonly training = { method: 'single', adapter: 'adapter_1' } as const;
  readonly pooled = false;
  readonly evaluations: readonly Evaluation[] = [{ name: 'shared', mode: 'adapter_1' }];

  /** @throws DuetError INVALID_ARGUMENT for options that cannot work */
  constructor(options: FedAvgOptions = {}) {
    this.settings = validated(schema, options, 'FedAvg');
  }

  isPersonal(name: string, task: string): boolean {
    return !this.settings.sharedHead && isHeadOf(name, task);
  }

  isShared(name: string, task: string): boolean {
    return isAdapter(name, 'adapter_1') || (this.settings.sharedHead && isHeadOf(name, task));
  }

  aggregate(previous: Tensors, updates: readonly ClientUpdate[]): Promise<Tensors> {
    return weightedMean(previous, updates, this.settings.weights);
  }
}
