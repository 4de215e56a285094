/** Strategies by the names the command line uses. */

import { DuetError } from '../../errors.js';
import { Centralised } from './centralised.js';
import { FedAvg, type FedAvgOptions } from './fedavg.js';
import { FedDat, type FedDatOptions } from './feddat.js';
import { LocalOnly } from './local.js';
import type { Strategy } from './strategy.js';

export const STRATEGY_NAMES = ['feddat', 'fedavg', 'local', 'centralised'] as const;
export type StrategyName = (typeof STRATEGY_NAMES)[number];

/** @throws DuetError INVALID_ARGUMENT for an unknown name */
export function strategyByName(
  name: string,
  options: { feddat?: FedDatOptions; fedavg?: FedAvgOptions } = {},
): Strategy {
  switch (name) {
    case 'feddat':
      return new FedDat(options.feddat);
    case 'fedavg':
      return new FedAvg(options.fedavg);
    case 'local':
      return new LocalOnly();
    case 'centralised':
      return new Centralised();
    default:
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected one of ${STRATEGY_NAMES.join(', ')} for strategy but received "${name}"`,
      );
  }
}
