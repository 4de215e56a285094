/** Centralised training as a strategy. */

import { isAdapter, isHeadOf } from '../../models/names.js';
import type { Tensors } from '../../native/core.js';
import type { Evaluation, Strategy } from './strategy.js';

/**
 * Centralised training: one adapter and head on the data of all clients together, with one optimizer and one schedule
 * over the whole run. Not federated at all; the upper reference.
 */
export class Centralised implements Strategy {
  readonly name = 'centralised';
  readonly settings = {};
  readonly training = { method: 'single', adapter: 'adapter_1' } as const;
  readonly pooled = true;
  readonly evaluations: readonly Evaluation[] = [{ name: 'shared', mode: 'adapter_1' }];

  isPersonal(name: string, task: string): boolean {
    return isAdapter(name, 'adapter_1') || isHeadOf(name, task);
  }

  isShared(): boolean {
    return false;
  }

  async aggregate(previous: Tensors): Promise<Tensors> {
    return previous;
  }
}
