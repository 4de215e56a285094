/**
 * Checks of arguments at the public surface. A wrong one is INVALID_ARGUMENT in the wording of the package: what was expected for
 * which argument, what came, and how to mend it where that is not plain. Objects of settings are checked by schemas (validation.ts).
 * Every check returns the argument.
 */

import { DuetError, shown } from './errors.js';

/** The error of a wrong argument. */
export function invalid(expected: string, name: string, received: unknown, mend?: string): DuetError {
  const message = `Expected ${expected} for ${name} but received ${shown(received)}`;
  return new DuetError('INVALID_ARGUMENT', mend === undefined ? message : `${message}; ${mend}`);
}

/** @param mend what text, where that is not plain */
export function requireText(value: unknown, name: string, mend?: string): string {
  if (typeof value !== 'string') throw invalid('text', name, value, mend);
  return value;
}

export function requireNumber(value: unknown, name: string): number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw invalid('number', name, value);
  return value;
}

export function requireInteger(
  value: unknown,
  name: string,
  least: number,
  most = Number.MAX_SAFE_INTEGER,
): number {
  if (Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most)
    return value as number;
  const range = most === Number.MAX_SAFE_INTEGER ? `of at least ${least}` : `between ${least} and ${most}`;
  throw invalid(`integer ${range}`, name, value);
}

export function requireBoolean(value: unknown, name: string): boolean {
  if (typeof value !== 'boolean') throw invalid('true or false', name, value);
  return value;
}

export function requireFunction<T>(value: T, name: string): T {
  if (typeof value !== 'function') throw invalid('function', name, value);
  return value;
}

/** Settings or another object that is no list. */
export function requireObject<T>(value: T, name: string, mend?: string): T {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid('object', name, value, mend);
  return value;
}

/** @param entry checks each element */
export function requireList<T extends Iterable<unknown>>(
  value: T,
  name: string,
  entry?: (value: unknown, name: string) => unknown,
): T {
  if (!Array.isArray(value)) throw invalid('list', name, value);
  if (entry) for (const [index, one] of value.entries()) entry(one, `${name}[${index}]`);
  return value;
}

/** Anything that can be gone through, except a text. */
export function requireIterable<T extends Iterable<unknown>>(value: T, name: string): T {
  if (typeof value !== 'object' || typeof value?.[Symbol.iterator] !== 'function')
    throw invalid('list', name, value);
  return value;
}

/** @param mend how to come by one */
export function requireInstance<T>(
  value: T,
  kind: { readonly name: string; readonly prototype: object },
  name: string,
  mend?: string,
): T {
  if (!(value instanceof (kind as never))) throw invalid(kind.name, name, value, mend);
  return value;
}

/**
 * An object of options that may have these keys and no others.
 * @param known all of them, e.g. `{ size: true } satisfies Record<keyof Options, true>`
 */
export function requireKnown<T extends object>(
  value: T,
  name: string,
  known: Readonly<Record<string, unknown>>,
): T {
  const names = Object.keys(known);
  const strange = Object.keys(requireObject(value, name)).filter((key) => !names.includes(key));
  if (strange.length === 0) return value;
  throw new DuetError('INVALID_ARGUMENT', `${unknownKeys(strange, names)} (in ${name})`);
}

/** Words for keys that nobody asked for, with the known one each was perhaps meant to be. */
export function unknownKeys(keys: readonly string[], known: readonly string[], path = ''): string {
  const shownKeys = keys.map((key) => {
    const near = nearestWord(key, known);
    return `${path}${key}${near === undefined ? '' : ` (perhaps ${near})`}`;
  });
  const list = known.length === 0 ? '' : `; known are ${known.join(', ')}`;
  return `Expected only known settings but received ${shownKeys.join(', ')}${list}`;
}

/** The word with the fewest letters to change, if two fifths of them are enough. */
function nearestWord(word: string, words: readonly string[]): string | undefined {
  const ranked = words
    .map((other) => ({ other, changes: editDistance(word.toLowerCase(), other.toLowerCase()) }))
    .sort((a, b) => a.changes - b.changes);
  const [best] = ranked;
  return best && best.changes <= 0.4 * Math.max(word.length, best.other.length) ? best.other : undefined;
}

function editDistance(a: string, b: string): number {
  let above = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (const [row, letter] of [...a].entries()) {
    const here = [row + 1];
    for (let column = 0; column < b.length; column++) {
      const replaced = (above[column] as number) + Number(letter !== b[column]);
      here.push(Math.min(replaced, (above[column + 1] as number) + 1, (here[column] as number) + 1));
    }
    above = here;
  }
  return above[b.length] as number;
}
