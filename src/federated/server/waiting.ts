/** Waiting for something to change, and taking turns. */

import { throwIfAborted } from '../../errors.js';

/** Wakes everyone who waits. */
export class Change {
  #resolve: () => void = () => {};
  #next: Promise<void> = this.#renewed();

  announce(): void {
    const resolve = this.#resolve;
    this.#next = this.#renewed();
    resolve();
  }

  /** Resolves at the next change, after `ms`, or when the signal is aborted. */
  async wait(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return;
    let timer: NodeJS.Timeout | undefined;
    let ended = () => {};
    const other = new Promise<void>((resolve) => {
      ended = resolve;
      // Longer times than a timer can count are waited for in parts.
      timer = setTimeout(resolve, Math.min(Math.max(0, ms), 2 ** 30));
      signal?.addEventListener('abort', ended, { once: true });
    });
    await Promise.race([this.#next, other]);
    clearTimeout(timer);
    signal?.removeEventListener('abort', ended);
  }

  /**
   * Waits until `done`.
   * @returns false when the time was over first
   * @throws DuetError CANCELLED when the signal is aborted
   */
  async until(done: () => boolean, ms: number, signal?: AbortSignal): Promise<boolean> {
    const end = performance.now() + ms;
    for (;;) {
      throwIfAborted(signal, 'The run');
      if (done()) return true;
      const left = end - performance.now();
      if (left <= 0) return false;
      await this.wait(left, signal);
    }
  }

  #renewed(): Promise<void> {
    return new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }
}

/** At most so many at a time; the others wait in line. */
export class Slots {
  #free: number;
  readonly #line: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((resolve) => this.#line.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#line.shift();
      if (next) next();
      else this.#free++;
    }
  }
}
