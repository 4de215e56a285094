/** What a site does to its update before anybody sees it: a bound on its norm, Gaussian noise, and an account of both. */

import { z } from 'zod';
import { DuetError } from '../../errors.js';
import type { Tensors } from '../../native/core.js';
import { parseJson, readIfThere, writeAtomic } from '../../run/files.js';
import { validated } from '../../validation.js';
import { Accountant, type LedgerEntry, ledgerSchema, type PrivacySpent } from './accountant.js';
import { clipFactor, updateNorm } from './clip.js';
import { noisyUpdate, secureBytes, seededBytes } from './noise.js';

/** Changes an update before anybody sees it. */
export interface UpdateTransform {
  /**
   * The update as it may be sent.
   * @param received the shared parameters the update was trained from
   */
  apply(update: Tensors, received: Tensors, task: { round: number; id: string }): Promise<Tensors>;
}

/** Options of `Protection`. */
export interface ProtectionOptions {
  /** C: update - received, over all shared parameters together, is scaled down to this Euclidean norm. 1e-9 to 1e9. */
  clip: number;
  /** Standard deviation of the noise on every value as a multiple of C; 0, or 1e-6 to 1e6. Default 0: clipping alone. */
  noise?: number;
  /** delta of what is said to be spent. Default 1e-5. */
  delta?: number;
  /**
   * What may differ unnoticed. `replace` (default): the site's whole data, for any other data; an update then moves by 2 C at most.
   * `remove`: whether the site has trained at all, or sends an update of zero; it moves by C.
   */
  neighbours?: 'replace' | 'remove';
  /** The site refuses to send an update with which it would have spent more. Default: no limit. */
  epsilon?: number;
  /** File that keeps what was spent, over runs and crashes. Default: it is kept in memory, and by whoever stores `ledger`. */
  ledger?: string;
  /** For tests: noise by this seed instead of the system's secure generator. Who knows it can take the noise off. */
  seed?: number;
}

const schema = z
  .strictObject({
    clip: z.number().min(1e-9).max(1e9),
    noise: z
      .number()
      .min(0)
      .max(1e6)
      .refine((noise) => noise === 0 || noise >= 1e-6, { error: 'Expected 0 or number of at least 0.000001' })
      .default(0),
    delta: z.number().gt(0).lt(1).default(1e-5),
    neighbours: z.enum(['replace', 'remove']).default('replace'),
    epsilon: z.number().gt(0).optional(),
    ledger: z.string().min(1).optional(),
    seed: z.int().min(0).optional(),
  })
  .refine(({ noise, epsilon }) => epsilon === undefined || noise > 0, {
    path: ['epsilon'],
    error: 'Expected no limit without noise',
  });

const fileSchema = z.strictObject({ format: z.literal('duet-privacy-1'), ledger: ledgerSchema });

/** Of the last update, and what all have spent. For the site's own eyes: norm and clipped are not protected. */
export interface ProtectionReport {
  /** Of update - received, before clipping. */
  norm: number;
  /** Whether it was scaled down. */
  clipped: boolean;
  /** With noise. */
  spent?: PrivacySpent;
}

/**
 * Clips an update and adds Gaussian noise: the Gaussian mechanism on what one site sends, which the server need not be trusted with.
 *
 * ```ts
 * const protection = new Protection({ clip: 1, noise: 8, delta: 1e-6, epsilon: 10, ledger: 'site/privacy.json' });
 * ```
 *
 * What is spent is counted, and written to the ledger, before an update exists: a crash loses updates, never their cost. Sampling of
 * clients makes nothing cheaper here, since the server knows who took part. Clipping by the norm of all parameters: McMahan et al.,
 * "Learning Differentially Private Recurrent Language Models", arXiv 1710.06963.
 */
export class Protection implements UpdateTransform {
  /** The options with all defaults. */
  readonly settings: z.output<typeof schema>;
  #accountant = new Accountant();
  #opened = false;
  #turn: Promise<unknown> = Promise.resolve();
  #report: ProtectionReport | undefined;

  /** @throws DuetError INVALID_ARGUMENT for options that cannot work */
  constructor(options: ProtectionOptions) {
    this.settings = validated(schema, options, 'Protection');
  }

  /** What was sent so far, as JSON: state for a checkpoint. */
  get ledger(): Required<LedgerEntry>[] {
    return this.#accountant.ledger;
  }

  /**
   * Counts what was sent before, from `ledger` of a checkpoint, instead of what is known here.
   * @throws DuetError INVALID_ARGUMENT when a file keeps it
   */
  restore(ledger: readonly LedgerEntry[]): void {
    const file = this.settings.ledger;
    if (file !== undefined)
      throw new DuetError('INVALID_ARGUMENT', `Expected no ledger to restore: ${file} says what was sent`);
    this.#accountant = new Accountant(ledger);
  }

  /** Spent so far; undefined without noise, which promises nothing. */
  get spent(): PrivacySpent | undefined {
    return this.settings.noise > 0 ? this.#accountant.spent(this.settings.delta) : undefined;
  }

  /** Undefined before the first update. */
  get report(): ProtectionReport | undefined {
    return this.#report;
  }

  /**
   * Reads the ledger and makes sure that another update may be sent; for sites that would rather not train in vain.
   * @throws DuetError BUDGET_SPENT when it would cost more than `epsilon`; CORRUPT for a ledger that is none
   */
  requireBudget(): Promise<void> {
    return this.#next(async () => {
      await this.#open();
      this.#requireBudget();
    });
  }

  /**
   * The update as it may be sent.
   * @throws DuetError BUDGET_SPENT when it would cost more than `epsilon`; NOT_FINITE for an update that is not finite; IO and
   *   DISK_FULL when the ledger cannot be written
   */
  apply(update: Tensors, received: Tensors): Promise<Tensors> {
    return this.#next(async () => {
      await this.#open();
      const { clip, noise, seed } = this.settings;
      const norm = await updateNorm(update, received);
      const factor = clipFactor(norm, clip);
      await this.#spend();
      const bytes = seed === undefined ? secureBytes : seededBytes(seed, this.#accountant.releases);
      const same = noise === 0 && factor === 1;
      const sent = same ? update : await noisyUpdate(update, received, factor, noise * clip, bytes);
      const { spent } = this;
      this.#report = { norm, clipped: factor < 1, ...(spent && { spent }) };
      return sent;
    });
  }

  /** One after the other: no two updates are paid for by the same rest of the budget. */
  #next<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work);
    this.#turn = done.catch(() => {});
    return done;
  }

  /** One more release; counted although it may fail later. */
  async #spend(): Promise<void> {
    this.#requireBudget();
    if (this.settings.noise === 0) return;
    this.#accountant.add(this.#release);
    const { ledger } = this.settings;
    if (ledger === undefined) return;
    const content = { format: 'duet-privacy-1', ledger: this.ledger };
    await writeAtomic(ledger, `${JSON.stringify(content, null, 1)}\n`);
  }

  get #release(): LedgerEntry {
    const { noise, neighbours } = this.settings;
    return { noiseMultiplier: neighbours === 'replace' ? noise / 2 : noise };
  }

  #requireBudget(): void {
    const { epsilon, delta } = this.settings;
    if (epsilon === undefined) return;
    const next = new Accountant(this.ledger);
    next.add(this.#release);
    const needed = next.spent(delta).epsilon;
    if (needed <= epsilon) return;
    const spent = this.#accountant.spent(delta).epsilon;
    throw new DuetError(
      'BUDGET_SPENT',
      `Expected at most epsilon ${epsilon} at delta ${delta} but another update would make it ${needed.toPrecision(4)} ` +
        `(${spent.toPrecision(4)} are spent by ${this.#accountant.releases}); nothing more is sent`,
    );
  }

  async #open(): Promise<void> {
    const { ledger } = this.settings;
    if (ledger === undefined || this.#opened) return;
    const text = await readIfThere(ledger);
    if (text !== undefined) {
      const content = validated(fileSchema, parseJson(text, ledger), `privacy ledger ${ledger}`, 'CORRUPT');
      this.#accountant = new Accountant(content.ledger);
    }
    this.#opened = true;
  }
}
