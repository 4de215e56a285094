/** Which clients take part in a round. */

import { Random } from '../data/random.js';
import { streamOf } from './streams.js';

export interface Sampling {
  /** Share of all clients. */
  fraction: number;
  /** But at least so many. */
  minimum: number;
}

/** Indices of the participants in ascending order: the same for the same seed and round. */
export function sampleClients(clients: number, sampling: Sampling, seed: number, round: number): number[] {
  const wanted = Math.max(sampling.minimum, Math.floor(sampling.fraction * clients + 1e-9));
  const all = Array.from({ length: clients }, (_, index) => index);
  if (wanted >= clients) return all;
  const drawn = new Random(seed, streamOf('sampling', round)).shuffle(all).slice(0, wanted);
  return drawn.sort((a, b) => a - b);
}
