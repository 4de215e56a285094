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

/** At most so many at a time, and so many of each owner; the others wait in line. */
export class Slots {
  #free: number;
  readonly #each: number;
  readonly #held = new Map<string, number>();
  readonly #line: { owner: string; start: () => void }[] = [];

  constructor(count: number, each = count) {
    this.#free = count;
    this.#each = each;
  }

  async run<T>(work: () => Promise<T>, owner = ''): Promise<T> {
    if (this.#free > 0 && this.#mayStart(owner)) this.#change(owner, 1);
    else await new Promise<void>((start) => this.#line.push({ owner, start }));
    try {
      return await work();
    } finally {
      this.#change(owner, -1);
      const place = this.#line.findIndex((one) => this.#mayStart(one.owner));
      const [next] = place < 0 ? [] : this.#line.splice(place, 1);
      if (next) this.#change(next.owner, 1);
      next?.start();
    }
  }

  #mayStart(owner: string): boolean {
    return (this.#held.get(owner) ?? 0) < this.#each;
  }

  #change(owner: string, count: 1 | -1): void {
    this.#free -= count;
    const held = (this.#held.get(owner) ?? 0) + count;
    if (held > 0) this.#held.set(owner, held);
    else this.#held.delete(owner);
  }
}
