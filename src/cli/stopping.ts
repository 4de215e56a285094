/** Ctrl-C in a command: what is said at the first one, and how to go on afterwards. */

import { DuetError } from '../errors.js';
import type { ProgressLine } from '../run/progress.js';
import { stopOnSignals } from '../run/stop.js';

/**
 * Runs `work` until it ends or Ctrl-C stops it.
 * @param kept says what is on the disk and how to continue; undefined when nothing is kept
 */
export async function untilStopped<T>(
  progress: ProgressLine,
  kept: () => string | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  using stop = stopOnSignals(() =>
    progress.note('Stopping after the current step (Ctrl-C again: at once) ...'),
  );
  try {
    return await work(stop.signal);
  } catch (error) {
    progress.clear();
    if (error instanceof DuetError && error.code === 'CANCELLED') {
      progress.note(`Stopped. ${kept() ?? 'Nothing was kept, for no run folder was given.'}`);
    }
    throw error;
  }
}

/** The command that was typed, with `--resume`. */
export function resumeCommand(argv: readonly string[] = process.argv.slice(2)): string {
  const words = argv.includes('--resume') ? argv : [...argv, '--resume'];
  return [
    'duet',
    ...words.map((word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)),
  ].join(' ');
}
