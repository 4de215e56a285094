// Questions and answers: the VQA v2 format, scoring, bad samples, clients, batches.

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import { normaliseAnswer } from '../src/data/answer-text.js';
import { AnswerVocabulary, answerScore, countAnswers, vqaAccuracy } from '../src/data/answers.js';
import { Batcher, type VqaBatch } from '../src/data/batches.js';
import { listParts, loadClients, loadPart, loadParts } from '../src/data/clients.js';
import { ImageProcessor } from '../src/data/image-processor.js';
import { indexPictures } from '../src/data/picture-index.js';
import { philox4x32, Random, shuffledOrder } from '../src/data/random.js';
import { Tokenizer } from '../src/data/tokenizer.js';
import { VqaDataset } from '../src/data/vqa.js';
import { hasShared, sharedPath, temporaryFolder } from './data-support.js';

let folder = '';

interface Question {
  id: unknown;
  image: unknown;
  text: unknown;
  answers?: string[];
}

/** Writes one part of a data folder. Ten answers a question: the list repeated. */
async function writePart(root: string, part: string, split: string, questions: Question[]): Promise<void> {
  await mkdir(root, { recursive: true });
  const entries = questions.map(({ id, image, text }) => ({
    question_id: id,
    image_id: image,
    question: text,
  }));
  const annotations = questions
    .filter((question) => question.answers !== undefined)
    .map(({ id, image, answers = [] }) => ({
      question_id: id,
      image_id: image,
      question_type: 'what',
      answer_type: 'other',
      multiple_choice_answer: answers[0] ?? '',
      answers: Array.from({ length: answers.length && 10 }, (_, i) => ({
        answer: answers[i % answers.length],
      })),
    }));
  const name = `${part}_${split}.json`;
  await writeFile(join(root, `questions_${name}`), JSON.stringify({ questions: entries }));
  await writeFile(join(root, `annotations_${name}`), JSON.stringify({ annotations }));
}

async function writePicture(path: string, value: number, width = 40, height = 32): Promise<void> {
  await mkdir(join(path, '..'), { recursive: true });
  const create = { width, height, channels: 3 as const, background: { r: value, g: value, b: value } };
  await sharp({ create }).png().toFile(path);
}

/** A sound part: questions 0..count-1 of pictures 0..pictures-1 with answers red, blue, red, ... */
async function writeSound(
  root: string,
  part: string,
  count: number,
  firstId = 0,
  split = 'train',
): Promise<void> {
  const pictures = Math.ceil(count / 3);
  for (let i = 0; i < pictures; i++)
    await writePicture(join(root, 'images', part, `${firstId + i}.png`), i * 9);
  const questions = Array.from({ length: count }, (_, i) => ({
    id: firstId + i,
    image: firstId + (i % pictures),
    text: i % 2 ? 'What color?' : 'What color is the large thing here?',
    answers: [i % 3 ? 'red' : 'blue'],
  }));
  await writePart(root, part, split, questions);
}

beforeAll(async () => {
  folder = await temporaryFolder();
});

describe('the generator of random numbers', () => {
  it('gives the published words of Philox 4x32-10', () => {
    const hex = (words: number[]) => words.map((word) => word.toString(16).padStart(8, '0')).join(' ');
    expect(hex(philox4x32([0, 0, 0, 0], [0, 0]))).toBe('6627e8d5 e169c58d bc57ac4c 9b00dbd8');
    const ones = 0xffffffff;
    expect(hex(philox4x32([ones, ones, ones, ones], [ones, ones]))).toBe(
      '408f276d 41c83b0e a20bc7c6 6d5451fd',
    );
    const pi = philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]);
    expect(hex(pi)).toBe('d16cfe09 94fdcceb 5001e420 24126ea1');
  });

  it('makes permutations that depend on seed and stream alone', () => {
    const order = shuffledOrder(1000, 7, 3);
    expect([...order].sort((a, b) => a - b)).toEqual(Array.from({ length: 1000 }, (_, i) => i));
    expect(shuffledOrder(1000, 7, 3)).toEqual(order);
    expect(shuffledOrder(1000, 7, 4)).not.toEqual(order);
    expect(shuffledOrder(1000, 8, 3)).not.toEqual(order);
    const atFirst = new Array<number>(4).fill(0);
    for (let stream = 0; stream < 4000; stream++) atFirst[shuffledOrder(4, 1, stream)[0]!]!++;
    for (const count of atFirst) expect(Math.abs(count - 1000)).toBeLessThan(120);
  });

  it('draws below, between and by weight', () => {
    const random = new Random(1, 2 ** 40);
    const counts = [0, 0, 0];
    for (let i = 0; i < 3000; i++) counts[random.weighted([1, 0, 2])]!++;
    expect(counts[1]).toBe(0);
    expect(Math.abs(counts[0]! - 1000)).toBeLessThan(120);
    for (let i = 0; i < 100; i++) expect(random.between(-1, 1)).toBeLessThan(1);
    expect(() => new Random(-1)).toThrow(/integer of at least 0 for seed but received -1/);
    expect(() => random.below(0)).toThrow(/received 0/);
  });
});

describe('answers', () => {
  it('are compared in the normal form of the VQA evaluation', () => {
    const cases = {
      'A Dog.': 'dog',
      two: '2',
      None: '0',
      'on the  table': 'on table',
      dont: "don't",
      "don't": "don't",
      'yes!': 'yes',
      'black/white': 'black white',
      'black, white': 'black white',
      '1,000': '1000',
      '3.5': '3.5',
      't-shirt': 't shirt',
      constructor: 'constructor',
      '': '',
    };
    for (const [given, normal] of Object.entries(cases)) expect(normaliseAnswer(given)).toBe(normal);
  });

  it('score 0.3, 0.6, 0.9, 1 by the number of people', () => {
    expect([0, 1, 2, 3, 4, 10].map(answerScore)).toEqual([0, 0.3, 0.6, 0.9, 1, 1]);
    const counts = countAnswers(['red', 'Red', 'blue', 'a red', 'dark red', 'red', 'blue', '', 'red', 'red']);
    expect(counts[0]).toEqual({ answer: 'red', count: 6 });
    expect(vqaAccuracy('RED', counts)).toBe(1);
    expect(vqaAccuracy('blue', counts)).toBe(0.6);
    expect(vqaAccuracy('dark red', counts)).toBe(0.3);
    expect(vqaAccuracy('green', counts)).toBe(0);
  });

  it('become a vocabulary by frequency', () => {
    const samples = ['red', 'blue', 'red', 'green', 'blue', 'red'].map((answer) => ({ answer, counts: [] }));
    expect(AnswerVocabulary.fromSamples(samples).answers).toEqual(['red', 'blue', 'green']);
    expect(AnswerVocabulary.fromSamples(samples, { top: 2 }).answers).toEqual(['red', 'blue']);
    expect(AnswerVocabulary.fromSamples(samples, { minCount: 3 }).answers).toEqual(['red']);
    expect(() => AnswerVocabulary.fromSamples(samples, { minCount: 9 })).toThrow(
      /at least 9 times but found none/,
    );
    expect(() => new AnswerVocabulary(['red', 'Red'])).toThrow(/'red' is in the list twice/);
    expect(() => new AnswerVocabulary([])).toThrow(/at least 1 answer/);
  });

  it('become soft targets and scores', async () => {
    const vocabulary = new AnswerVocabulary(['red', 'blue', 'green']);
    const samples = [
      { counts: countAnswers(['red', 'red', 'red', 'blue']) },
      { counts: countAnswers(['teal']) },
      { counts: countAnswers(Array(10).fill('green')) },
    ];
    const targets = vocabulary.softTargets(samples);
    expect([...targets]).toEqual([0.9, 0.3, 0, 0, 0, 0, 0, 0, 1].map(Math.fround));
    const logits = Float32Array.of(1, 2, 0, 9, 0, 0, -3, -2, -1);
    expect(vocabulary.scoreOf(logits, samples)).toBeCloseTo(1.3);
    expect(() => vocabulary.scoreOf(logits, samples.slice(1))).toThrow(/2 x 3 logits but received 9/);
    await vocabulary.save(join(folder, 'answers.json'));
    expect((await AnswerVocabulary.load(join(folder, 'answers.json'))).answers).toEqual(vocabulary.answers);
    await writeFile(join(folder, 'other.json'), '{"answers": [1]}');
    await expect(AnswerVocabulary.load(join(folder, 'other.json'))).rejects.toMatchObject({
      code: 'CORRUPT',
    });
  });
});

describe('a data set', () => {
  it('skips bad questions and counts them by reason', async () => {
    const root = join(folder, 'bad');
    await writePicture(join(root, 'images', 'a', 'COCO_val_000000000012.png'), 9);
    await writePart(root, 'a', 'val', [
      { id: 1, image: 12, text: 'Sound?', answers: ['Yes.', 'no'] },
      { id: 1, image: 12, text: 'The same id?', answers: ['yes'] },
      { id: 2, image: 13, text: 'No picture file?', answers: ['yes'] },
      { id: 3, image: undefined, text: 'No picture at all?', answers: ['yes'] },
      { id: 4, image: 12, text: 'No annotation?' },
      { id: 5, image: 12, text: 'No answers?', answers: [] },
      { id: 'six', image: 12, text: 'No id?', answers: ['yes'] },
      { id: 7, image: 12, text: '  ', answers: ['yes'] },
    ]);
    const dataset = await loadPart(root, 'a', 'val');
    expect(dataset.samples).toEqual([
      {
        questionId: 1,
        imageId: 12,
        question: 'Sound?',
        picture: join(root, 'images', 'a', 'COCO_val_000000000012.png'),
        answer: 'yes',
        counts: [
          { answer: 'yes', count: 5 },
          { answer: 'no', count: 5 },
        ],
        questionType: 'what',
        answerType: 'other',
      },
    ]);
    expect(dataset.report).toMatchObject({
      name: 'a (val)',
      questions: 8,
      kept: 1,
      skipped: { 'malformed question': 3, 'missing picture': 2, 'no annotation': 2 },
    });
    expect(dataset.report.examples).toContain('missing picture: question 2: image_id 13 has no picture file');
    expect(String(dataset.skipped)).toBe(
      '7 skipped (3 malformed question, 2 missing picture, 2 no annotation)',
    );
  });

  it('takes one answer without a list as unanimous, and pictures from a function', async () => {
    const path = join(folder, 'one.png');
    await writePicture(path, 1);
    await writeFile(
      join(folder, 'q.json'),
      '{"questions": [{"question_id": 1, "image_id": 1, "question": "What?"}, {"question_id": 2, "image_id": 2, "question": "What?"}]}',
    );
    await writeFile(
      join(folder, 'a.json'),
      '{"annotations": [{"question_id": 1, "multiple_choice_answer": "A cat"}]}',
    );
    const dataset = await VqaDataset.load({
      questions: join(folder, 'q.json'),
      annotations: join(folder, 'a.json'),
      pictures: (imageId) => (imageId === 1 ? path : join(folder, 'nothing.png')),
    });
    expect(dataset.samples[0]).toMatchObject({ picture: path, counts: [{ answer: 'cat', count: 10 }] });
    expect(dataset.report.skipped).toEqual({ 'missing picture': 1 });
  });

  it('is an error when empty, saying why', async () => {
    const root = join(folder, 'empty');
    await mkdir(join(root, 'images'), { recursive: true });
    await writePart(root, 'a', 'train', [{ id: 1, image: 5, text: 'What?', answers: ['x'] }]);
    await expect(loadPart(root, 'a', 'train')).rejects.toThrow(
      /at least 1 usable question in a \(train\) but found 0: 1 skipped \(1 missing picture\); for example .*image_id 5/,
    );
    await writePart(root, 'b', 'train', []);
    await expect(loadPart(root, 'b', 'train')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });

  it('names files that are missing or of another format', async () => {
    const files = (questions: string) => ({
      questions,
      annotations: join(folder, 'a.json'),
      pictures: folder,
    });
    const missing = VqaDataset.load(files(join(folder, 'none.json')));
    await expect(missing).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(missing).rejects.toThrow(/Cannot read questions .*none\.json/);
    await writeFile(join(folder, 'broken.json'), '{"questions": [');
    await expect(VqaDataset.load(files(join(folder, 'broken.json')))).rejects.toThrow(
      /Expected JSON in questions/,
    );
    await expect(VqaDataset.load(files(join(folder, 'a.json')))).rejects.toThrow(/Expected {"questions": \[/);
    const nowhere = {
      questions: join(folder, 'q.json'),
      annotations: join(folder, 'a.json'),
      pictures: join(folder, 'x'),
    };
    await expect(VqaDataset.load(nowhere)).rejects.toThrow(/picture folder/);
  });

  it('refuses two pictures with one id', async () => {
    const root = join(folder, 'twice');
    await writePicture(join(root, 'a_1.png'), 1);
    await writePicture(join(root, 'b_1.png'), 1);
    await expect(indexPictures(root)).rejects.toThrow(
      /one picture for image_id 1 but found .*a_1\.png and .*b_1\.png/,
    );
  });

  it('drops questions without a known answer for training only', async () => {
    const root = join(folder, 'unknown');
    await writeSound(root, 'a', 6);
    const dataset = await loadPart(root, 'a', 'train');
    const answers = new AnswerVocabulary(['red']);
    const training = dataset.forTraining(answers);
    expect(training.size).toBe(4);
    expect(training.report.skipped).toEqual({ 'no known answer': 2 });
    expect(dataset.size).toBe(6);
    expect(dataset.countUnanswerable(answers)).toBe(2);
    expect(() => dataset.forTraining(new AnswerVocabulary(['green']))).toThrow(/6 no known answer/);
  });

  it('finds corrupt pictures when asked to decode them all', async () => {
    const root = join(folder, 'corrupt');
    await writeSound(root, 'a', 6);
    const path = join(root, 'images', 'a', '1.png');
    await writeFile(path, (await readFile(path)).subarray(0, 60));
    const images = new ImageProcessor({ shortestEdge: 32 });
    const sound = await (await loadPart(root, 'a', 'train')).withSoundPictures(images);
    expect(sound.size).toBe(3);
    expect(sound.report.skipped).toEqual({ 'corrupt picture': 3 });
    expect(images.cacheStats.pictures).toBe(1);
    const cancelled = sound.withSoundPictures(images, { signal: AbortSignal.abort() });
    await expect(cancelled).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('a folder divided among clients', () => {
  let root = '';
  const write = (name: string, clients: unknown) => writeFile(join(root, name), JSON.stringify({ clients }));
  beforeAll(async () => {
    root = join(folder, 'clients');
    await writeSound(root, 'ink', 6, 100);
    await writeSound(root, 'oil', 9, 200);
    await writeSound(root, 'oil', 3, 300, 'val');
    const ids = (first: number, count: number) => Array.from({ length: count }, (_, i) => first + i);
    await write('clients_style_train.json', {
      ink: { style: 'ink', question_ids: ids(100, 6) },
      oil: { style: 'oil', question_ids: ids(200, 9) },
    });
    await write('clients_function_train.json', {
      even: { question_ids: [100, 102, 104, 200, 202] },
      odd: { question_ids: [101, 103, 201, 203, 999] },
      onlyInk: { question_ids: [105] },
    });
  });

  it('lists and reads its parts', async () => {
    expect(await listParts(root, 'train')).toEqual(['ink', 'oil']);
    expect(await listParts(root, 'val')).toEqual(['oil']);
    expect((await loadPart(root, 'oil', 'train')).size).toBe(9);
    expect((await loadParts(root, { split: 'train' })).size).toBe(15);
    await expect(loadPart(root, 'ink', 'val')).rejects.toThrow(/among oil .* received ink/);
    await expect(loadParts(root, { split: 'test' })).rejects.toThrow(/questions_<part>_test\.json/);
  });

  it('gives every client its questions, in any view', async () => {
    const styles = await loadClients(root, { view: 'style', split: 'train' });
    expect([...styles].map(([name, dataset]) => [name, dataset.size])).toEqual([
      ['ink', 6],
      ['oil', 9],
    ]);
    const functions = await loadClients(root, { view: 'function', split: 'train' });
    expect([...functions.keys()]).toEqual(['even', 'odd', 'onlyInk']);
    expect(functions.get('odd')!.samples.map((sample) => sample.questionId)).toEqual([101, 103, 201, 203]);
    expect(functions.get('odd')!.report.skipped).toEqual({ 'unknown question': 1 });
  });

  it('leaves out parts, and clients with nothing left', async () => {
    const styles = await loadClients(root, { view: 'style', split: 'train', except: ['ink'] });
    expect([...styles.keys()]).toEqual(['oil']);
    const functions = await loadClients(root, { view: 'function', split: 'train', parts: ['oil'] });
    expect([...functions].map(([name, dataset]) => [name, dataset.size])).toEqual([
      ['even', 2],
      ['odd', 2],
    ]);
    expect(functions.get('odd')!.skipped.size).toBe(0);
    const everything = loadParts(root, { split: 'train', except: ['ink', 'oil'] });
    await expect(everything).rejects.toThrow(/all are excepted/);
    const unknown = loadClients(root, { view: 'style', split: 'train', except: ['wax'] });
    await expect(unknown).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  it('names a view that is missing or not of the format', async () => {
    await expect(loadClients(root, { view: 'region', split: 'train' })).rejects.toThrow(
      /clients_region_train\.json/,
    );
    await write('clients_odd_train.json', { ink: { question_ids: ['a'] } });
    await expect(loadClients(root, { view: 'odd', split: 'train' })).rejects.toMatchObject({
      code: 'CORRUPT',
    });
    await write('clients_none_train.json', { ink: { question_ids: [] } });
    await expect(loadClients(root, { view: 'none', split: 'train' })).rejects.toThrow(
      /in client ink \(train\) but found 0/,
    );
  });
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
