/** FedDAT as a strategy; the step itself is native/federated/feddat_step. */

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

const schema = z.strictObject({
  temperature: z.number().gt(0).default(3),
  weights: weightingSchema,
  gatedWith: z.enum(['received', 'aggregate']).default('received'),
  order: z.enum(['merged', 'published']).default('merged'),
  clearGradients: z.enum(['none', 'zero']).default('none'),
});

/** Options of `FedDat`. */
export interface FedDatOptions {
  /** T of the distillation; KL counts T squared. Default 3. */
  temperature?: number;
  /** Shares of the average: by sample count (default) or equal, as published. */
  weights?: 'samples' | 'uniform';
  /** adapter_2 of a gated evaluation: the adapter the client received (default) or the new average. */
  gatedWith?: 'received' | 'aggregate';
  /** Order of passes in a step: same numbers with less work (`merged`, default), or as published. */
  order?: 'merged' | 'published';
  /** `zero` keeps moving parameters by momentum in the other update, as old library versions did. Default `none`. */
  clearGradients?: 'none' | 'zero';
}

/**
 * FedDAT (Chen et al., "FedDAT: An Approach for Foundation Model Finetuning in Multi-Modal Heterogeneous Federated
 * Learning", AAAI 2024, arXiv 2308.12305), algorithm 1.
 *
 * A client's dual-adapter teacher is the mean of its own adapter_0 and adapter_2, a frozen copy of the shared adapter
 * it received. Teacher and shared adapter_1 teach each other on every batch. adapter_1 travels and is averaged;
 * adapter_0 and the head stay.
 *
 * Two things differ from the published program, both bugs there: weights are sample counts (`weights: 'uniform'` is
 * what it does), and evaluating never stops adapter_0 from training. A gated evaluation uses, as published, the
 * shared adapter the client received, not the new average (`gatedWith: 'aggregate'` for that).
 */
export class FedDat implements Strategy {
  readonly name = 'feddat';
  readonly settings: z.output<typeof schema>;
  readonly pooled = false;
  readonly evaluations: readonly Evaluation[] = [
    { name: 'gated', mode: 'gated' },
    { name: 'local', mode: 'adapter_0' },
    { name: 'shared', mode: 'adapter_1' },
  ];

  /** @throws DuetError INVALID_ARGUMENT for options that cannot work */
  constructor(options: FedDatOptions = {}) {
    this.settings = validated(schema, options, 'FedDat');
  }

  /** adapter_2 of a gated evaluation. */
  get gatedWith() {
    return this.settings.gatedWith;
  }

  /** What a local training is begun with. */
  get training() {
    const { temperature, order, clearGradients } = this.settings;
    return { method: 'feddat', temperature, order, clearGradients } as const;
  }

  isPersonal(name: string, task: string): boolean {
    return isAdapter(name, 'adapter_0') || isHeadOf(name, task);
  }

  isShared(name: string): boolean {
    return isAdapter(name, 'adapter_1');
  }

  aggregate(previous: Tensors, updates: readonly ClientUpdate[]): Promise<Tensors> {
    return weightedMean(previous, updates, this.settings.weights);
  }
}
