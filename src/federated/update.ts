/** An update beside what its client received: the same parameters, which codecs, clipping and noise go through together. */

import { requireObject } from '../arguments.js';
import { DuetError } from '../errors.js';
import type { Tensors } from '../native/core.js';

/**
 * Name, value and received value of every parameter, in the order received.
 * @throws DuetError INVALID_ARGUMENT unless both have the same names and lengths
 */
export function updatePairs(update: Tensors, received: Tensors): [string, Float32Array, Float32Array][] {
  requireObject(update, 'update');
  const strange = Object.keys(update).find(
    (name) => !Object.hasOwn(requireObject(received, 'received'), name),
  );
  if (strange !== undefined)
    throw new DuetError('INVALID_ARGUMENT', `Expected no ${strange} in an update: it was not received`);
  return Object.entries(requireObject(received, 'received')).map(([name, before]) => {
    const value = Object.hasOwn(update, name) ? update[name] : undefined;
    if (before instanceof Float32Array && value instanceof Float32Array && value.length === before.length)
      return [name, value, before];
    const count = (values: unknown) => (values instanceof Float32Array ? `${values.length} values` : 'none');
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected ${count(before)} of ${name}, as received, but the update has ${count(value)}`,
    );
  });
}
