/** Local training as a strategy. */

import { isAdapter, isHeadOf } from '../../models/names.js';
import type { Tensors } from '../../native/core.js';
import type { Evaluation, Strategy } from './strategy.js';

/** Local training only: every client trains its own adapter_0 and head, nothing travels. The lower reference. */
export class LocalOnly implements Strategy {
  readonly name = 'local';
  readonly settings = {};
  readonly training = { method: 'single', adapter: 'adapter_0' } as const;
  readonly pooled = false;
  readonly evaluations: readonly Evaluation[] = [{ name: 'local', mode: 'adapter_0' }];

  isPersonal(name: string, task: string): boolean {
    return isAdapter(name, 'adapter_0') || isHeadOf(name, task);
  }

  isShared(): boolean {
    return false;
  }

  async aggregate(previous: Tensors): Promise<Tensors> {
    return previous;
  }
}
