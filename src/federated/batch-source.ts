/** Where a client's batches come from. */

import { requireFunction, requireInteger, requireList, requireObject } from '../arguments.js';
import type { DatasetCounts, SkipReport } from '../data/report.js';
import { DuetError, throwIfAborted } from '../errors.js';
import type { ViltBatch } from '../native/federated.js';

/** A batch with what it is scored by. */
export interface LabelledBatch extends ViltBatch {
  /** [B * classes] soft scores */
  targets: Float32Array;
  /** One a sample, for accuracies by type. */
  questionTypes?: readonly string[];
}

/** How one pass goes over the samples. */
export interface BatchOptions {
  /** Samples in a batch; the last one may have fewer. */
  batchSize: number;
  /** Visit the samples in the random order that (seed, stream) names; absent: in their stored order. */
  order?: { seed: number; stream: number };
  /** Ends the pass with CANCELLED. */
  signal?: AbortSignal;
}

/**
 * Where a client's batches come from: the one thing a federation asks of data. `VqaSource` is the usual one;
 * `FixedBatches` holds batches in memory; any object of this shape will do.
 */
export interface BatchSource {
  /** Samples. */
  readonly size: number;
  /** Names the content, so that a run is not resumed on other data. */
  readonly fingerprint?: string;
  /** What is used and what had to be left out, as far as it is known by now. */
  readonly report?: DatasetCounts;
  /** Bad entries of the files behind this and other sources that belong to none of them. */
  readonly unassigned?: SkipReport;
  /** Batches in one pass over the samples. */
  batchCount(batchSize: number): number;
  /** One pass over the samples. */
  batches(options: BatchOptions): AsyncIterable<LabelledBatch>;
  /** This source and others as one, whose batches mix their samples. */
  join?(others: readonly BatchSource[]): BatchSource;
}

/** @throws DuetError INVALID_ARGUMENT for anything but a source of batches */
export function requireSource(source: BatchSource, name: string): BatchSource {
  const { size, batchCount, batches } = requireObject(source, name);
  requireInteger(size, `size of ${name}`, 0);
  for (const [part, call] of Object.entries({ batchCount, batches }))
    requireFunction(call, `${part} of ${name}`);
  return source;
}

/** Ready batches, given out as they are and in their own order. */
export class FixedBatches implements BatchSource {
  readonly size: number;
  readonly #batches: readonly LabelledBatch[];

  /** @throws DuetError INVALID_ARGUMENT for an empty list */
  constructor(batches: readonly LabelledBatch[]) {
    if (requireList(batches, 'batches', requireObject).length === 0) {
      throw new DuetError('INVALID_ARGUMENT', 'Expected at least 1 batch but received 0');
    }
    this.#batches = batches;
    this.size = batches.reduce((sum, { batch }) => sum + requireInteger(batch, 'batch of a batch', 1), 0);
  }

  batchCount(): number {
    return this.#batches.length;
  }

  async *batches(options: BatchOptions): AsyncGenerator<LabelledBatch> {
    const { signal } = requireObject(options, 'options');
    for (const batch of this.#batches) {
      throwIfAborted(signal);
      yield batch;
    }
  }

  join(others: readonly BatchSource[]): BatchSource {
    const batches = requireList(others, 'others').map((other) => {
      if (!(other instanceof FixedBatches)) {
        throw new DuetError('INVALID_ARGUMENT', 'Expected batch sources of one kind to join');
      }
      return other.#batches;
    });
    return new FixedBatches([...this.#batches, ...batches.flat()]);
  }
}
