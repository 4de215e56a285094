/**
 * Word drop: single words of a caption become `#`, so that the network does not hang on any one of them (RDTF, the
 * data set of the published code). Words are cut by Unicode's rules, Chinese by the dictionary of the runtime.
 */

import type { Random } from '../data/random.js';

/** The published draw is "one of 0..100 is at most 20". */
export const WORD_DROP_PROBABILITY = 21 / 101;

const words = new Intl.Segmenter('und', { granularity: 'word' });

/**
 * The caption with every word (and punctuation mark) replaced by `#` with the given probability; spaces stay.
 * One draw a word, in order.
 */
export function dropWords(caption: string, random: Random, probability = WORD_DROP_PROBABILITY): string {
  let kept = '';
  for (const { segment } of words.segment(caption)) {
    if (segment.trim() === '') kept += segment;
    else kept += random.uniform() < probability ? '#' : segment;
  }
  return kept;
}
