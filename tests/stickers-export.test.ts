// Exported files are read back by another library: frames, delays, loops, transparency, bytes.

import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import { Random } from '../src/data/random.js';
import { native } from '../src/native.js';
import type { Animation } from '../src/stickers/animation.js';
import { contactSheet, encodeGif, encodeWebp } from '../src/stickers/encode.js';
import { checkSaving, exportAnimation, saveAnimation } from '../src/stickers/export.js';
import { temporaryFolder } from './data-support.js';

interface Read {
  rgba: Buffer;
  width: number;
  pageHeight: number | undefined;
  delay: number[] | undefined;
  loop: number | undefined;
}

async function read(bytes: Uint8Array): Promise<Read> {
  const file = Buffer.from(bytes);
  const { width, pageHeight, delay, loop } = await sharp(file, { animated: true }).metadata();
  const rgba = await sharp(file, { animated: true }).ensureAlpha().raw().toBuffer();
  return { rgba, width, pageHeight, delay, loop };
}

/** A square that moves over a background; with `fade` it is partly transparent. */
function moving(size: number, frames: number, background: number[], loop = 0): Animation {
  const rgba = new Uint8Array(frames * size * size * 4);
  for (let f = 0; f < frames; f++) {
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        const inside = x >= f * 2 && x < f * 2 + 5 && y > 2 && y < 8;
        rgba.set(inside ? [220, 40, 10 * f, 255] : background, ((f * size + y) * size + x) * 4);
      }
    }
  }
  return { width: size, height: size, rgba, delays: new Array(frames).fill(80), loop };
}

/** Coloured noise: hard to pack. */
function noisy(size: number, frames: number, colors = 4096): Animation {
  const random = new Random(1);
  const palette = Array.from({ length: colors }, () => [
    random.below(256),
    random.below(256),
    random.below(256),
    255,
  ]);
  const rgba = new Uint8Array(frames * size * size * 4);
  for (let i = 0; i < rgba.length; i += 4) rgba.set(palette[random.below(colors)]!, i);
  return { width: size, height: size, rgba, delays: new Array(frames).fill(50), loop: 0 };
}

describe('GIF', () => {
  test.each([
    ['an opaque background', [10, 200, 30, 255]],
    ['a transparent background', [0, 0, 0, 0]],
  ])('%s: every pixel of every frame', async (_, background) => {
    const animation = moving(24, 8, background);
    const { rgba, width, pageHeight, delay, loop } = await read(await encodeGif(animation));
    expect({ width, pageHeight, delay, loop }).toEqual({
      width: 24,
      pageHeight: 24,
      delay: new Array(8).fill(80),
      loop: 0,
    });
    expect(rgba.length).toBe(animation.rgba.length);
    for (let i = 0; i < rgba.length; i += 4) {
      if (animation.rgba[i + 3] === 0) expect(rgba[i + 3]).toBe(0);
      else expect([...rgba.subarray(i, i + 4)]).toEqual([...animation.rgba.subarray(i, i + 4)]);
    }
  });

  test.each([2, 3, 4, 5, 16, 17, 255])(
    '%i colours in noise that fills the code table many times',
    async (colors) => {
      const animation = noisy(97, 3, colors);
      const bytes = await native.encodeGif(animation.rgba, 97, 97, [5, 5, 5], 0, 255);
      expect(Buffer.compare((await read(bytes)).rgba, Buffer.from(animation.rgba))).toBe(0);
    },
  );

  test('sizes of one pixel, equal frames, plays', async () => {
    for (const [plays, expected] of [
      [0, 0],
      [1, 1],
      [2, 2],
      [7, 7],
    ] as const) {
      const rgba = Uint8Array.of(1, 2, 3, 255, 1, 2, 3, 255, 9, 9, 9, 255);
      const {
        rgba: back,
        delay,
        loop,
      } = await read(await native.encodeGif(rgba, 1, 1, [2, 3, 4], plays, 255));
      expect([...back]).toEqual([...rgba]);
      expect(delay).toEqual([20, 30, 40]);
      expect(loop).toBe(expected);
    }
  });

  test('one palette for all frames, alpha made hard', async () => {
    const animation = noisy(32, 4);
    for (let i = 3; i < animation.rgba.length; i += 4) animation.rgba[i] = i % 256;
    const bytes = await encodeGif(animation, { colors: 30 });
    expect(bytes[10]! & 0x80).toBe(0x80);
    const { rgba } = await read(bytes);
    const colors = new Set<string>();
    for (let i = 0; i < rgba.length; i += 4) {
      expect(rgba[i + 3]).toBe(animation.rgba[i + 3]! >= 128 ? 255 : 0);
      if (rgba[i + 3]! > 0) colors.add(rgba.subarray(i, i + 3).join());
    }
    expect(colors.size).toBeLessThanOrEqual(30);
    expect(colors.size).toBeGreaterThan(15);
  });

  test('delays add up although the format counts in hundredths', async () => {
    const animation = { ...moving(16, 8, [0, 0, 0, 255]), delays: [33, 33, 33, 34, 33, 33, 33, 5] };
    const { delay } = await read(await encodeGif(animation));
    expect(delay!.reduce((sum, one) => sum + one, 0)).toBe(250);
  });

  test('too many colours are refused', async () => {
    const { rgba, width, height } = noisy(40, 1);
    await expect(native.encodeGif(rgba, width, height, [5], 0, 255)).rejects.toThrow(
      /at most 255 different opaque colours/,
    );
  });
});

describe('WebP', () => {
  test('lossless: frames, delays, loop and alpha as they are', async () => {
    const animation = { ...moving(24, 5, [0, 0, 0, 0], 4), delays: [40, 50, 60, 70, 80] };
    for (let i = 3; i < animation.rgba.length; i += 4) if (animation.rgba[i] === 255) animation.rgba[i] = 90;
    const { rgba, delay, loop, pageHeight } = await read(await encodeWebp(animation, { lossless: true }));
    expect({ delay, loop, pageHeight }).toEqual({ delay: [40, 50, 60, 70, 80], loop: 4, pageHeight: 24 });
    expect(rgba.length).toBe(animation.rgba.length);
    for (let i = 3; i < rgba.length; i += 4) {
      expect(rgba[i]).toBe(animation.rgba[i]);
      if (rgba[i]! > 0) expect(Math.abs(rgba[i - 3]! - animation.rgba[i - 3]!)).toBeLessThan(3);
    }
  });
});

describe('files and bytes', () => {
  test('by the ending of the path, with nothing left beside', async () => {
    const folder = await temporaryFolder();
    const animation = moving(24, 4, [255, 255, 255, 255]);
    for (const ending of ['gif', 'webp', 'png'] as const) {
      const saved = await saveAnimation(join(folder, `a.${ending}`), animation);
      expect(saved).toMatchObject({ format: ending, frames: 4, width: 24, height: 24, how: [] });
      const about = await sharp(saved.path, { animated: true }).metadata();
      expect(about.format).toBe(ending);
      if (ending === 'png') expect([about.width, about.height]).toEqual([96, 24]);
    }
    expect((await readdir(folder)).sort()).toEqual(['a.gif', 'a.png', 'a.webp']);
    await expect(saveAnimation(join(folder, 'a.mp4'), animation)).rejects.toThrow(
      /ends in .gif, .webp, .png/,
    );
    await expect(saveAnimation(join(folder, 'no', 'a.gif'), animation)).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
  });

  test('what could not be written is refused before there is an animation', async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, 'a.gif'));
    await expect(checkSaving(join(folder, 'a.gif'))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: `Expected a file to write but ${join(folder, 'a.gif')} is a folder; choose another name`,
    });
    await expect(checkSaving(join(folder, 'no', 'a.gif'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(
      saveAnimation(join(folder, 'a.gif'), moving(24, 4, [255, 255, 255, 255])),
    ).rejects.toMatchObject({ message: expect.stringMatching(/a folder is where a file should be$/) });
    expect(await readdir(folder)).toEqual(['a.gif']);
  });

  test.runIf(process.platform === 'linux')('a folder that cannot be written', async () => {
    await expect(checkSaving('/proc/self/a.gif')).rejects.toMatchObject({
      code: 'IO',
      message: 'Cannot write /proc/self/a.gif: permission is denied; choose a folder that can be written',
    });
  });

  test.each(['gif', 'webp'] as const)('%s: a byte budget is met, and it says how', async (format) => {
    const animation = noisy(96, 8);
    const free = await exportAnimation(animation, { format });
    expect(free.how).toEqual([]);
    let last = Number.POSITIVE_INFINITY;
    const seen = new Set<string>();
    for (const share of [0.9, 0.6, 0.3, 0.1, 0.02]) {
      const maxBytes = Math.floor(free.bytes.length * share);
      const { bytes, how, frames, width } = await exportAnimation(animation, { format, maxBytes });
      expect(bytes.length).toBeLessThanOrEqual(maxBytes);
      expect(bytes.length).toBeLessThanOrEqual(last);
      last = bytes.length;
      for (const words of how) seen.add(words.replace(/\d+(x\d+)?/g, 'n'));
      const about = await sharp(Buffer.from(bytes), { animated: true }).metadata();
      expect([about.width, about.pages]).toEqual([width, frames]);
      expect(about.delay!.reduce((sum, delay) => sum + delay, 0)).toBe(400);
    }
    const level = format === 'gif' ? 'n colours instead of n colours' : 'quality n instead of quality n';
    expect([...seen]).toContain(level);
    expect([...seen]).toContain('n pixels instead of n');
  });

  test('what cannot be', async () => {
    const animation = noisy(64, 4);
    const out = (options: object) => exportAnimation(animation, { format: 'gif', ...options });
    await expect(out({ maxBytes: 100 })).rejects.toThrow(
      /gif of at most 100 bytes but the smallest .* has \d+/,
    );
    const long = { width: 16384, height: 1, rgba: new Uint8Array(16384 * 4), delays: [50], loop: 0 };
    await expect(exportAnimation(long, { format: 'webp' })).rejects.toMatchObject({
      code: 'UNSUPPORTED',
      message: expect.stringMatching(
        /^Expected at most 16383 pixels a side for a WebP but received 16384x1; set/,
      ),
    });
    await expect(out({ colors: 300 })).rejects.toThrow(/between 2 and 255 for colors but received 300/);
    await expect(out({ format: 'mp4' })).rejects.toThrow(/Expected one of gif, webp, png/);
    const short = { ...animation, delays: [50, 50, 50] };
    await expect(exportAnimation(short, { format: 'gif' })).rejects.toThrow(
      /Expected 49152 bytes of RGBA for 3 frames/,
    );
  });

  test('a contact sheet', async () => {
    const sheet = await contactSheet([moving(8, 3, [9, 9, 9, 255]), moving(6, 2, [1, 1, 1, 255])], {
      gap: 2,
      scale: 2,
      background: 'white',
    });
    const { width, height, hasAlpha } = await sharp(Buffer.from(sheet)).metadata();
    expect({ width, height, hasAlpha }).toEqual({
      width: 2 * (3 * 8 + 2 * 2),
      height: 2 * 16,
      hasAlpha: false,
    });
  });
});
