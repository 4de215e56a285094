/** The norm of an update and the factor that bounds it: d * min(1, C / |d|) (McMahan et al., arXiv 1710.06963, flat clipping). */

import { DuetError } from '../../errors.js';
import type { Tensors } from '../../native/core.js';
import { native } from '../../native.js';
import { updatePairs } from '../update.js';

/** More than the rounding of a norm: what is scaled by `clipFactor` has at most the norm asked for, in real numbers too. */
const MARGIN = 1 - 2 ** -30;

/**
 * Euclidean norm of update - received over all parameters together.
 * @throws DuetError NOT_FINITE naming the first parameter whose values are not finite; INVALID_ARGUMENT for other names or lengths
 *   than received
 */
export async function updateNorm(update: Tensors, received: Tensors): Promise<number> {
  let norm = 0;
  for (const [name, value, before] of updatePairs(update, received)) {
    const distance = await native.distance(value, before);
    if (!Number.isFinite(distance))
      throw new DuetError('NOT_FINITE', `Expected finite numbers in the update of ${name}; it is not sent`);
    norm = Math.hypot(norm, distance);
  }
  return norm;
}

/** What an update - received of this norm is multiplied by to have at most the norm `bound`: 1 where it has. */
export function clipFactor(norm: number, bound: number): number {
  return norm <= bound * MARGIN ? 1 : (bound * MARGIN) / norm;
}
