// Vocabularies of a few tokens, as the files beside pretrained text encoders hold them.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TextEncoderKind } from '../../src/data/text-tokenizer.js';

const vocab = { c: 0, a: 1, t: 2, 'a</w>': 3, 't</w>': 4, 'c</w>': 5, ca: 6, 'cat</w>': 7 };
export const CLIP_VOCAB = {
  ...vocab,
  '!': 8,
  '!</w>': 9,
  '<|startoftext|>': 10,
  '<|endoftext|>': 11,
};
export const CLIP_MERGES = '#version: 0.2\nc a\nca t</w>\n';

/** Pieces with their scores; Metaspace puts a bar in front of every word. */
export const T5_TOKENIZER = {
  version: '1.0',
  added_tokens: ['<pad>', '</s>', '<unk>'].map((content, id) => ({
    id,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: null,
  pre_tokenizer: { type: 'Metaspace', replacement: '▁', add_prefix_space: true, prepend_scheme: 'always' },
  post_processor: {
    type: 'TemplateProcessing',
    single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: '</s>', type_id: 0 } }],
    pair: [],
    special_tokens: { '</s>': { id: '</s>', ids: [1], tokens: ['</s>'] } },
  },
  decoder: { type: 'Metaspace', replacement: '▁', add_prefix_space: true, prepend_scheme: 'always' },
  model: {
    type: 'Unigram',
    unk_id: 2,
    vocab: [
      ['<pad>', 0],
      ['</s>', 0],
      ['<unk>', 0],
      ['▁', -3],
      ['▁cat', -1],
      ['▁a', -1],
      ['s', -2],
      ['a', -4],
    ],
  },
};

const FILES: Record<TextEncoderKind, Record<string, string>> = {
  clip: { 'vocab.json': JSON.stringify(CLIP_VOCAB), 'merges.txt': CLIP_MERGES },
  bert: { 'vocab.txt': '[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nball\n##s\nstar\nred\n' },
  t5: { 'tokenizer.json': JSON.stringify(T5_TOKENIZER) },
};

/** Puts the tokenizer of an encoder into its folder. */
export async function writeTokenizer(folder: string, kind: TextEncoderKind): Promise<void> {
  for (const [name, text] of Object.entries(FILES[kind])) await writeFile(join(folder, name), text);
}
