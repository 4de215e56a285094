/** What was left out of a data set, and why. */

/** Why a question is left out of a data set. */
export type SkipReason =
  /** No object, no integer question_id or image_id, no text, or the id was there before. */
  | 'malformed question'
  /** No object; a question it was meant for is counted of its own. */
  | 'malformed annotation'
  /** No annotation with answers for the question, or one whose list of answers is damaged. */
  | 'no annotation'
  /** The picture of the question is not among the files. */
  | 'missing picture'
  /** The picture is damaged, cut short, or too large. */
  | 'corrupt picture'
  /** Training only: none of the answers is in the answer vocabulary. */
  | 'no known answer'
  /** A list of question ids names one that is not in the data set. */
  | 'unknown question';

/** What is used of a data set and what was left out, in plain data, for logs and run folders. */
export interface DatasetCounts {
  /** Of the data set. */
  name: string;
  /** Questions that were asked for. */
  questions: number;
  /** Questions that are used. */
  kept: number;
  /** Of those, the ones none of whose answers is in the answer vocabulary: an evaluation counts them as wrong. */
  unanswerable?: number;
  /** Questions left out, by reason. */
  skipped: Partial<Record<SkipReason, number>>;
  /** Up to three messages a reason. */
  examples: string[];
}

const EXAMPLES_PER_REASON = 3;

/**
 * What was left out of a data set, and why. A single bad sample costs itself, not the run: it is skipped, counted
 * here by reason, and shown with a few examples. Each question (or sticker, with reasons of its own) is counted once,
 * however often it is met.
 */
export class SkipReport<Reason extends string = SkipReason> {
  readonly #reasons = new Map<number | string, { reason: Reason; message: string }>();

  /** Notes that a question is skipped; the first reason of a question stays. */
  note(question: number | string, reason: Reason, message: string): void {
    if (!this.#reasons.has(question)) this.#reasons.set(question, { reason, message });
  }

  /** Takes over the entries of `other` for the questions that `wanted` accepts. */
  include(other: SkipReport<Reason>, wanted: (question: number | string) => boolean = () => true): void {
    for (const [question, entry] of other.#reasons) {
      if (wanted(question)) this.note(question, entry.reason, entry.message);
    }
  }

  /** Whether a question is left out. */
  has(question: number | string): boolean {
    return this.#reasons.has(question);
  }

  /** These entries alone as the counts of a data set that keeps nothing. */
  asCounts(name: string): Omit<DatasetCounts, 'skipped'> & { skipped: Partial<Record<Reason, number>> } {
    const { counts, examples } = this;
    const annotations = (counts as Partial<Record<string, number>>)['malformed annotation'] ?? 0;
    return { name, questions: this.size - annotations, kept: 0, skipped: counts, examples };
  }

  /** Questions left out. */
  get size(): number {
    return this.#reasons.size;
  }

  /** By reason. */
  get counts(): Partial<Record<Reason, number>> {
    const counts: Partial<Record<Reason, number>> = {};
    for (const { reason } of this.#reasons.values()) counts[reason] = (counts[reason] ?? 0) + 1;
    return counts;
  }

  /** Up to three messages a reason. */
  get examples(): string[] {
    const shown: Partial<Record<Reason, number>> = {};
    const examples: string[] = [];
    for (const { reason, message } of this.#reasons.values()) {
      const count = (shown[reason] ?? 0) + 1;
      shown[reason] = count;
      if (count <= EXAMPLES_PER_REASON) examples.push(`${reason}: ${message}`);
    }
    return examples;
  }

  /** E.g. `3 skipped (2 missing picture, 1 no annotation)`; empty when nothing was skipped. */
  toString(): string {
    if (this.size === 0) return '';
    const parts = Object.entries(this.counts).map(([reason, count]) => `${count} ${reason}`);
    return `${this.size} skipped (${parts.join(', ')})`;
  }
}
