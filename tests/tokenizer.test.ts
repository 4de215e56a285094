// Word pieces: the rules of BERT one by one, vocabularies made from data, and the reference cases.

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Tokenizer } from '../src/data/tokenizer.js';
import { makeVocabulary } from '../src/data/vocabulary.js';
import { hasShared, sharedPath, temporaryFolder } from './data-support.js';

const letters = [...'abcdefghijklmnopqrstuvwxyz0123456789'];
const vocabulary = [
  '[PAD]',
  '[UNK]',
  '[CLS]',
  '[SEP]',
  '[MASK]',
  ...letters,
  ...letters.map((letter) => `##${letter}`),
  ...['.', ',', '?', '-', 'what', 'color', 'play', '##ing', '中', '𠀀', 'cafe'],
];
const tokenizer = new Tokenizer(vocabulary);
const tokens = (text: string, maxLength = 40) => tokenizer.tokensOf(text, maxLength).slice(1, -1);

describe('word pieces', () => {
  it('lower-cases, strips accents and sets punctuation apart', () => {
    expect(tokens('What COLOR?')).toEqual(['what', 'color', '?']);
    expect(tokens('Café-color,')).toEqual(['cafe', '-', 'color', ',']);
  });

  it('takes the longest piece first and spells what it does not know', () => {
    expect(tokens('playing')).toEqual(['play', '##ing']);
    expect(tokens('plan')).toEqual(['p', '##l', '##a', '##n']);
  });

  it('gives [UNK] for a word with an unknown character or of more than 100 characters', () => {
    expect(tokens('ab€c what')).toEqual(['[UNK]', 'what']);
    expect(tokens('a'.repeat(100), 200)).toHaveLength(100);
    expect(tokens('a'.repeat(101), 200)).toEqual(['[UNK]']);
  });

  it('sets ideographs apart, also those outside the basic plane', () => {
    expect(tokens('a中b𠀀c')).toEqual(['a', '中', 'b', '𠀀', 'c']);
  });

  it('ignores control characters and treats every white space alike', () => {
    expect(tokens('wh\u0000at\u200b \t\n\u00a0color')).toEqual(['what', 'color']);
  });

  it('keeps [CLS] and [SEP] when it cuts', () => {
    expect(tokenizer.tokensOf('what color what', 4)).toEqual(['[CLS]', 'what', 'color', '[SEP]']);
    expect(tokenizer.tokensOf('what', 2)).toEqual(['[CLS]', '[SEP]']);
    expect(tokenizer.tokensOf('', 40)).toEqual(['[CLS]', '[SEP]']);
  });

  it('pads to the longest text or to maxLength', () => {
    const longest = tokenizer.encode(['what color', ''], { maxLength: 10 });
    expect(longest.length).toBe(4);
    expect([...longest.attentionMask]).toEqual([1, 1, 1, 1, 1, 1, 0, 0]);
    expect([...longest.inputIds.slice(4)]).toEqual([2, 3, 0, 0]);
    expect([...longest.tokenTypeIds]).toEqual(new Array(8).fill(0));
    const full = tokenizer.encode(['what color', ''], { maxLength: 10, padTo: 'max' });
    expect(full.length).toBe(10);
    expect(full.inputIds).toHaveLength(20);
  });

  it('keeps case when told to', () => {
    const cased = new Tokenizer([...vocabulary, 'What'], { lowerCase: false });
    expect(cased.tokensOf('What what', 9)).toEqual(['[CLS]', 'What', 'what', '[SEP]']);
  });

  it('takes tokens that are names of object members', () => {
    const odd = new Tokenizer([...vocabulary, '__proto__', 'constructor', '_']);
    expect(odd.tokensOf('constructor', 9)).toEqual(['[CLS]', 'constructor', '[SEP]']);
    expect(tokenizer.tokensOf('constructor', 20)[1]).toBe('c');
  });

  it('refuses impossible arguments', () => {
    expect(() => tokenizer.encode([], { maxLength: 4 })).toThrow(/at least 1 text/);
    expect(() => tokenizer.idsOf('a', 1)).toThrow(/at least 2 for maxLength .* received 1/);
    expect(() => new Tokenizer(['a', '[PAD]'])).toThrow(/\[UNK\] \[CLS\] \[SEP\] missing/);
  });
});

describe('a vocabulary made from texts', () => {
  const texts = ['What color is it?', 'What is it?', 'is it RED', 'Größe 中国'];

  it('has special tokens, characters, pieces, then words by frequency', () => {
    const made = makeVocabulary(texts);
    expect(made.slice(0, 5)).toEqual(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']);
    expect(made.slice(-6)).toEqual(['is', 'it', 'what', 'color', 'große', 'red']);
    expect(made).toContain('##ß');
    expect(made).not.toContain('##?');
    expect(new Set(made).size).toBe(made.length);
    expect(makeVocabulary(texts)).toEqual(made);
  });

  it('spells rare words when the size or the count says so', () => {
    const full = makeVocabulary(texts);
    expect(makeVocabulary(texts, { size: full.length - 1 })).toEqual(full.slice(0, -1));
    expect(makeVocabulary(texts, { minCount: 2 })).toEqual(full.slice(0, -3));
    expect(() => makeVocabulary(texts, { size: 20 })).toThrow(/at least \d+ .* received 20/);
    expect(() => makeVocabulary([])).toThrow(/at least 1 text/);
  });

  it('knows every word of its texts and can spell new ones', () => {
    const made = Tokenizer.fromTexts(texts);
    expect(made.tokensOf('what color is it?', 20)).toEqual([
      '[CLS]',
      'what',
      'color',
      'is',
      'it',
      '?',
      '[SEP]',
    ]);
    expect(made.tokensOf('it zig', 20)).toEqual(['[CLS]', 'it', 'z', '##i', '##g', '[SEP]']);
  });

  it('is the same after saving and loading', async () => {
    const folder = await temporaryFolder();
    const made = Tokenizer.fromTexts(texts);
    await made.save(folder);
    const loaded = await Tokenizer.load(folder);
    expect(loaded.vocabulary).toEqual(made.vocabulary);
    expect(loaded.idsOf('Größe?', 9)).toEqual(made.idsOf('Größe?', 9));
    await writeFile(join(folder, 'crlf.txt'), '[PAD]\r\n[UNK]\r\n[CLS]\r\n[SEP]\r\nred');
    expect((await Tokenizer.load(join(folder, 'crlf.txt'))).vocabulary.at(-1)).toBe('red');
    await expect(Tokenizer.load(join(folder, 'nothing'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await writeFile(join(folder, 'other.txt'), 'a\nb\n');
    await expect(Tokenizer.load(join(folder, 'other.txt'))).rejects.toMatchObject({ code: 'CORRUPT' });
  });
});

interface Cases {
  max_length: number;
  do_lower_case: boolean;
  texts: string[];
  tokens: string[][];
  input_ids: number[][];
  attention_mask: number[][];
  token_type_ids: number[][];
}

const golden = ['golden', 'feddat', 'tokenizer'];
describe.skipIf(!hasShared(...golden))('the reference cases', () => {
  it('have the same tokens, ids and masks', async () => {
    const cases = JSON.parse(await readFile(sharedPath(...golden, 'cases.json'), 'utf8')) as Cases;
    const reference = await Tokenizer.load(sharedPath(...golden), { lowerCase: cases.do_lower_case });
    const encoded = reference.encode(cases.texts, { maxLength: cases.max_length, padTo: 'max' });
    expect([...encoded.inputIds]).toEqual(cases.input_ids.flat());
    expect([...encoded.attentionMask]).toEqual(cases.attention_mask.flat());
    expect([...encoded.tokenTypeIds]).toEqual(cases.token_type_ids.flat());
    for (const [index, text] of cases.texts.entries()) {
      const expected = cases.tokens[index]!.filter((token) => token !== '[PAD]');
      expect(reference.tokensOf(text, cases.max_length)).toEqual(expected);
    }
  });
});
