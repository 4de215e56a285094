/**
 * Ctrl-C: the first one asks a run to stop after the current step, the second one ends the process at once. SIGTERM (a batch
 * system's friendly end) counts as the first.
 */

import { DuetError } from '../errors.js';

/** What a shell expects of a process ended by Ctrl-C. */
export const EXIT_STOPPED = 130;

export interface Stop extends Disposable {
  readonly signal: AbortSignal;
}

/** @param onStop called at the first signal, e.g. to say what is going on */
export function stopOnSignals(onStop: (signal: NodeJS.Signals) => void = () => {}): Stop {
  const controller = new AbortController();
  const listener = (signal: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(EXIT_STOPPED);
    onStop(signal);
    controller.abort(new DuetError('CANCELLED', `The run was stopped by ${signal}`));
  };
  process.on('SIGINT', listener);
  process.on('SIGTERM', listener);
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      process.off('SIGINT', listener);
      process.off('SIGTERM', listener);
    },
  };
}
