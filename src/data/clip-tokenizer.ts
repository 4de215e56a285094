/**
 * CLIP's tokenizer from `vocab.json` and `merges.txt`, as folders of diffusers hold it: the content of the `tokenizer.json`
 * that Hugging Face makes of the two. Lower case, white space to one space, byte-level pairs with `</w>` at the end of a
 * word, `<|startoftext|> ... <|endoftext|>`.
 */

import { join } from 'node:path';
import { z } from 'zod';
import { DuetError } from '../errors.js';
import { validated } from '../validation.js';
import { readJson, readText } from './files.js';

const START = '<|startoftext|>';
const END = '<|endoftext|>';
const WORDS = "'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+";
const vocabSchema = z.record(z.string(), z.int().min(0));

/** @throws DuetError NOT_FOUND, IO, or CORRUPT when the special tokens are missing */
export async function clipTokenizerJson(folder: string): Promise<object> {
  const path = join(folder, 'vocab.json');
  const vocab = validated(vocabSchema, await readJson(path, 'vocabulary'), path, 'CORRUPT');
  const lines = (await readText(join(folder, 'merges.txt'), 'merges')).split(/\r?\n/);
  const merges = lines.filter((line) => line !== '' && !line.startsWith('#version'));
  const idOf = (token: string) => {
    const id = vocab[token];
    if (id === undefined) throw new DuetError('CORRUPT', `Expected the token ${token} in ${path}`);
    return id;
  };
  const special = (content: string) => ({
    id: idOf(content),
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  });
  return {
    version: '1.0',
    added_tokens: [special(START), special(END)],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'NFC' },
        { type: 'Replace', pattern: { Regex: '\\s+' }, content: ' ' },
        { type: 'Lowercase' },
      ],
    },
    pre_tokenizer: {
      type: 'Sequence',
      pretokenizers: [
        { type: 'Split', pattern: { Regex: WORDS }, behavior: 'Removed', invert: true },
        { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
      ],
    },
    post_processor: {
      type: 'RobertaProcessing',
      sep: [END, idOf(END)],
      cls: [START, idOf(START)],
      trim_offsets: false,
      add_prefix_space: false,
    },
    decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true },
    model: {
      type: 'BPE',
      unk_token: END,
      continuing_subword_prefix: '',
      end_of_word_suffix: '</w>',
      fuse_unk: false,
      vocab,
      merges,
    },
  };
}
