/** Words of captions for the small text encoder that is trained together with the network. */

import { z } from 'zod';
import { requireInteger, requireIterable, requireList, requireText } from '../arguments.js';
import type { TextTokenizer, TokenRows } from '../data/text-tokenizer.js';
import { Tokenizer } from '../data/tokenizer.js';
import { validated } from '../validation.js';

const optionsSchema = z.strictObject({
  size: z.int().min(1).default(4096),
  minCount: z.int().min(1).default(1),
});

/** Which words become tokens of their own. */
export interface CaptionVocabularyOptions {
  /** Largest number of tokens, the special ones and single characters included. Default 4096. */
  size?: number;
  /** Words seen fewer times are spelt. Default 1. */
  minCount?: number;
}

/**
 * Words of captions for the small text encoder that is trained together with the network: a vocabulary made from the
 * captions of a data set, and captions as rows of token ids.
 *
 * Frequent words are one token each; rarer ones and words never seen are spelt in characters, so that any prompt can
 * be encoded. `#`, which word drop puts in the place of a word, always is a token of its own. A row is `[CLS] words
 * [SEP]` and padding; an empty caption (dropped text) is `[CLS] [SEP]`.
 */
export class CaptionVocabulary implements TextTokenizer {
  readonly #tokenizer: Tokenizer;

  private constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  /**
   * Makes the vocabulary; the same captions in any order give the same one.
   * @throws DuetError INVALID_ARGUMENT when there is no caption or `size` does not even hold the characters
   */
  static fromCaptions(captions: Iterable<string>, options: CaptionVocabularyOptions = {}): CaptionVocabulary {
    const settings = validated(optionsSchema, options, 'CaptionVocabulary.fromCaptions');
    return new CaptionVocabulary(Tokenizer.fromTexts(captions, settings));
  }

  /** From the tokens in the order of their ids, as `tokens` gives them; a checkpoint stores these. */
  static fromTokens(tokens: readonly string[]): CaptionVocabulary {
    return new CaptionVocabulary(new Tokenizer(tokens));
  }

  /** Reads `vocab.txt` (a file, or a folder that holds one). */
  static async load(path: string): Promise<CaptionVocabulary> {
    return new CaptionVocabulary(await Tokenizer.load(path));
  }

  /** Writes `vocab.txt` (to a path ending in .txt, or into a folder). */
  save(path: string): Promise<void> {
    return this.#tokenizer.save(path);
  }

  /** In the order of their ids. */
  get tokens(): readonly string[] {
    return this.#tokenizer.vocabulary;
  }

  /** Number of ids: the rows of the embedding table. */
  get size(): number {
    return this.#tokenizer.size;
  }

  /** Id of padding. */
  get padId(): number {
    return this.#tokenizer.padId;
  }

  /** Ids of captions, each cut or padded to `length`. */
  encode(captions: readonly string[], length: number): TokenRows {
    if (requireList(captions, 'captions', requireText).length === 0) {
      requireInteger(length, 'length', 0);
      return { batch: 0, length, inputIds: new Int32Array(0), attentionMask: new Uint8Array(0) };
    }
    const { batch, inputIds, attentionMask } = this.#tokenizer.encode(captions, {
      maxLength: length,
      padTo: 'max',
    });
    return { batch, length, inputIds, attentionMask };
  }

  /** The length that cuts none of these captions, up to `most`: what to pad a data set to. */
  lengthFor(captions: Iterable<string>, most: number): number {
    requireInteger(most, 'the largest length of captions', 2);
    let longest = 2;
    for (const caption of requireIterable(captions, 'captions')) {
      longest = Math.max(longest, this.#tokenizer.idsOf(caption, most).length);
      if (longest === most) break;
    }
    return longest;
  }
}
