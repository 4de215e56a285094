// Data sets: the VQA v2 format, bad samples, folders divided among clients.

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { AnswerVocabulary } from '../src/data/answers.js';
import { listParts, loadClients, loadPart, loadParts } from '../src/data/clients.js';
import { ImageProcessor } from '../src/data/image-processor.js';
import { indexPictures } from '../src/data/picture-index.js';
import { VqaDataset } from '../src/data/vqa.js';
import { temporaryFolder, writePart, writePicture, writeSound } from './data-support.js';

let folder = '';

beforeAll(async () => {
  folder = await temporaryFolder();
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

  it('counts entries that are no objects and keeps the others', async () => {
    const [picture, questions, annotations] = ['p.png', 'q.json', 'a.json'].map((file) =>
      join(folder, `single-${file}`),
    ) as [string, string, string];
    await writePicture(picture, 1);
    const entry = (id: number) => ({
      question_id: id,
      image_id: 1,
      question: 'What?',
      multiple_choice_answer: 'cat',
    });
    await writeFile(
      questions,
      JSON.stringify({ questions: [null, entry(1), 'two', [], entry(2), entry(3)] }),
    );
    await writeFile(annotations, JSON.stringify({ annotations: [entry(1), null, 7, [entry(2)], entry(3)] }));
    const dataset = await VqaDataset.load({
      questions,
      annotations,
      name: 'single',
      pictures: () => picture,
    });
    expect(dataset.samples.map(({ questionId }) => questionId)).toEqual([1, 3]);
    expect(dataset.report).toMatchObject({
      questions: 6,
      kept: 2,
      skipped: { 'malformed question': 3, 'malformed annotation': 3, 'no annotation': 1 },
    });
    expect(dataset.report.examples).toContain(`malformed question: entry 0 of ${questions} is null`);
    expect(dataset.report.examples).toContain(`malformed annotation: entry 1 of ${annotations} is null`);
    const part = dataset.subset([1, 2]);
    expect(part.report).toMatchObject({ questions: 2, kept: 1, skipped: { 'no annotation': 1 } });
    expect(part.unassigned.counts).toEqual({ 'malformed question': 3, 'malformed annotation': 3 });
  });

  it('skips an annotation whose list of answers is damaged, and says where', async () => {
    const root = join(folder, 'damaged-answers');
    await mkdir(root);
    const [picture, questions, annotations] = ['p.png', 'q.json', 'a.json'].map((file) =>
      join(root, file),
    ) as [string, string, string];
    await writePicture(picture, 1);
    const lists = ['cat', [{ answer: 'cat' }, 'dog'], [{ answer: 7 }], [null], [], [{ answer: 'cat' }]];
    const ids = lists.map((_, index) => index + 1);
    const asked = ids.map((id) => ({ question_id: id, image_id: 1, question: 'What?' }));
    await writeFile(questions, JSON.stringify({ questions: asked }));
    const given = lists.map((answers, index) => ({
      question_id: index + 1,
      answers,
      multiple_choice_answer: 'dog',
    }));
    await writeFile(annotations, JSON.stringify({ annotations: given }));
    const dataset = await VqaDataset.load({ questions, annotations, pictures: () => picture });
    expect(dataset.samples.map(({ questionId, counts }) => [questionId, counts])).toEqual([
      [5, [{ answer: 'dog', count: 10 }]],
      [6, [{ answer: 'cat', count: 1 }]],
    ]);
    expect(dataset.report).toMatchObject({ questions: 6, kept: 2, skipped: { 'no annotation': 4 } });
    expect(dataset.report.examples).toEqual([
      'no annotation: question 1: Expected a list for answers but received "cat"',
      'no annotation: question 2: Expected {"answer": text} for answers[1] but received "dog"',
      'no annotation: question 3: Expected {"answer": text} for answers[0] but received {"answer":7}',
    ]);
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
