/** In which order samples are visited, and which are held out: functions of names and seeds alone. */

import { stickerStream } from '../../stickers/streams.js';
import { Random, shuffledOrder } from '../random.js';

/** The samples in one endless order: epoch after epoch, each a permutation of its own. */
export class EndlessOrder<T> {
  readonly #samples: readonly T[];
  readonly #seed: number;
  #epoch = -1;
  #order: Uint32Array = new Uint32Array(0);

  constructor(samples: readonly T[], seed: number) {
    this.#samples = samples;
    this.#seed = seed;
  }

  at(position: number): T {
    const epoch = Math.floor(position / this.#samples.length);
    if (epoch !== this.#epoch) {
      this.#epoch = epoch;
      this.#order = shuffledOrder(this.#samples.length, this.#seed, stickerStream('order', epoch));
    }
    return this.#samples[this.#order[position % this.#samples.length] as number] as T;
  }
}

/** A number in [0, 1) for a name. FNV-1a names the stream. */
export function rankOf(name: string, seed: number): number {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(name)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return new Random(seed, stickerStream('split', hash)).uniform();
}
