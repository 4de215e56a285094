// The six tasks: condition masks for any number of frames, draws, word drop, key frames.

import { describe, expect, test } from 'vitest';
import { Random } from '../src/data/random.js';
import { native } from '../src/native.js';
import { dropWords, WORD_DROP_PROBABILITY } from '../src/stickers/captions.js';
import { equalPositions, firstOfClusters, forthAndBack, keyFrames } from '../src/stickers/key-frames.js';
import {
  applyMasks,
  conditionMasks,
  drawCondition,
  drawTask,
  dropsText,
  TASKS,
  type Task,
} from '../src/stickers/tasks.js';
import { kMeansLabels } from './support/reference/k-means.js';

const text = (masks: Uint8Array[]) => masks.map((mask) => mask.join(''));

describe('condition masks', () => {
  test('the published ones with 8 frames', () => {
    expect(text(conditionMasks('interpolation', 3))).toEqual(['10101010', '01010101', '10010010']);
    expect(text(conditionMasks('pre_frame_prediction', 4))).toEqual(['01111111', '00111111', '00011111']);
    expect(text(conditionMasks('post_frame_prediction', 5))).toEqual(['11000000', '11100000', '11110000']);
    expect(text(conditionMasks('it2v', 2))).toEqual(['10000000', '01000000']);
    expect(TASKS.filter(dropsText)).toEqual(['i2v']);
  });

  test('the same rules with other frame counts', () => {
    expect(text(conditionMasks('interpolation', 5, 5))).toEqual(['10101', '01010', '10010']);
    expect(text(conditionMasks('pre_frame_prediction', 5, 5))).toEqual(['01111', '00111', '00011']);
    expect(text(conditionMasks('post_frame_prediction', 5, 5))).toEqual(['11000', '11100', '11110']);
    for (const task of TASKS) {
      for (let frames = 1; frames <= 20; frames++) {
        for (let real = 1; real <= frames; real++) {
          const masks = conditionMasks(task, real, frames);
          expect(masks.length).toBeGreaterThan(0);
          for (const mask of masks) expect(mask).toHaveLength(frames);
        }
      }
    }
  });

  test('numbers that cannot be', () => {
    expect(() => conditionMasks('t2v', 9, 8)).toThrow(
      /between 1 and 8 for the number of real frames but received 9/,
    );
    expect(() => conditionMasks('t2v', 0, 8)).toThrow(/received 0/);
    expect(() => conditionMasks('v2v' as Task, 4, 8)).toThrow(/Expected one of i2v, .* but received "v2v"/);
  });

  test('draws: the same for the same seed, every mask about as often', () => {
    const drawn = (seed: number) => {
      const random = new Random(seed);
      return Array.from({ length: 600 }, () => text([drawCondition('interpolation', 8, 8, random).mask])[0]!);
    };
    expect(drawn(1)).toEqual(drawn(1));
    expect(drawn(1)).not.toEqual(drawn(2));
    for (const mask of ['10101010', '01010101', '10010010']) {
      const count = drawn(3).filter((one) => one === mask).length;
      expect(count).toBeGreaterThan(150);
      expect(count).toBeLessThan(250);
    }
  });

  test('tasks are drawn by weight', () => {
    const random = new Random(4);
    const counts = new Map<Task, number>();
    for (let i = 0; i < 1000; i++) {
      const task = drawTask([0, 1, 0, 3, 0, 0], random);
      counts.set(task, (counts.get(task) ?? 0) + 1);
    }
    expect([...counts.keys()].sort()).toEqual(['interpolation', 't2v']);
    expect(counts.get('t2v')).toBeGreaterThan(200);
    expect(counts.get('t2v')).toBeLessThan(300);
    expect(() => drawTask([0, 0, 0, 0, 0, 0], random)).toThrow(/one of them above 0/);
    expect(() => drawTask([1, 1], random)).toThrow(/Expected 6 task weights/);
  });

  test('masks on values', () => {
    const values = Float32Array.from({ length: 2 * 1 * 3 * 2 }, (_, index) => index + 1);
    const out = applyMasks(
      values,
      { batch: 2, channels: 1, frames: 3 },
      Uint8Array.of(1, 1, 0, 1, 1, 1),
      Uint8Array.of(1, 0, 1),
    );
    expect([...out]).toEqual([1, 2, 0, 0, 0, 0, 7, 8, 0, 0, 11, 12]);
  });
});

describe('word drop', () => {
  test('replaces words and marks, keeps spaces', () => {
    expect(dropWords('a cat waves, twice', new Random(1), 1)).toBe('# # ## #');
    expect(dropWords('a cat waves', new Random(1), 0)).toBe('a cat waves');
    expect(dropWords('小猫在跳舞', new Random(1), 1)).toMatch(/^#+$/);
  });

  test('takes no time for what no text encoder takes', () => {
    const begun = performance.now();
    expect(dropWords('word '.repeat(400_000), new Random(1), 0)).toBe('word '.repeat(2000));
    expect(performance.now() - begun).toBeLessThan(5000);
  });

  test('as often as published', () => {
    const random = new Random(2);
    const captions = Array.from({ length: 5 }, () => dropWords('word '.repeat(1000), random));
    const dropped = captions.join('').match(/#/g)!.length;
    expect(Math.abs(dropped / 5000 - WORD_DROP_PROBABILITY)).toBeLessThan(0.02);
  });
});

describe('key frames', () => {
  test('more than any clip has are refused', async () => {
    await expect(keyFrames('equal', [[1], [2]], 1e9)).rejects.toThrow(
      /^Expected integer between 1 and 65536 for the number of key frames but received 1000000000$/,
    );
  });

  const at = (...values: number[]) => values.map((value) => [value, 0]);

  test('short animations are played forth and back', async () => {
    expect(forthAndBack(3, 8)).toEqual([0, 1, 2, 1, 0, 1, 2, 1, 0]);
    expect(await keyFrames('equal', at(0), 4)).toEqual([0, 0, 0, 0]);
    expect(await keyFrames('difference', at(0, 1), 4)).toHaveLength(4);
  });

  test('equal distances round exact halves to even', () => {
    expect(equalPositions(6, 5)).toEqual([0, 1, 2, 4, 5]);
    expect(equalPositions(9, 1)).toEqual([0]);
  });

  test('difference takes the frames after the largest jumps', async () => {
    expect(await keyFrames('difference', at(0, 0, 9, 9, 9, 2, 2, 3), 3)).toEqual([2, 5, 7]);
  });

  test('clusters take the first frame of every group', async () => {
    expect(await keyFrames('clusters', at(0, 0.1, 5, 5.1, 5, 9, 9.1, 0.05), 3)).toEqual([0, 2, 5]);
  });

  test('clusters of an animation that hardly moves are filled up', async () => {
    const frames = await firstOfClusters(at(1, 1, 1, 1, 2, 1, 1, 1, 1), 4);
    expect(frames).toHaveLength(4);
    expect(new Set(frames).size).toBe(4);
    expect(frames).toContain(4);
  });

  test.each(['equal', 'difference', 'clusters'] as const)(
    '%s gives as many as wanted, in order',
    async (method) => {
      const random = new Random(7);
      for (let length = 1; length < 30; length++) {
        const features = Array.from({ length }, () => [random.uniform(), random.uniform(), random.uniform()]);
        const frames = await keyFrames(method, features, 8);
        expect(frames).toHaveLength(8);
        expect(frames.every((frame) => frame >= 0 && frame < length)).toBe(true);
        if (length >= 8) expect(frames).toEqual([...new Set(frames)].sort((a, b) => a - b));
      }
    },
  );

  test.each([
    [1, 1, 1],
    [7, 3, 7],
    [60, 768, 8],
    [90, 5, 30],
  ])(
    'the clusters of %i frames of %i numbers in %i are those of the plain algorithm',
    async (frames, length, count) => {
      const random = new Random(frames);
      for (const levels of [2, 256, 1e9]) {
        const features = Array.from({ length: frames }, () =>
          Float64Array.from({ length }, () => Math.floor(levels * random.uniform())),
        );
        const flat = Float64Array.from(features.flatMap((feature) => [...feature]));
        expect([...(await native.clusterLabels(flat, frames, count))]).toEqual(kMeansLabels(features, count));
      }
    },
  );

  test('clusters are found beside the event loop', async () => {
    const random = new Random(3);
    const features = Array.from({ length: 300 }, () =>
      Uint8Array.from({ length: 768 }, () => 256 * random.uniform()),
    );
    let longest = 0;
    let last = performance.now();
    const timer = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 1);
    const begin = performance.now();
    await keyFrames('clusters', features, 128);
    clearInterval(timer);
    expect(longest).toBeGreaterThan(0);
    expect(longest).toBeLessThan((performance.now() - begin) / 2);
  });

  test('what cannot be', async () => {
    await expect(keyFrames('equal', [], 4)).rejects.toThrow(/at least 1 frame/);
    await expect(keyFrames('equal', at(1), 0)).rejects.toThrow(
      /between 1 and 65536 for the number of key frames/,
    );
    await expect(keyFrames('best' as 'equal', at(1, 2, 3), 2)).rejects.toThrow(/Expected one of equal/);
    await expect(keyFrames('clusters', [[], [], []], 2)).rejects.toThrow(
      /vectors of one length but received 0/,
    );
  });
});
