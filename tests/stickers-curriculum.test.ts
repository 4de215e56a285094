// Curricula: weights over the course of training, state and its restoration, curricula of one's own.

import { describe, expect, test } from 'vitest';
import { Random } from '../src/data/random.js';
import { AdaptiveCurriculum } from '../src/stickers/curriculum/adaptive.js';
import { CURRICULUM_NAMES, curriculumOf } from '../src/stickers/curriculum/by-name.js';
import type { Curriculum } from '../src/stickers/curriculum/curriculum.js';
import { DifficultyAdaptiveCurriculum } from '../src/stickers/curriculum/difficulty-adaptive.js';
import { StaticCurriculum } from '../src/stickers/curriculum/static.js';
import { TASKS } from '../src/stickers/tasks.js';

const interpolation = TASKS.indexOf('interpolation');
const t2v = TASKS.indexOf('t2v');

describe('static', () => {
  test('easy tasks fade out, hard ones in', () => {
    const curriculum = new StaticCurriculum(100);
    expect(curriculum.weights(0)[interpolation]).toBe(0.9);
    expect(curriculum.weights(50)[interpolation]).toBe(0.5);
    expect(curriculum.weights(100)[interpolation]).toBe(0.1);
    expect(curriculum.weights(25)[t2v]).toBeCloseTo(0.3, 12);
    expect(curriculum.weights(1e9)[t2v]).toBe(0.9);
    expect(() => new StaticCurriculum(1)).toThrow(
      /at least 2 for the steps of the curriculum but received 1/,
    );
  });
});

describe('adaptive', () => {
  test('is neutral until it knows enough, then follows the loss', () => {
    const curriculum = new AdaptiveCurriculum();
    for (let step = 0; step < 11; step++) {
      expect(curriculum.level).toBe(2);
      expect(new Set(curriculum.weights())).toEqual(new Set([0.5]));
      curriculum.observe(1 - step / 100);
    }
    curriculum.observe(0.5);
    expect(curriculum.level).toBe(4);
    expect(curriculum.weights()[t2v]).toBe(0.9);
    curriculum.observe(5);
    expect(curriculum.level).toBe(0);
    expect(curriculum.weights()[interpolation]).toBe(0.9);
  });

  test('asking twice changes nothing', () => {
    const curriculum = new DifficultyAdaptiveCurriculum(100);
    for (let step = 0; step < 30; step++) curriculum.observe(Math.sin(step));
    const before = JSON.stringify(curriculum.state());
    expect(curriculum.weights(30)).toEqual(curriculum.weights(30));
    expect(JSON.stringify(curriculum.state())).toBe(before);
  });

  test('old losses leave the window', () => {
    const curriculum = new AdaptiveCurriculum({ window: 20 });
    for (let step = 0; step < 200; step++) curriculum.observe(step);
    const { losses, signals } = curriculum.state() as { losses: number[]; signals: number[] };
    expect(losses).toEqual(Array.from({ length: 20 }, (_, index) => 180 + index));
    expect(signals).toHaveLength(20);
    expect(curriculum.level).toBe(0);
  });
});

describe('any curriculum', () => {
  test.each(CURRICULUM_NAMES)('%s goes on after its state went through JSON', (name) => {
    const random = new Random(3);
    const losses = Array.from({ length: 120 }, () => random.uniform());
    const straight = curriculumOf(name, 100);
    const first = curriculumOf(name, 100);
    for (const loss of losses.slice(0, 60)) {
      straight.observe(loss, 't2v');
      first.observe(loss, 't2v');
    }
    const resumed = curriculumOf(name, 100);
    resumed.restore(JSON.parse(JSON.stringify(first.state())));
    for (const [index, loss] of losses.slice(60).entries()) {
      expect(resumed.weights(60 + index)).toEqual(straight.weights(60 + index));
      straight.observe(loss, 't2v');
      resumed.observe(loss, 't2v');
    }
  });

  test('a state of something else is refused', () => {
    const curriculum = new DifficultyAdaptiveCurriculum(100);
    expect(() => curriculum.restore({})).toThrow(
      /Expected a list of numbers for losses .* but received nothing/,
    );
    expect(() => curriculum.restore({ losses: [], signals: [], level: 7 })).toThrow(/Expected level 0 to 4/);
  });

  test('one of your own', () => {
    const own: Curriculum = {
      name: 'text only',
      weights: () => TASKS.map((task) => (task === 't2v' ? 1 : 0)),
      observe: () => {},
      state: () => ({}),
      restore: () => {},
    };
    expect(curriculumOf(own, 100)).toBe(own);
    expect(() => curriculumOf('hardest' as 'static', 100)).toThrow(
      /Expected one of uniform, static, adaptive/,
    );
    expect(() => curriculumOf('toString' as 'static', 100)).toThrow(/Expected one of uniform/);
  });
});
