/**
 * A word-piece vocabulary: the list of tokens whose position is their id (`vocab.txt`, one token a line).
 *
 * It is read from a file of the BERT layout or made from the questions of a data set: the special tokens,
 * every character on its own and as a `##` continuation, then whole words by frequency. Whole words keep
 * questions short; characters spell out everything else, so that a word never seen is unknown only if one of
 * its characters is.
 */

import { requireInteger, requireIterable, requireObject, requireText } from '../arguments.js';
import { DuetError } from '../errors.js';
import { readText, writeText } from './files.js';
import { MAX_WORD_LENGTH, SPECIAL_TOKENS, WordPieces } from './word-pieces.js';

/** Which words become tokens of their own. */
export interface VocabularyOptions {
  /**
   * Largest number of tokens, special tokens and characters included; rarer words are spelt. Default 30522.
   */
  size?: number;
  /** Words seen fewer times are spelt. Default 1. */
  minCount?: number;
  /** Lower-case and strip accents. Default true. */
  lowerCase?: boolean;
}

/**
 * Makes a vocabulary from texts. Deterministic: characters in code point order, words by falling frequency
 * and, among equals, in code point order. ASCII letters, digits and punctuation are always included so that
 * new questions can be spelt.
 * @throws DuetError INVALID_ARGUMENT when there is no text or `size` does not even hold the characters
 */
export function makeVocabulary(texts: Iterable<string>, options: VocabularyOptions = {}): string[] {
  const { size = 30522, minCount = 1, lowerCase = true } = requireObject(options, 'options');
  requireInteger(size, 'size', 1);
  requireInteger(minCount, 'minCount', 0);
  const counts = new Map<string, number>();
  const characters = new Set<string>();
  for (let code = 33; code < 127; code++) {
    const character = String.fromCharCode(code);
    characters.add(lowerCase ? character.toLowerCase() : character);
  }
  const pieces = new WordPieces(SPECIAL_TOKENS, lowerCase);
  let seen = 0;
  for (const text of requireIterable(texts, 'texts')) {
    seen++;
    for (const word of pieces.wordsOf(requireText(text, 'a text'))) {
      counts.set(word, (counts.get(word) ?? 0) + 1);
      for (const character of word) characters.add(character);
    }
  }
  if (seen === 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      'Expected at least 1 text to make a vocabulary from but received 0',
    );
  }
  const letters = [...characters].sort(byCodePoint);
  const tokens = [
    ...SPECIAL_TOKENS,
    ...letters,
    ...letters.filter(isPartOfWords).map((letter) => `##${letter}`),
  ];
  if (tokens.length > size) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected a vocabulary size of at least ${tokens.length} (the special tokens and the characters of these texts) ` +
        `but received ${size}`,
    );
  }
  const words = [...counts]
    .filter(
      ([word, count]) => count >= minCount && [...word].length > 1 && [...word].length <= MAX_WORD_LENGTH,
    )
    .sort((a, b) => b[1] - a[1] || byCodePoint(a[0], b[0]))
    .map(([word]) => word);
  return [...tokens, ...words.slice(0, size - tokens.length)];
}

/** Punctuation always stands alone, so it needs no `##` piece. */
function isPartOfWords(character: string): boolean {
  return !/[\p{P}!-/:-@[-`{-~]/u.test(character);
}

function byCodePoint(a: string, b: string): number {
  const left = [...a];
  const right = [...b];
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const difference = (left[i]?.codePointAt(0) ?? 0) - (right[i]?.codePointAt(0) ?? 0);
    if (difference !== 0) return difference;
  }
  return left.length - right.length;
}

/**
 * Reads `vocab.txt`: one token a line, the line number is the id. As in BERT, a token on two lines has the
 * later id.
 * @throws DuetError NOT_FOUND or IO when the file cannot be read, CORRUPT when it misses a special token
 */
export async function readVocabulary(path: string): Promise<string[]> {
  const text = await readText(path, 'vocabulary');
  const tokens = text.split(/\r\n|\n|\r/);
  if (tokens.at(-1) === '') tokens.pop();
  requireSpecialTokens(tokens, path);
  return tokens;
}

/** Writes one token a line. */
export async function writeVocabulary(path: string, tokens: readonly string[]): Promise<void> {
  await writeText(path, `${tokens.join('\n')}\n`, 'vocabulary');
}

/** @throws DuetError CORRUPT when a special token other than `[MASK]` is missing */
export function requireSpecialTokens(tokens: readonly string[], source: string): void {
  const missing = SPECIAL_TOKENS.filter((token) => token !== '[MASK]' && !tokens.includes(token));
  if (missing.length > 0) {
    throw new DuetError(
      'CORRUPT',
      `Expected the special tokens ${SPECIAL_TOKENS.join(' ')} in ${source} but ${missing.join(' ')} missing; ` +
        'use the vocab.txt of a BERT model',
    );
  }
}
