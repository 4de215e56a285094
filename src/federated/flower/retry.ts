/** Trying again: waits that double and are spread at random, so that many nodes do not come back at once. */

import { setTimeout as sleepFor } from 'node:timers/promises';
import { DuetError, throwIfAborted } from '../../errors.js';

/** How long to wait before trying again. */
export interface Backoff {
  /** Seconds before the second try, at most; default 1. */
  firstSeconds?: number;
  /** Default 20. */
  mostSeconds?: number;
}

/** Seconds to wait after `failures` tries: between half and all of a time that doubles. */
export function backoffSeconds(
  failures: number,
  { firstSeconds = 1, mostSeconds = 20 }: Backoff = {},
): number {
  return Math.min(mostSeconds, firstSeconds * 2 ** Math.min(failures - 1, 30)) * (0.5 + Math.random() / 2);
}

/** @throws DuetError CANCELLED as soon as the signal is aborted */
export async function sleep(seconds: number, signal: AbortSignal | undefined): Promise<void> {
  throwIfAborted(signal, 'Waiting');
  try {
    await sleepFor(seconds * 1000, undefined, signal && { signal });
  } catch (error) {
    throw new DuetError('CANCELLED', 'Waiting was cancelled', { cause: error });
  }
}
