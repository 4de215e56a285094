/**
 * Streams of the counter-based generator (src/data/random) in a sticker run: everything random is named by the run's seed
 * and one of these numbers, so a checkpoint needs nothing but the step to continue with the same draws.
 */

const PURPOSES = {
  order: 1,
  task: 2,
  mask: 3,
  words: 4,
  timesteps: 5,
  noise: 6,
  split: 7,
  initial: 8,
  latents: 9,
} as const;

export type StickerStream = keyof typeof PURPOSES;

/** @param index step, epoch or item, below 2^40 */
export function stickerStream(purpose: StickerStream, index: number): number {
  return PURPOSES[purpose] * 2 ** 40 + index;
}
