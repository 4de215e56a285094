/**
 * Streams of the counter-based generator (src/data/random). Everything random in a run is named by its seed and one of
 * these numbers, so a checkpoint needs nothing but the round to continue with the same draws.
 */

const PURPOSES = { order: 1, sampling: 2, dropout: 3 } as const;

/** Bits: purpose 3, round 20, client 16, epoch 12. */
export function streamOf(purpose: keyof typeof PURPOSES, round: number, client = 0, epoch = 0): number {
  return ((PURPOSES[purpose] * 2 ** 20 + round) * 2 ** 16 + client) * 2 ** 12 + epoch;
}
