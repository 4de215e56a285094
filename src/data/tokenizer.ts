/**
 * BERT word pieces: text to token ids for ViLT's text embedding.
 *
 * The pieces come from `@huggingface/tokenizers` (see `word-pieces.ts`); truncation and padding, which that library
 * leaves to its caller, are done here.
 */

import { join } from 'node:path';
import { requireInstance, requireInteger, requireList, requireObject, requireText } from '../arguments.js';
import { DuetError } from '../errors.js';
import {
  makeVocabulary,
  readVocabulary,
  requireSpecialTokens,
  type VocabularyOptions,
  writeVocabulary,
} from './vocabulary.js';
import { WordPieces } from './word-pieces.js';

/** Length of encoded texts, in tokens. */
export interface TokenizeOptions {
  /**
   * Largest number of tokens of a text, `[CLS]` and `[SEP]` included; 2 or more. Longer texts lose their end.
   */
  maxLength: number;
  /** Pad to the longest text of the call (default) or to `maxLength`. */
  padTo?: 'longest' | 'max';
}

/** Encoded texts, row after row: B texts of `length` tokens each, padded at the right. */
export interface EncodedTexts {
  /** Texts. */
  batch: number;
  /** Tokens of each row, padding included. */
  length: number;
  /** [B * length] */
  inputIds: Int32Array;
  /** [B * length], all 0: a question is one segment */
  tokenTypeIds: Int32Array;
  /** [B * length], 1 on tokens, 0 on padding */
  attentionMask: Uint8Array;
}

/** How texts are cleaned. */
export interface TokenizerOptions {
  /** Lower-case and strip accents (the `uncased` models). Default true. */
  lowerCase?: boolean;
}

/**
 * BERT word pieces over a fixed vocabulary, as ViLT's text embedding takes them: lower case, accents stripped,
 * ideographs and punctuation apart, greedy longest-match pieces, `[CLS] ... [SEP]`, truncation from the right,
 * padding with `[PAD]`. A plain `vocab.txt` is enough.
 */
export class Tokenizer {
  /** Tokens in the order of their ids. */
  readonly vocabulary: readonly string[];
  /** Whether texts are lower-cased and accents stripped. */
  readonly lowerCase: boolean;
  /** Id of `[PAD]`. */
  readonly padId: number;
  /** Id of `[UNK]`: words with a character that is not in the vocabulary. */
  readonly unknownId: number;
  readonly #clsId: number;
  readonly #sepId: number;
  readonly #pieces: WordPieces;

  /**
   * @param vocabulary tokens in the order of their ids; must hold `[PAD] [UNK] [CLS] [SEP]`
   * @throws DuetError CORRUPT when a special token is missing
   */
  constructor(vocabulary: readonly string[], options: TokenizerOptions = {}) {
    requireSpecialTokens(requireList(vocabulary, 'vocabulary', requireText), 'the vocabulary');
    this.vocabulary = [...vocabulary];
    this.lowerCase = requireObject(options, 'options').lowerCase ?? true;
    const ids = new Map(this.vocabulary.map((token, id) => [token, id]));
    const idOf = (token: string) => ids.get(token)!;
    this.padId = idOf('[PAD]');
    this.unknownId = idOf('[UNK]');
    this.#clsId = idOf('[CLS]');
    this.#sepId = idOf('[SEP]');
    this.#pieces = new WordPieces(this.vocabulary, this.lowerCase);
  }

  /**
   * Reads `vocab.txt` (a file, or a folder that holds one): one token a line.
   * @throws DuetError NOT_FOUND, IO, or CORRUPT when a special token is missing
   */
  static async load(path: string, options: TokenizerOptions = {}): Promise<Tokenizer> {
    return new Tokenizer(await readVocabulary(vocabularyPath(path)), options);
  }

  /**
   * Makes the vocabulary from texts: special tokens, every character on its own and as a `##` continuation, whole
   * words by frequency. The same texts in any order give the same one.
   * @throws DuetError INVALID_ARGUMENT when there is no text or `size` does not even hold the characters
   */
  static fromTexts(texts: Iterable<string>, options: VocabularyOptions = {}): Tokenizer {
    const vocabulary = makeVocabulary(texts, options);
    return new Tokenizer(vocabulary, { lowerCase: options.lowerCase ?? true });
  }

  /** Number of ids. */
  get size(): number {
    return this.vocabulary.length;
  }

  /** Writes `vocab.txt` (to a path ending in .txt, or into a folder). */
  async save(path: string): Promise<void> {
    await writeVocabulary(vocabularyPath(path), this.vocabulary);
  }

  /** The ids of one text with `[CLS]` and `[SEP]`, cut to `maxLength`, not padded. */
  idsOf(text: string, maxLength: number): Int32Array {
    requireInteger(maxLength, 'maxLength', 2);
    requireText(text, 'text');
    return Int32Array.of(this.#clsId, ...this.#pieces.idsOf(text).slice(0, maxLength - 2), this.#sepId);
  }

  /** The tokens of one text, special tokens included; for looking at. */
  tokensOf(text: string, maxLength: number): string[] {
    return Array.from(this.idsOf(text, maxLength), (id) => this.vocabulary[id] as string);
  }

  /**
   * Encodes a batch of texts.
   * @throws DuetError INVALID_ARGUMENT for an empty batch or a `maxLength` below 2
   */
  encode(texts: readonly string[], options: TokenizeOptions): EncodedTexts {
    requireInteger(requireObject(options, 'options').maxLength, 'maxLength', 2);
    return this.pad(
      requireList(texts, 'texts').map((text) => this.idsOf(text, options.maxLength)),
      options.padTo === 'max' ? options.maxLength : 0,
    );
  }

  /** Pads rows of ids (see `idsOf`) to the longest of them, and to `minLength` at least. */
  pad(rows: readonly Int32Array[], minLength = 0): EncodedTexts {
    if (requireList(rows, 'rows').length === 0) {
      throw new DuetError('INVALID_ARGUMENT', 'Expected at least 1 text to encode but received 0');
    }
    for (const [index, row] of rows.entries()) requireInstance(row, Int32Array, `rows[${index}]`);
    requireInteger(minLength, 'minLength', 0);
    const length = rows.reduce((longest, row) => Math.max(longest, row.length), minLength);
    const inputIds = new Int32Array(rows.length * length).fill(this.padId);
    const attentionMask = new Uint8Array(rows.length * length);
    for (const [index, row] of rows.entries()) {
      inputIds.set(row, index * length);
      attentionMask.fill(1, index * length, index * length + row.length);
    }
    const tokenTypeIds = new Int32Array(rows.length * length);
    return { batch: rows.length, length, inputIds, tokenTypeIds, attentionMask };
  }
}

function vocabularyPath(path: string): string {
  return requireText(path, 'path').endsWith('.txt') ? path : join(path, 'vocab.txt');
}
