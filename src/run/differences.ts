/** Where two settings differ, as words: `rounds was 30 and is 40`. */

import { shown } from '../errors.js';

export function differences(before: unknown, now: unknown, path = ''): string[] {
  if (Object.is(before, now)) return [];
  if (isRecord(before) && isRecord(now) && Array.isArray(before) === Array.isArray(now)) {
    const keys = new Set([...Object.keys(before), ...Object.keys(now)]);
    return [...keys].flatMap((key) => differences(before[key], now[key], path ? `${path}.${key}` : key));
  }
  return [`${path} was ${shown(before)} and is ${shown(now)}`];
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}
