/** The learning-rate schedule of one local training; `Schedule` says how it is laid out. */

import { z } from 'zod';
import type { ScheduleOptions } from '../native/core.js';

export const scheduleSchema = z.strictObject({
  /** After the warm-up. Default linear. */
  kind: z.enum(['linear', 'constant', 'cosine']).default('linear'),
  /** Epochs a round's schedule is laid out for. Default 15. */
  nominalEpochs: z.number().gt(0).default(15),
  /** Share of the updates that warm up from 0. Default 0.1. */
  warmup: z.number().min(0).max(1).default(0.1),
});

/**
 * The learning-rate schedule of one local training.
 *
 * As published, it starts anew in every round and is laid out for a nominal number of epochs (15) whatever the number
 * of local epochs: max_steps = batches * nominalEpochs, of which the first tenth warms up, then linear decay to 0. It
 * advances once per update; FedDAT makes two updates a batch. The very first update has learning rate 0.
 * @interface
 */
export type Schedule = z.output<typeof scheduleSchema>;

/** @param batches in one pass over the data */
export function scheduleFor(batches: number, schedule: Schedule): ScheduleOptions {
  return laidOut(Math.max(1, Math.floor(batches * schedule.nominalEpochs)), schedule);
}

/** A schedule over a known number of updates. */
export function laidOut(maxSteps: number, schedule: Schedule): ScheduleOptions {
  // The guard against 0.1 * 30 = 3.0000000000000004 and the like is not needed: floor() is what was published.
  return { kind: schedule.kind, warmupSteps: Math.floor(schedule.warmup * maxSteps), maxSteps };
}
