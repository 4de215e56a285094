/**
 * The privacy (epsilon, delta) that releases with Gaussian noise have spent. Their Renyi divergences (renyi.ts) add up, order by
 * order, also when a release depends on those before it (Mironov, arXiv 1702.07476, proposition 1); the sum becomes an epsilon by
 * proposition 12 of Canonne, Kamath, Steinke, "The Discrete Gaussian for Differential Privacy", arXiv 2004.00010.
 */

import { z } from 'zod';
import { invalid, requireNumber } from '../../arguments.js';
import { validated } from '../../validation.js';
import { renyiDivergence } from './renyi.js';

const noiseMultiplier = z.number().gt(0);
const sampleRate = z.number().min(0).max(1).default(1);
const entrySchema = z.strictObject({ noiseMultiplier, sampleRate, releases: z.int().min(1).default(1) });

/** Schema of a ledger, for those who store one. */
export const ledgerSchema = z.array(entrySchema);

/** Equal releases. */
export interface LedgerEntry {
  /** Standard deviation of the noise over the sensitivity: the norm of what a neighbour changes. */
  noiseMultiplier: number;
  /** Probability with which each took part, unseen by whoever sees the release (Poisson sampling). Default 1. */
  sampleRate?: number;
  /** How many. Default 1. */
  releases?: number;
}

/** Orders of the divergence; the best one is taken. */
export const RENYI_ORDERS: readonly number[] = [
  1.01,
  1.03,
  ...Array.from({ length: 98 }, (_, index) => 1 + (index + 1) / 10),
  ...Array.from({ length: 53 }, (_, index) => 11 + index),
  ...[64, 80, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096],
];

/** What an `Accountant` says was spent. */
export interface PrivacySpent {
  /** An upper bound; Infinity where nothing better can be said. */
  epsilon: number;
  /** As asked for. */
  delta: number;
  /** Order of the divergence that gave it. */
  order: number;
  /** How many releases spent it. */
  releases: number;
}

/**
 * Adds up what releases have spent.
 *
 * ```ts
 * const accountant = new Accountant();
 * accountant.add({ noiseMultiplier: 4, releases: 30 });
 * accountant.spent(1e-5).epsilon; // 6.8
 * ```
 */
export class Accountant {
  readonly #ledger: Required<LedgerEntry>[] = [];
  /** Divergence of each entry by order. */
  readonly #divergences: number[][] = [];

  /** @param ledger of earlier releases, as `ledger` gave it */
  constructor(ledger: readonly LedgerEntry[] = []) {
    for (const entry of validated(ledgerSchema, ledger, 'ledger')) this.add(entry);
  }

  /** @throws DuetError INVALID_ARGUMENT for a noise multiplier that is not above 0, a rate outside 0 to 1 */
  add(entry: LedgerEntry): void {
    const added = validated(entrySchema, entry, 'releases');
    const same = this.#ledger.find(
      (other) => other.noiseMultiplier === added.noiseMultiplier && other.sampleRate === added.sampleRate,
    );
    if (same) {
      same.releases += added.releases;
      return;
    }
    this.#ledger.push(added);
    this.#divergences.push(
      RENYI_ORDERS.map((order) => renyiDivergence(added.noiseMultiplier, added.sampleRate, order)),
    );
  }

  /** All releases so far, equal ones together; JSON. */
  get ledger(): Required<LedgerEntry>[] {
    return this.#ledger.map((entry) => ({ ...entry }));
  }

  /** How many releases. */
  get releases(): number {
    return this.#ledger.reduce((sum, entry) => sum + entry.releases, 0);
  }

  /** The smallest epsilon over all orders; 0 before the first release. @param delta between 0 and 1 */
  spent(delta: number): PrivacySpent {
    if (!(requireNumber(delta, 'delta') > 0 && delta < 1))
      throw invalid('number between 0 and 1', 'delta', delta);
    const { releases } = this;
    let best: PrivacySpent = {
      epsilon: releases === 0 ? 0 : Number.POSITIVE_INFINITY,
      delta,
      order: 1,
      releases,
    };
    for (const [index, order] of RENYI_ORDERS.entries()) {
      const divergence = this.#ledger.reduce(
        (sum, { releases }, entry) => sum + releases * (this.#divergences[entry]?.[index] as number),
        0,
      );
      const epsilon = epsilonOf(divergence, order, delta);
      if (epsilon < best.epsilon) best = { epsilon, delta, order, releases };
    }
    return best;
  }
}

function epsilonOf(divergence: number, order: number, delta: number): number {
  return Math.max(0, divergence + Math.log1p(-1 / order) - Math.log(delta * order) / (order - 1));
}
