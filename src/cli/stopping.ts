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
  return shellCommand('duet', argv.includes('--resume') ? argv : [...argv, '--resume']);
}

/** The command that was typed, for one that continues by itself; `script` is the npm script it was started by, if any. */
export function againCommand(
  argv: readonly string[] = process.argv.slice(2),
  script: string | undefined = process.env.npm_lifecycle_event,
): string {
  const [name = '', ...words] = argv;
  if (script !== name) return shellCommand('duet', argv);
  return shellCommand(`npm run ${name}`, words.length > 0 ? ['--', ...words] : []);
}

/** A command line for a shell: words that need it are quoted. */
export function shellCommand(command: string, words: readonly string[]): string {
  const quoted = words.map((word) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`,
  );
  return [command, ...quoted].join(' ');
}
