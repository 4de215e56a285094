/** The tokenizers that come with pretrained text encoders. */

import { dirname, join } from 'node:path';
import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers';
import { z } from 'zod';
import { invalid, requireList, requireText } from '../arguments.js';
import { DuetError, messageOf } from '../errors.js';
import { validated } from '../validation.js';
import { clipTokenizerJson } from './clip-tokenizer.js';
import { exists, readJson } from './files.js';
import { Tokenizer } from './tokenizer.js';

/** The architectures of `FrozenTextEncoder`. */
export type TextEncoderKind = 'clip' | 'bert' | 't5';

/** Texts as rows of `length` token ids. */
export interface TokenRows {
  /** Texts. */
  batch: number;
  /** Tokens of each row. */
  length: number;
  /** [B * length] */
  inputIds: Int32Array;
  /** [B * length], 1 on tokens, 0 on padding */
  attentionMask: Uint8Array;
}

/** Texts to rows of token ids; what a text encoder asks for. */
export interface TextTokenizer {
  /** Cuts or pads every text to `length` tokens. */
  encode(texts: readonly string[], length: number): TokenRows;
}

/** What is used of the library (its own declarations do not resolve under NodeNext). */
interface Library {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  token_to_id(token: string): number | undefined;
}

const token = z.union([z.string(), z.looseObject({ content: z.string() })]).nullish();
const settingsSchema = z.looseObject({ pad_token: token, do_lower_case: z.boolean().optional() });
type Settings = z.output<typeof settingsSchema>;

const PAD_TOKENS: Record<TextEncoderKind, string> = { clip: '<|endoftext|>', bert: '[PAD]', t5: '<pad>' };

/**
 * The tokenizer that comes with a pretrained text encoder: `tokenizer.json` through `@huggingface/tokenizers`, for
 * BERT `vocab.txt`, for CLIP `vocab.json` with `merges.txt` too. Truncation (the special tokens stay) and padding to
 * one length are done here.
 */
export class PretrainedTokenizer implements TextTokenizer {
  /** What it was read from; empty where it was not read from files. */
  readonly files: readonly string[];
  readonly #idsOf: (text: string) => readonly number[];
  readonly #before: readonly number[];
  readonly #after: readonly number[];
  readonly #padId: number;

  private constructor(
    idsOf: (text: string) => readonly number[],
    special: { before: readonly number[]; after: readonly number[]; padId: number },
    files: readonly string[],
  ) {
    this.files = files;
    this.#idsOf = idsOf;
    this.#before = special.before;
    this.#after = special.after;
    this.#padId = special.padId;
  }

  /** The tokenizer of a model folder, or of the folder `tokenizer` beside it; undefined where there is none. */
  static async find(folder: string, kind: TextEncoderKind): Promise<PretrainedTokenizer | undefined> {
    requireText(folder, 'folder');
    if (!Object.hasOwn(PAD_TOKENS, requireText(kind, 'kind')))
      throw invalid(`one of ${Object.keys(PAD_TOKENS).join(', ')}`, 'kind', kind);
    for (const place of [folder, join(dirname(folder), 'tokenizer')]) {
      const found = await PretrainedTokenizer.#in(place, kind);
      if (found) return found;
    }
    return undefined;
  }

  /** As `find`. @throws DuetError NOT_FOUND where there is none */
  static async open(folder: string, kind: TextEncoderKind): Promise<PretrainedTokenizer> {
    return (await PretrainedTokenizer.find(folder, kind)) ?? Promise.reject(noTokenizer(folder));
  }

  /**
   * @param json the content of a `tokenizer.json`
   * @param padToken text of the token that fills rows
   * @throws DuetError CORRUPT when the JSON is not a tokenizer or has no such padding token
   */
  static fromJson(json: unknown, padToken: string, source = 'tokenizer.json', settings: Settings = {}) {
    return PretrainedTokenizer.#from(json, padToken, source, settings, []);
  }

  static #from(
    json: unknown,
    padToken: string,
    source: string,
    settings: Settings,
    files: readonly string[],
  ) {
    requireText(padToken, 'padToken');
    requireText(source, 'source');
    let library: Library;
    let before: number[];
    let after: number[];
    const idsOf = (text: string) => library.encode(text, { add_special_tokens: false }).ids;
    try {
      library = new LibraryTokenizer(json as object, settings) as Library;
      // What the template puts around a text shows around any.
      const plain = idsOf('a');
      const whole = library.encode('a', { add_special_tokens: true }).ids;
      if (plain.length === 0) throw new Error('it makes no token of the text "a"');
      const begin = whole.findIndex((_, start) => plain.every((id, offset) => whole[start + offset] === id));
      before = whole.slice(0, begin);
      after = whole.slice(begin + plain.length);
    } catch (error) {
      throw new DuetError('CORRUPT', `Expected a tokenizer in ${source} but ${messageOf(error)}`, {
        cause: error,
      });
    }
    const padId = library.token_to_id(padToken);
    if (padId === undefined) {
      throw new DuetError('CORRUPT', `Expected the padding token ${padToken} in ${source} but it has none`);
    }
    return new PretrainedTokenizer(idsOf, { before, after, padId }, files);
  }

  /** @throws DuetError INVALID_ARGUMENT when `length` does not hold the special tokens */
  encode(texts: readonly string[], length: number): TokenRows {
    const special = this.#before.length + this.#after.length;
    if (!Number.isInteger(length) || length <= special) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected integer above ${special} for the length of texts (the special tokens need ${special}) but received ${length}`,
      );
    }
    const inputIds = new Int32Array(requireList(texts, 'texts', requireText).length * length).fill(
      this.#padId,
    );
    const attentionMask = new Uint8Array(texts.length * length);
    for (const [index, text] of texts.entries()) {
      const ids = [...this.#before, ...this.#idsOf(text).slice(0, length - special), ...this.#after];
      inputIds.set(ids, index * length);
      attentionMask.fill(1, index * length, index * length + ids.length);
    }
    return { batch: texts.length, length, inputIds, attentionMask };
  }

  static async #in(folder: string, kind: TextEncoderKind): Promise<PretrainedTokenizer | undefined> {
    const json = join(folder, 'tokenizer.json');
    const { settings, files } = await readSettings(folder);
    const own = (...names: string[]) => [...names.map((name) => join(folder, name)), ...files];
    const padToken = textOf(settings.pad_token) ?? PAD_TOKENS[kind];
    if (await exists(json)) {
      const content = await readJson(json, 'tokenizer');
      return PretrainedTokenizer.#from(content, padToken, json, settings, own('tokenizer.json'));
    }
    if (kind === 'bert' && (await exists(join(folder, 'vocab.txt')))) {
      const pieces = await Tokenizer.load(folder, { lowerCase: settings.do_lower_case ?? true });
      const [before, after] = pieces.idsOf('', 2);
      return new PretrainedTokenizer(
        (text) => [...pieces.idsOf(text, 2 ** 20)].slice(1, -1),
        { before: [before as number], after: [after as number], padId: pieces.padId },
        own('vocab.txt'),
      );
    }
    if (kind === 'clip' && (await exists(join(folder, 'merges.txt')))) {
      const files = own('vocab.json', 'merges.txt');
      return PretrainedTokenizer.#from(await clipTokenizerJson(folder), padToken, folder, settings, files);
    }
    return undefined;
  }
}

/** What the files beside a tokenizer say of it; the first that names the padding token counts. */
async function readSettings(folder: string): Promise<{ settings: Settings; files: string[] }> {
  let all: Settings = {};
  const files: string[] = [];
  for (const name of ['special_tokens_map.json', 'tokenizer_config.json']) {
    const path = join(folder, name);
    if (!(await exists(path))) continue;
    files.push(path);
    const found = validated(settingsSchema, await readJson(path, 'tokenizer settings'), path, 'CORRUPT');
    all = { ...all, ...found, pad_token: found.pad_token ?? all.pad_token };
  }
  return { settings: all, files };
}

function textOf(given: Settings['pad_token']): string | undefined {
  return typeof given === 'string' ? given : given?.content;
}

export function noTokenizer(folder: string): DuetError {
  return new DuetError(
    'NOT_FOUND',
    `Expected a tokenizer in the text encoder's folder ${folder} but it has none; put its tokenizer.json there, or ` +
      'vocab.txt (BERT), or vocab.json and merges.txt (CLIP)',
  );
}
