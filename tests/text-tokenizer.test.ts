// Tokenizers of pretrained text encoders, and the cache of encoded captions. The expected ids follow by hand from vocabularies
// of a few tokens.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { PretrainedTokenizer, type TextTokenizer } from '../src/data/text-tokenizer.js';
import { FrozenTextEncoder } from '../src/models/text-encoder.js';
import { temporaryFolder } from './data-support.js';
import { rejection } from './native-support.js';
import { bertKind, clipKind, drawn, modelFolder, t5Kind } from './support/encoder-folders.js';
import { expectSame } from './support/reference/check.js';
import { CLIP_MERGES, CLIP_VOCAB, T5_TOKENIZER } from './support/tokenizers.js';

async function clipFolder(files: Record<string, string> = {}): Promise<string> {
  const folder = await temporaryFolder();
  await writeFile(join(folder, 'vocab.json'), JSON.stringify(CLIP_VOCAB));
  await writeFile(join(folder, 'merges.txt'), CLIP_MERGES);
  for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
  return folder;
}

const found = async (folder: string, kind: 'clip' | 'bert' | 't5') =>
  (await PretrainedTokenizer.find(folder, kind)) as PretrainedTokenizer;

describe('CLIP, from vocab.json and merges.txt', () => {
  test('lower case, pairs, the end of a word, start and end tokens, padding with the end token', async () => {
    const tokenizer = await found(await clipFolder(), 'clip');
    const rows = tokenizer.encode(['Cat!', 'CA  tac'], 7);
    expect([...rows.inputIds.slice(0, 7)]).toEqual([10, 7, 9, 11, 11, 11, 11]);
    expect([...rows.attentionMask.slice(0, 7)]).toEqual([1, 1, 1, 1, 0, 0, 0]);
    // "ca" ends a word, so its last letter is a</w>: no merge; "tac" is t, a, c</w>.
    expect([...rows.inputIds.slice(7)]).toEqual([10, 0, 3, 2, 1, 5, 11]);
  });

  test('cutting keeps the end token; the padding token is the folder’s', async () => {
    const settings = JSON.stringify({ pad_token: { content: '!', lstrip: false } });
    const tokenizer = await found(await clipFolder({ 'special_tokens_map.json': settings }), 'clip');
    expect([...tokenizer.encode(['cat cat cat'], 4).inputIds]).toEqual([10, 7, 7, 11]);
    expect([...tokenizer.encode([''], 4).inputIds]).toEqual([10, 11, 8, 8]);
    expect(() => tokenizer.encode(['cat'], 2)).toThrow(/above 2 .* received 2/);
  });

  test('is found in the folder `tokenizer` beside the model, as in diffusers', async () => {
    const root = await temporaryFolder();
    const tokens = await clipFolder();
    const { rename, mkdir } = await import('node:fs/promises');
    await rename(tokens, join(root, 'tokenizer'));
    await mkdir(join(root, 'text_encoder'));
    const tokenizer = await found(join(root, 'text_encoder'), 'clip');
    expect([...tokenizer.encode(['cat'], 3).inputIds]).toEqual([10, 7, 11]);
    expect(await PretrainedTokenizer.find(await temporaryFolder(), 'clip')).toBeUndefined();
  });

  test('files that are damaged', async () => {
    const cases: [Record<string, string>, RegExp][] = [
      [{ 'vocab.json': '{"a": "b"}' }, /vocab\.json/],
      [{ 'vocab.json': '{"a": 1}' }, /<\|startoftext\|> in .*vocab\.json/],
      [{ 'tokenizer.json': '{"model": {"type": "Sparkle"}}' }, /Expected a tokenizer in .*tokenizer\.json/],
      [{ 'tokenizer_config.json': '{"pad_token": 5}' }, /pad_token/],
      [{ 'tokenizer_config.json': '{"pad_token": "<none>"}' }, /padding token <none>/],
    ];
    for (const [files, says] of cases) {
      const error = await rejection(found(await clipFolder(files), 'clip'));
      expect(error).toMatchObject({ code: 'CORRUPT', message: expect.stringMatching(says) });
    }
  });
});

test('T5, from tokenizer.json: the end token alone, padding 0', async () => {
  const folder = await temporaryFolder();
  await writeFile(join(folder, 'tokenizer.json'), JSON.stringify(T5_TOKENIZER));
  const tokenizer = await found(folder, 't5');
  const rows = tokenizer.encode(['cats a', 'cat cat cat cat'], 5);
  expect([...rows.inputIds]).toEqual([4, 6, 5, 1, 0, 4, 4, 4, 4, 1]);
  expect([...rows.attentionMask]).toEqual([1, 1, 1, 1, 0, 1, 1, 1, 1, 1]);
});

test('BERT, from vocab.txt', async () => {
  const folder = await temporaryFolder();
  await writeFile(join(folder, 'vocab.txt'), '[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncat\n##s\nCat\n');
  expect([...(await found(folder, 'bert')).encode(['a Cats'], 6).inputIds]).toEqual([2, 4, 5, 6, 3, 0]);
  await writeFile(join(folder, 'tokenizer_config.json'), '{"do_lower_case": false}');
  expect([...(await found(folder, 'bert')).encode(['a Cats'], 6).inputIds]).toEqual([2, 4, 7, 6, 3, 0]);
});

describe('encoding captions', () => {
  /** Counts what it is asked for. */
  class Counting implements TextTokenizer {
    readonly seen: string[] = [];
    encode(texts: readonly string[], length: number) {
      this.seen.push(...texts);
      const inputIds = Int32Array.from(
        texts.flatMap((text) => Array.from({ length }, (_, i) => (text.length + i) % 40)),
      );
      const attentionMask = Uint8Array.from(
        texts.flatMap(() => Array.from({ length }, (_, i) => Number(i < 2))),
      );
      return { batch: texts.length, length, inputIds, attentionMask };
    }
  }
  const kind = bertKind();
  const { tensors } = drawn(kind.shapes);

  test('each caption is encoded once and comes out as if it had been alone', async () => {
    const tokenizer = new Counting();
    using encoder = await FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors), {
      tokenizer,
      length: 6,
    });
    const first = await encoder.encode(['one', 'three', 'one']);
    expect(first).toMatchObject({ batch: 3, length: 6, width: 12 });
    expect([...first.attentionMask]).toEqual([1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]);
    expectSame(first.states.slice(144), first.states.slice(0, 72), 'the same caption twice');
    const second = await encoder.encode(['three', 'seventeen']);
    expect(tokenizer.seen).toEqual(['one', 'three', 'seventeen']);
    expectSame(second.states.slice(0, 72), first.states.slice(72, 144), 'a kept caption');
    expect(encoder.memory().cachedBytes).toBe(3 * (72 * 4 + 6));
    encoder.dispose();
    await expect(encoder.encode(['five'])).rejects.toThrow(/disposed of/);
  });

  test('the least recently used captions go when the cache is full', async () => {
    const tokenizer = new Counting();
    const cacheBytes = 2 * (72 * 4 + 6);
    using encoder = await FrozenTextEncoder.fromPretrained(await modelFolder(kind.config, tensors), {
      tokenizer,
      length: 6,
      cacheBytes,
    });
    for (const text of ['a', 'bb', 'a', 'ccc', 'a', 'bb']) await encoder.encode([text]);
    expect(tokenizer.seen).toEqual(['a', 'bb', 'ccc', 'bb']);
    expect(encoder.memory().cachedBytes).toBe(cacheBytes);
  });

  test('padding is hidden from BERT and seen by the others, unless told otherwise', async () => {
    const statesOf = async (of: typeof kind, options: { maskPadding?: boolean }) => {
      const folder = await modelFolder(of.config, drawn(of.shapes).tensors);
      using encoder = await FrozenTextEncoder.fromPretrained(folder, {
        tokenizer: new Counting(),
        length: 6,
        ...options,
      });
      return [...(await encoder.encode(['word'])).states];
    };
    expect(await statesOf(kind, {})).toEqual(await statesOf(kind, { maskPadding: true }));
    expect(await statesOf(kind, {})).not.toEqual(await statesOf(kind, { maskPadding: false }));
    expect(await statesOf(t5Kind(), {})).toEqual(await statesOf(t5Kind(), { maskPadding: false }));
  });

  test('without a tokenizer there is a clear error; an aborted signal stops', async () => {
    const folder = await modelFolder(clipKind().config, drawn(clipKind().shapes).tensors);
    using encoder = await FrozenTextEncoder.fromPretrained(folder);
    expect(encoder.length).toBe(9);
    expect(await rejection(encoder.encode(['cat']))).toMatchObject({
      code: 'NOT_FOUND',
      message: expect.stringMatching(/Expected a tokenizer .*tokenizer\.json/),
    });
    const aborted = encoder.encode(['cat'], { signal: AbortSignal.abort() });
    expect(await rejection(aborted)).toMatchObject({ code: 'CANCELLED' });
    expect((await encoder.encode([])).states).toHaveLength(0);
  });
});
