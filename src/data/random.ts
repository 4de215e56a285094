/** Philox 4x32-10 in TypeScript, the same counter-based generator as `native/core/philox.h`. */

import { requireInteger, requireList, requireNumber } from '../arguments.js';

const MULTIPLIER_0 = 0xd2511f53;
const MULTIPLIER_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;
const TWO_32 = 2 ** 32;

/** Upper 32 bits of the product of two unsigned 32-bit words. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + Math.floor((aLow * bLow) / 65536);
  return (
    (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(((middle % 65536) + aLow * bHigh) / 65536)) >>> 0
  );
}

/**
 * One block: four unsigned 32-bit words for a 128-bit counter and a 64-bit key, least significant word first.
 * Exposed for tests against the published vectors.
 */
export function philox4x32(
  counter: readonly [number, number, number, number],
  key: readonly [number, number],
): [number, number, number, number] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(MULTIPLIER_0, c0);
    const low0 = Math.imul(MULTIPLIER_0, c0) >>> 0;
    const high1 = multiplyHigh(MULTIPLIER_1, c2);
    const low1 = Math.imul(MULTIPLIER_1, c2) >>> 0;
    [c0, c1, c2, c3] = [(high1 ^ c1 ^ k0) >>> 0, low1, (high0 ^ c3 ^ k1) >>> 0, low0];
    k0 = (k0 + WEYL_0) >>> 0;
    k1 = (k1 + WEYL_1) >>> 0;
  }
  return [c0, c1, c2, c3];
}

function halves(name: string, value: number): [number, number] {
  requireInteger(value, name, 0);
  return [value % TWO_32, Math.floor(value / TWO_32)];
}

/**
 * A sequence of draws named by (seed, stream): Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1,
 * 2, 3", SC 2011), the generator of the native core too.
 *
 * Every draw is a pure function of (seed, stream, counter): the key is the seed, the upper 64 bits of the counter are
 * the stream, the lower 64 bits count blocks of four words. An order of samples is therefore named by two numbers and
 * needs no state in a checkpoint.
 */
export class Random {
  readonly #key: [number, number];
  readonly #stream: [number, number];
  #block: [number, number, number, number] = [0, 0, 0, 0];
  #drawn = 0;

  /**
   * @param seed non-negative safe integer, one per run
   * @param stream non-negative safe integer, one per independent use (a client in a round, a picture, ...)
   */
  constructor(seed: number, stream = 0) {
    this.#key = halves('seed', seed);
    this.#stream = halves('stream', stream);
  }

  /** The next unsigned 32-bit word. */
  word(): number {
    const lane = this.#drawn % 4;
    if (lane === 0) {
      const [low, high] = halves('number of draws', this.#drawn / 4);
      this.#block = philox4x32([low, high, this.#stream[0], this.#stream[1]], this.#key);
    }
    this.#drawn++;
    return this.#block[lane] as number;
  }

  /** Uniform in [0, 1) with 32 bits. */
  uniform(): number {
    return this.word() / TWO_32;
  }

  /** Uniform in [low, high). */
  between(low: number, high: number): number {
    requireNumber(low, 'low');
    requireNumber(high, 'high');
    return low + (high - low) * this.uniform();
  }

  /**
   * Uniform integer in [0, count), without bias (words past the last whole multiple of `count` are drawn
   * again).
   */
  below(count: number): number {
    requireInteger(count, 'the number of choices', 1, TWO_32);
    const limit = TWO_32 - (TWO_32 % count);
    let draw = this.word();
    while (draw >= limit) draw = this.word();
    return draw % count;
  }

  /** Standard normal numbers (Box and Muller's transform, two from every two uniform ones). */
  normals(count: number): Float32Array {
    const out = new Float32Array(requireInteger(count, 'the number of normal numbers', 0));
    for (let i = 0; i < count; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
      const angle = 2 * Math.PI * this.uniform();
      out[i] = radius * Math.cos(angle);
      if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
    }
    return out;
  }

  /** One element of a non-empty list, each with the same chance. */
  pick<T>(choices: readonly T[]): T {
    return choices[this.below(requireList(choices, 'choices').length)] as T;
  }

  /** One index of a list of non-negative weights, with chances in their proportion. */
  weighted(weights: readonly number[]): number {
    const total = requireList(weights, 'weights', requireNumber).reduce((sum, weight) => sum + weight, 0);
    let remaining = this.uniform() * total;
    for (let index = 0; index < weights.length; index++) {
      remaining -= weights[index] as number;
      if (remaining < 0) return index;
    }
    return weights.length - 1;
  }

  /** Shuffles in place (Fisher-Yates from the end) and returns the same list. */
  shuffle<T, L extends Uint32Array | T[]>(items: L): L {
    if (!(items instanceof Uint32Array)) requireList(items, 'items');
    for (let last = items.length - 1; last > 0; last--) {
      const other = this.below(last + 1);
      const kept = items[last] as T & number;
      items[last] = items[other] as T & number;
      items[other] = kept;
    }
    return items;
  }
}

/** The order in which `count` samples are visited: a permutation of 0..count-1 named by (seed, stream). */
export function shuffledOrder(count: number, seed: number, stream: number): Uint32Array {
  const order = Uint32Array.from({ length: requireInteger(count, 'count', 0, TWO_32) }, (_, index) => index);
  return new Random(seed, stream).shuffle(order);
}
