// Answers: their normal form, their scores, vocabularies and soft targets.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { normaliseAnswer } from '../src/data/answer-text.js';
import { AnswerVocabulary, answerScore, countAnswers, vqaAccuracy } from '../src/data/answers.js';
import { temporaryFolder } from './data-support.js';

let folder = '';

beforeAll(async () => {
  folder = await temporaryFolder();
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
    const twice = join(folder, 'twice.json');
    await writeFile(twice, '{"answers": ["a cat", "cat"]}');
    await expect(AnswerVocabulary.load(twice)).rejects.toMatchObject({
      code: 'CORRUPT',
      message: `Expected different answers but 'cat' is in the list twice (in ${twice})`,
    });
  });
});
