/** What a site does for a server's rounds, whoever carries the messages. */

import type { Tensors } from '../../native/core.js';
import type { LocalReport } from '../client.js';
import type { Accuracies, Scored } from '../evaluation.js';

/** One request of a server. */
export interface RoundTask {
  /** Of this request alone: the same id asks for the same answer again. */
  id: string;
  /** From 1. */
  round: number;
  /** The shared parameters of this round; not to be written to. */
  shared: Tensors;
}

/** The answer to a training. */
export interface RoundUpdate {
  /** Training samples. */
  samples: number;
  /** The shared parameters as this site trained them. */
  shared: Tensors;
  /** Losses and other numbers for the server's metrics. */
  metrics: Record<string, number>;
}

/** The work of one participant. Both calls are made again with the same id when an answer was lost on its way. */
export interface RoundHandler {
  /** A local training from the server's shared parameters. */
  train(task: RoundTask, options: { signal: AbortSignal }): Promise<RoundUpdate>;
  /** Of a site without evaluation data: 0 samples. */
  evaluate(
    task: RoundTask,
    options: { signal: AbortSignal },
  ): Promise<{ samples: number; accuracy: Accuracies }>;
}

/** What of a site a handler needs. */
export interface SiteWork {
  /** See `Site.train`. */
  train(
    task: RoundTask,
    options: { signal: AbortSignal },
  ): Promise<{ samples: number; shared: Tensors; report: LocalReport }>;
  /** See `Site.evaluate`. */
  evaluate(task: RoundTask, options: { signal: AbortSignal }): Promise<Scored | undefined>;
}

/** A site as the handler of a server's rounds. */
export function handlerOf(site: SiteWork): RoundHandler {
  return {
    async train(task, options) {
      const { samples, shared, report } = await site.train(task, options);
      const { loss, losses, trainAccuracy, batches } = report;
      return { samples, shared, metrics: { ...losses, loss, trainAccuracy, batches } };
    },
    async evaluate(task, options) {
      const { samples, accuracy } = (await site.evaluate(task, options)) ?? { samples: 0, accuracy: {} };
      return { samples, accuracy };
    },
  };
}
