// Batches: order, padding, prefetching, bad pictures, stopping.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { AnswerVocabulary } from '../src/data/answers.js';
import { Batcher, type VqaBatch } from '../src/data/batches.js';
import { loadClients, loadPart, loadParts } from '../src/data/clients.js';
import { ImageProcessor } from '../src/data/image-processor.js';
import { Tokenizer } from '../src/data/tokenizer.js';
import type { VqaDataset } from '../src/data/vqa.js';
import { hasShared, sharedPath, temporaryFolder, writeSound } from './data-support.js';

let folder = '';

beforeAll(async () => {
  folder = await temporaryFolder();
});

describe('batches', () => {
  let dataset: VqaDataset;
  let tokenizer: Tokenizer;
  const images = new ImageProcessor({ shortestEdge: 32 });
  const answers = new AnswerVocabulary(['red', 'blue']);
  const collect = async (batches: AsyncIterable<VqaBatch>) => {
    const all: VqaBatch[] = [];
    for await (const batch of batches) all.push(batch);
    return all;
  };
  const idsOf = (batches: VqaBatch[]) =>
    batches.map((batch) => batch.samples.map((sample) => sample.questionId));

  beforeAll(async () => {
    const root = join(folder, 'batches');
    await writeSound(root, 'a', 20);
    dataset = await loadPart(root, 'a', 'train');
    tokenizer = Tokenizer.fromTexts(dataset.samples.map((sample) => sample.question));
  });
  const batcher = (options = {}) =>
    new Batcher(dataset, { tokenizer, images, answers, batchSize: 6, ...options });

  it('hold padded text, pictures and soft targets', async () => {
    const [first] = await collect(batcher().epoch());
    const { data } = first!;
    expect(data).toMatchObject({ batch: 6, textLength: 10, height: 32, width: 32 });
    expect(data.inputIds).toHaveLength(60);
    expect([...data.attentionMask.slice(10, 20)]).toEqual([1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
    expect(data.pixelValues).toHaveLength(6 * 3 * 32 * 32);
    expect(data.pixelValues[3 * 32 * 32]).toBeCloseTo((9 / 255 - 0.5) / 0.5);
    expect(data.pixelMask.every((value) => value === 1)).toBe(true);
    expect([...data.targets!]).toEqual([0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0]);
  });

  it('cover an epoch once, in an order named by seed and stream', async () => {
    const inOrder = idsOf(await collect(batcher().epoch()));
    expect(inOrder.flat()).toEqual(dataset.samples.map((sample) => sample.questionId));
    expect(inOrder.map((ids) => ids.length)).toEqual([6, 6, 6, 2]);
    const shuffle = { seed: 1, stream: 5 };
    const shuffled = await collect(batcher().epoch({ shuffle }));
    expect(idsOf(shuffled)).not.toEqual(inOrder);
    expect(
      idsOf(shuffled)
        .flat()
        .sort((a, b) => a - b),
    ).toEqual(inOrder.flat());
    const again = await collect(batcher({ prefetch: 0 }).epoch({ shuffle }));
    expect(again).toEqual(shuffled);
    expect(idsOf(await collect(batcher().epoch({ shuffle: { seed: 1, stream: 6 } })))).not.toEqual(
      idsOf(shuffled),
    );
  });

  it('can be resumed at any batch', async () => {
    const shuffle = { seed: 3, stream: 0 };
    const all = await collect(batcher().epoch({ shuffle }));
    const rest = await collect(batcher().epoch({ shuffle, firstBatch: 2 }));
    expect(rest).toEqual(all.slice(2));
    expect(await collect(batcher().epoch({ firstBatch: 4 }))).toEqual([]);
  });

  it('are prepared ahead, but not further than asked', async () => {
    const fresh = new ImageProcessor({ shortestEdge: 32 });
    const epoch = batcher({ images: fresh, prefetch: 1, batchSize: 2 }).epoch();
    await epoch.next();
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(fresh.cacheStats.pictures).toBe(4);
    await epoch.return();
  });

  it('stop at once when the signal is aborted', async () => {
    const controller = new AbortController();
    const epoch = batcher().epoch({ signal: controller.signal });
    await epoch.next();
    controller.abort();
    await expect(epoch.next()).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(await epoch.next()).toEqual({ done: true, value: undefined });
  });

  it('leave out questions whose picture turns out bad, and report each once', async () => {
    const root = join(folder, 'batches-bad');
    await writeSound(root, 'a', 9);
    await writeFile(join(root, 'images', 'a', '0.png'), 'nothing');
    const damaged = await loadPart(root, 'a', 'train');
    const made = new Batcher(damaged, {
      tokenizer,
      images: new ImageProcessor({ shortestEdge: 32 }),
      batchSize: 4,
    });
    const batches = await collect(made.epoch());
    expect(idsOf(batches)).toEqual([[1, 2], [4, 5, 7], [8]]);
    expect(batches.map((batch) => batch.skipped.map((sample) => sample.questionId))).toEqual([
      [0, 3],
      [6],
      [],
    ]);
    expect(batches[0]!.data.targets).toBeUndefined();
    await collect(made.epoch());
    expect(damaged.report.skipped).toEqual({ 'corrupt picture': 3 });
    for (const name of ['1.png', '2.png']) await writeFile(join(root, 'images', 'a', name), 'nothing');
    const none = new Batcher(damaged, {
      tokenizer,
      images: new ImageProcessor({ shortestEdge: 32 }),
      batchSize: 4,
    });
    await expect(collect(none.epoch())).rejects.toThrow(
      /at least 1 usable picture in a \(train\) but found none/,
    );
  });

  it('refuse impossible numbers', () => {
    expect(() => batcher({ batchSize: 0 })).toThrow(/at least 1 for batchSize but received 0/);
    expect(() => batcher({ maxTextLength: 1 })).toThrow(/at least 2 for maxTextLength but received 1/);
  });
});

const emoji = ['data', 'emoji_vqa'];

describe.skipIf(!hasShared(...emoji))('the emoji pictures', () => {
  it('are divided into clients in both views, with the documented sizes', async () => {
    const root = sharedPath(...emoji);
    const answers = await AnswerVocabulary.load(join(root, 'answers.json'));
    expect(answers.size).toBe(119);
    const sizes = async (view: string, split: string) =>
      Object.fromEntries(
        [...(await loadClients(root, { view, split }))].map(([name, { size }]) => [name, size]),
      );
    expect(await sizes('style', 'train')).toEqual({
      twemoji: 2159,
      noto: 2071,
      openmoji: 2047,
      fluent3d: 1963,
      fxemoji: 2049,
    });
    expect(await sizes('function', 'val')).toEqual({
      recognition: 702,
      category: 353,
      attribute: 192,
      presence: 220,
      reading_and_counting: 70,
    });
    const all = await loadParts(root, { split: 'train' });
    expect(all.report).toMatchObject({ questions: 10289, kept: 10289, skipped: {} });
    expect(all.countUnanswerable(answers)).toBe(0);
    expect([...AnswerVocabulary.fromSamples(all.samples).answers].sort()).toEqual(
      [...answers.answers].sort(),
    );
    const noto = await loadPart(root, 'noto', 'val');
    const tokenizer = Tokenizer.fromTexts(all.samples.map((sample) => sample.question));
    const images = new ImageProcessor({ shortestEdge: 64 });
    const batcher = new Batcher(noto, { tokenizer, images, answers, batchSize: 32 });
    let seen = 0;
    for await (const { data, samples } of batcher.epoch()) {
      seen += samples.length;
      expect([data.height, data.width]).toEqual([64, 64]);
      expect(data.targets!.reduce((sum, target) => sum + target, 0)).toBe(samples.length);
    }
    expect(seen).toBe(313);
    expect(images.cacheStats.pictures).toBe(new Set(noto.samples.map((sample) => sample.imageId)).size);
  });
});
