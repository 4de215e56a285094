// Stickers drawn by code: they move, they loop, they make a data set.

import { describe, expect, test } from 'vitest';
import { StickerDataset } from '../src/data/stickers/dataset.js';
import { frameOf } from '../src/stickers/animation.js';
import { DRAWINGS } from '../src/stickers/synthetic/drawings.js';
import { drawSticker, generateStickers } from '../src/stickers/synthetic/generate.js';
import { temporaryFolder } from './data-support.js';

const difference = (a: Uint8Array, b: Uint8Array) =>
  a.reduce((sum, value, index) => sum + Math.abs(value - b[index]!), 0) / a.length;

describe('drawn stickers', () => {
  test('are a dozen at least, with captions and names of their own', () => {
    expect(DRAWINGS.length).toBeGreaterThanOrEqual(12);
    expect(new Set(DRAWINGS.map(({ name }) => name)).size).toBe(DRAWINGS.length);
    expect(new Set(DRAWINGS.map(({ caption }) => caption)).size).toBe(DRAWINGS.length);
  });

  test.each(DRAWINGS)('$name: $caption', async (drawing) => {
    const animation = await drawSticker(drawing, { size: 48, frames: 8 });
    expect(animation.rgba).toHaveLength(8 * 48 * 48 * 4);
    const frames = Array.from({ length: 8 }, (_, index) => frameOf(animation, index));
    const steps = frames.slice(1).map((frame, index) => difference(frame, frames[index]!));
    // It moves, visibly, and the way back to the start is no longer than the other steps.
    expect(Math.max(...steps)).toBeGreaterThan(1);
    const closing = difference(frames[7]!, frames[0]!);
    expect(closing).toBeLessThan(1.5 * Math.max(...steps));
    // Something is drawn, and something is transparent, in every frame.
    for (const frame of frames) {
      const alpha = frame.filter((_, index) => index % 4 === 3);
      expect(alpha.filter((value) => value === 255).length).toBeGreaterThan(30);
      expect(alpha.filter((value) => value === 0).length).toBeGreaterThan(200);
    }
  });

  test('as a folder they are a data set', async () => {
    const folder = await temporaryFolder();
    expect(await generateStickers(folder, { size: 32, frames: 8 })).toBe(DRAWINGS.length);
    const dataset = await (await StickerDataset.fromFolder(folder, { size: 32, channels: 4 })).prepare();
    expect(dataset.size).toBe(DRAWINGS.length);
    expect(dataset.report.skipped).toEqual({});
    const ball = dataset.samples.find(({ name }) => name === 'ball');
    expect(ball?.caption).toBe('a red ball bounces up and down');
    expect((await dataset.clip(ball!)).frames).toBeGreaterThanOrEqual(6);
  });

  test('impossible sizes', async () => {
    await expect(drawSticker(DRAWINGS[0]!, { size: 0 })).rejects.toThrow(/between 1 and 1024 for size/);
  });
});
