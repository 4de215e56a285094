/**
 * Word drop: single words of a caption become `#`, so that the network does not hang on any one of them (RDTF, the
 * data set of the published code). Words are cut by Unicode's rules, Chinese by the dictionary of the runtime.
 */

import type { Random } from '../data/random.js';

/** The published draw is "one of 0..100 is at most 20". */
export const WORD_DROP_PROBABILITY = 21 / 101;

/** Characters that are looked at; no text encoder takes as many tokens, and cutting words takes the square of it. */
const MOST_CHARACTERS = 10_000;

const words = new Intl.Segmenter('und', { granularity: 'word' });

/**
 * The caption with every word (and punctuation mark) replaced by `#` with the given probability; spaces stay.
 * One draw a word, in order. What is behind the first 10,000 characters is left out.
 */
export function dropWords(caption: string, random: Random, probability = WORD_DROP_PROBABILITY): string {
  let kept = '';
  for (const { segment } of words.segment(caption.slice(0, MOST_CHARACTERS))) {
    if (segment.trim() === '') kept += segment;
    else kept += random.uniform() < probability ? '#' : segment;
  }
  return kept;
}
