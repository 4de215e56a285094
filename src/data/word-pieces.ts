/**
 * A typed face of `@huggingface/tokenizers` for BERT: settings in, words and ids out.
 *
 * The settings are the content of the `tokenizer.json` that would come with the vocabulary: BertNormalizer,
 * BertPreTokenizer, WordPiece with words of at most 100 characters, the `[CLS] A [SEP]` template. One
 * difference of the library is mended on the way in: BERT puts spaces around every ideograph, the library
 * looks at UTF-16 units and misses those outside the basic plane, so they are set apart here first.
 */

import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';

export const SPECIAL_TOKENS: readonly string[] = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'];
/** Words of more characters (code points) than this become `[UNK]`, as in BERT. */
export const MAX_WORD_LENGTH = 100;

/** Ideographs outside the basic plane: CJK extensions B to E and the compatibility supplement. */
const RARE_IDEOGRAPHS =
  /[\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b820}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;

/** What is used of the library (its own declarations do not resolve under NodeNext). */
interface Library {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  normalizer: { normalize(text: string): string };
  pre_tokenizer: { pre_tokenize_text(text: string): string[] };
}

/** Splits texts into words and words into pieces of a vocabulary. */
export class WordPieces {
  readonly #library: Library;

  /** @param vocabulary tokens in the order of their ids, special tokens among them */
  constructor(vocabulary: readonly string[], lowerCase: boolean) {
    this.#library = new LibraryTokenizer(tokenizerJson(vocabulary, lowerCase), {}) as Library;
  }

  /** Ids of the pieces of a text, without `[CLS]` and `[SEP]`. */
  idsOf(text: string): number[] {
    return this.#library.encode(separated(text), { add_special_tokens: false }).ids;
  }

  /** The words that pieces are made of: cleaned, lower case without accents if so set, punctuation apart. */
  wordsOf(text: string): string[] {
    const { normalizer, pre_tokenizer: preTokenizer } = this.#library;
    return preTokenizer.pre_tokenize_text(normalizer.normalize(separated(text)));
  }
}

function separated(text: string): string {
  return text.replace(RARE_IDEOGRAPHS, ' $& ');
}

function tokenizerJson(vocabulary: readonly string[], lowerCase: boolean) {
  // No prototype, so that a token such as `__proto__` is an ordinary key.
  const vocab: Record<string, number> = Object.create(null);
  for (const [id, token] of vocabulary.entries()) vocab[token] = id;
  const special = (id: string, typeId = 0) => ({ SpecialToken: { id, type_id: typeId } });
  const sequence = (id: string, typeId = 0) => ({ Sequence: { id, type_id: typeId } });
  const single = [special('[CLS]'), sequence('A'), special('[SEP]')];
  return {
    version: '1.0',
    added_tokens: SPECIAL_TOKENS.filter((token) => token in vocab).map((content) => ({
      id: vocab[content],
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    // strip_accents is left out on purpose: BERT then strips them exactly when it lower-cases.
    normalizer: {
      type: 'BertNormalizer',
      clean_text: true,
      handle_chinese_chars: true,
      lowercase: lowerCase,
    },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    post_processor: {
      type: 'TemplateProcessing',
      single,
      pair: [...single, sequence('B', 1), special('[SEP]', 1)],
      special_tokens: {},
    },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: {
      type: 'WordPiece',
      unk_token: '[UNK]',
      continuing_subword_prefix: '##',
      max_input_chars_per_word: MAX_WORD_LENGTH,
      vocab,
    },
  };
}
