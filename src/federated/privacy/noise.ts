/**
 * Gaussian noise that hides what it is added to, the low bits included.
 *
 * Floating-point noise gives itself away: not every number can come from every value (Mironov, "On significance of the least
 * significant bits for differential privacy", CCS 2012; Jin et al., "Are We There Yet? Timing and Floating-Point Attacks on
 * Differential Privacy Systems", IEEE S&P 2022, arXiv 2112.05307, break Box and Muller's transform). Here value and noise are
 * whole steps of one grid, added as whole numbers (native/federated/update_noise.h).
 */

import { randomFill } from 'node:crypto';
import { promisify } from 'node:util';
import { Random } from '../../data/random.js';
import type { Tensors } from '../../native/core.js';
import { native } from '../../native.js';
import { updatePairs } from '../update.js';

/** Uniform bytes. */
export type ByteSource = (count: number) => Promise<Uint8Array>;

const fill = promisify<Uint8Array, Uint8Array>(randomFill);

/** The system's cryptographically secure generator. */
export const secureBytes: ByteSource = (count) => fill(new Uint8Array(count));

/** For tests: who knows the seed can take the noise off. */
export function seededBytes(seed: number, stream: number): ByteSource {
  const random = new Random(seed, stream);
  return async (count) => new Uint8Array(Uint32Array.from({ length: count / 4 }, () => random.word()).buffer);
}

/** Steps of a grid in a standard deviation: 2^16 to 2^17. */
const STEPS = 2 ** 16;

/**
 * received + factor * (update - received) + noise of the given standard deviation on every value. With noise the scaled
 * difference is cut off towards zero to a grid of 2^-17 to 2^-16 deviations, which lowers its norm.
 * @param deviation 0: no noise and no grid
 */
export async function noisyUpdate(
  update: Tensors,
  received: Tensors,
  factor: number,
  deviation: number,
  bytes: ByteSource,
): Promise<Tensors> {
  const grid = deviation > 0 ? 2 ** Math.floor(Math.log2(deviation / STEPS)) : 0;
  const steps = grid > 0 ? deviation / grid : 0;
  const made: [string, Float32Array][] = [];
  for (const [name, value, before] of updatePairs(update, received)) {
    const random = await bytes(grid > 0 ? 16 * Math.ceil(value.length / 2) : 0);
    made.push([name, await native.noisyUpdate(value, before, random, factor, grid, steps)]);
  }
  return Object.fromEntries(made);
}
