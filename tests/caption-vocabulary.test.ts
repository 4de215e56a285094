// The vocabulary of captions: what is a token, what is spelt, rows of one length.

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CaptionVocabulary } from '../src/stickers/caption-vocabulary.js';
import { temporaryFolder } from './data-support.js';

const captions = ['A ghost waves.', 'a ghost smiles', 'the cat waves', 'a cat 猫 blinks'];
const vocabulary = CaptionVocabulary.fromCaptions(captions);
const words = (caption: string, length = 12) =>
  [...vocabulary.encode([caption], length).inputIds].map((id) => vocabulary.tokens[id]);

describe('captions as tokens', () => {
  test('known words are one token each, others are spelt', () => {
    expect(words('A ghost waves.', 7)).toEqual(['[CLS]', 'a', 'ghost', 'waves', '.', '[SEP]', '[PAD]']);
    expect(words('a bat', 7)).toEqual(['[CLS]', 'a', 'b', '##a', '##t', '[SEP]', '[PAD]']);
    expect(words('猫', 3)).toEqual(['[CLS]', '猫', '[SEP]']);
  });

  test('a dropped word is the token #, and dropped text the two ends', () => {
    expect(words('a # waves', 6)).toEqual(['[CLS]', 'a', '#', 'waves', '[SEP]', '[PAD]']);
    expect(words('', 3)).toEqual(['[CLS]', '[SEP]', '[PAD]']);
  });

  test('rows of one length with a mask; long captions keep their end token', () => {
    const rows = vocabulary.encode(['a cat', 'a ghost waves'], 4);
    expect(rows).toMatchObject({ batch: 2, length: 4 });
    expect([...rows.attentionMask]).toEqual([1, 1, 1, 1, 1, 1, 1, 1]);
    expect(words('a ghost waves', 4)).toEqual(['[CLS]', 'a', 'ghost', '[SEP]']);
    expect([...vocabulary.encode([''], 4).attentionMask]).toEqual([1, 1, 0, 0]);
    expect(vocabulary.encode([], 4)).toMatchObject({ batch: 0, length: 4 });
    expect(() => vocabulary.encode(['a'], 1)).toThrow(/at least 2 for maxLength/);
  });

  test('the length that cuts nothing', () => {
    expect(vocabulary.lengthFor(captions, 77)).toBe(6);
    expect(vocabulary.lengthFor(captions, 5)).toBe(5);
    expect(vocabulary.lengthFor([], 77)).toBe(2);
    expect(() => vocabulary.lengthFor(captions, 1)).toThrow(/at least 2 .* received 1/);
  });
});

describe('making and keeping', () => {
  test('the order of the captions does not matter; rare words go when the size is small', () => {
    expect(CaptionVocabulary.fromCaptions(captions.toReversed()).tokens).toEqual(vocabulary.tokens);
    const smaller = CaptionVocabulary.fromCaptions(captions, { size: vocabulary.size - 2 });
    expect(smaller.tokens).toEqual(vocabulary.tokens.slice(0, -2));
    const frequent = CaptionVocabulary.fromCaptions(captions, { minCount: 2 });
    expect(frequent.tokens.filter((token) => token.length > 3 && !/\[|#/.test(token))).toEqual([
      'ghost',
      'waves',
    ]);
    expect(() => CaptionVocabulary.fromCaptions([])).toThrow(/at least 1 text/);
    expect(() => CaptionVocabulary.fromCaptions(captions, { size: 10 })).toThrow(/received 10/);
  });

  test('saved, loaded, and from its tokens: the same ids', async () => {
    const folder = await temporaryFolder();
    await vocabulary.save(folder);
    const loaded = await CaptionVocabulary.load(join(folder, 'vocab.txt'));
    const again = CaptionVocabulary.fromTokens(vocabulary.tokens);
    for (const other of [loaded, again])
      expect(other.encode(captions, 9)).toEqual(vocabulary.encode(captions, 9));
    expect(() => CaptionVocabulary.fromTokens(['a'])).toThrow(/special tokens/);
  });
});
