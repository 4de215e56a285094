/**
 * The new shared parameters from updates that lie on the disk. Strategies whose aggregate is the weighted mean read one update at a
 * time: acc += value * (n_c / n) in the order of the clients, in fp32 from 0, the same bits as `weightedMean`. Any other strategy is
 * given all updates at once.
 */

import { DuetError } from '../../errors.js';
import type { Tensors } from '../../native/core.js';
import { native } from '../../native.js';
import { FedAvg } from '../strategies/fedavg.js';
import { FedDat } from '../strategies/feddat.js';
import type { Strategy, Weighting } from '../strategies/strategy.js';
import type { SpooledUpdate } from './open-round.js';

/** The weights of a strategy's mean; undefined for a strategy with an aggregate of its own. */
export function weightingOf(strategy: Strategy): Weighting | undefined {
  const { aggregate } = strategy;
  if (aggregate !== FedAvg.prototype.aggregate && aggregate !== FedDat.prototype.aggregate) return undefined;
  return (strategy as FedAvg | FedDat).settings.weights;
}

/** @param read the parameters of an update, which are let go of before the next one is read */
export async function aggregateSpooled(
  strategy: Strategy,
  previous: Tensors,
  updates: readonly SpooledUpdate[],
  read: (update: SpooledUpdate) => Promise<Tensors>,
): Promise<Tensors> {
  const weighting = weightingOf(strategy);
  if (weighting === undefined) {
    const all = [];
    for (const update of updates) {
      const { client, samples } = update;
      all.push({ client, samples, shared: await read(update) });
    }
    return sameNames(await strategy.aggregate(previous, all), previous, strategy);
  }
  const countOf = ({ samples }: SpooledUpdate) => (weighting === 'uniform' ? 1 : samples);
  const names = Object.keys(previous);
  const totals = new Map(
    names.map((name) => {
      const senders = updates.filter(({ task }) => strategy.isShared(name, task));
      return [name, senders.reduce((sum, update) => sum + countOf(update), 0)];
    }),
  );
  const sums: Tensors = {};
  for (const name of names) {
    const values = previous[name] as Float32Array;
    sums[name] = totals.get(name) === 0 ? values : new Float32Array(values.length);
  }
  for (const update of updates) {
    for (const [name, values] of Object.entries(await read(update))) {
      const weight = countOf(update) / (totals.get(name) as number);
      await native.accumulate(sums[name] as Float32Array, values, weight);
    }
  }
  return sums;
}

function sameNames(made: Tensors, before: Tensors, { name: strategy }: Strategy): Tensors {
  for (const name of new Set([...Object.keys(before), ...Object.keys(made)])) {
    const [expected, received] = [before[name]?.length, made[name]?.length];
    if (expected === received) continue;
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected ${expected ?? 'no'} values of ${name} from aggregate of strategy ${strategy} but received ${received ?? 'none'}`,
    );
  }
  return made;
}
