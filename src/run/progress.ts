/**
 * Progress for a person: one line that is rewritten on a terminal, a plain line now and then elsewhere. Nothing is drawn more
 * often than ten times a second.
 */

import type { WriteStream } from 'node:tty';

export interface ProgressOptions {
  /** Default: standard error, so that results can be piped. */
  stream?: NodeJS.WritableStream & Partial<Pick<WriteStream, 'isTTY' | 'columns'>>;
  /** Least time between two plain lines off a terminal. */
  plainEveryMs?: number;
}

export class ProgressLine {
  readonly #stream: NonNullable<ProgressOptions['stream']>;
  readonly #plainEveryMs: number;
  #lastMs = Number.NEGATIVE_INFINITY;
  #shown = '';

  constructor(options: ProgressOptions = {}) {
    this.#stream = options.stream ?? process.stderr;
    this.#plainEveryMs = options.plainEveryMs ?? 20_000;
  }

  /** Shows what is going on now; most calls do nothing. */
  update(text: string): void {
    const nowMs = performance.now();
    if (nowMs - this.#lastMs < (this.#stream.isTTY ? 100 : this.#plainEveryMs)) return;
    // The first message off a terminal waits too: short work needs no line.
    if (!this.#stream.isTTY && this.#lastMs === Number.NEGATIVE_INFINITY) {
      this.#lastMs = nowMs;
      return;
    }
    this.#lastMs = nowMs;
    if (!this.#stream.isTTY) {
      this.#stream.write(`${text}\n`);
      return;
    }
    const width = Math.max(20, (this.#stream.columns || 80) - 1);
    const line = text.length > width ? `${text.slice(0, width - 3)}...` : text;
    this.#stream.write(`\r\u001b[2K${line}`);
    this.#shown = line;
  }

  /** Writes a line that stays. */
  note(text: string): void {
    this.clear();
    this.#stream.write(`${text}\n`);
  }

  /** Takes the rewritten line away. */
  clear(): void {
    if (this.#shown) this.#stream.write('\r\u001b[2K');
    this.#shown = '';
  }
}
