/** The error of damaged or hostile bytes, in the wording of the package. */

import { DuetError, messageOf, shown } from '../../errors.js';

export function corrupt(expected: string, name: string, received: unknown): DuetError {
  return new DuetError('CORRUPT', `Expected ${expected} for ${name} but received ${shown(received)}`);
}

/** Runs a parser; whatever it throws becomes CORRUPT and says that `what` was being read. */
export function readingOf<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof DuetError) throw error;
    throw new DuetError('CORRUPT', `Cannot read ${what}: ${messageOf(error)}`, { cause: error });
  }
}
