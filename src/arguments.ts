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
