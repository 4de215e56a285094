// Generated files as a browser shows them: frames, times, plays, transparency.

import { join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import { StickerDataset } from '../src/data/stickers/dataset.js';
import type { Animation } from '../src/stickers/animation.js';
import { type ExportOptions, saveAnimation } from '../src/stickers/export.js';
import { StickerPipeline } from '../src/stickers/pipeline.js';
import { DRAWINGS } from '../src/stickers/synthetic/drawings.js';
import { drawSticker, generateStickers } from '../src/stickers/synthetic/generate.js';
import { StickerTrainer } from '../src/stickers/trainer.js';
import { browser, type Shown, showInBrowser } from './browser-support.js';
import { temporaryFolder } from './data-support.js';
import { tinyNetwork } from './sticker-support.js';

const SIZE = 24;

/** A drawing with the soft edges of transparent pictures, an uneven rhythm, and one frame that is shown twice. */
async function drawn(loop: number): Promise<Animation> {
  const drawing = DRAWINGS.find(({ name }) => name === 'ghost');
  if (!drawing) throw new Error('Expected a drawing of a ghost');
  const sticker = await drawSticker(drawing, { size: SIZE, frames: 6 });
  const bytes = SIZE * SIZE * 4;
  sticker.rgba.copyWithin(3 * bytes, 2 * bytes, 3 * bytes);
  return { ...sticker, delays: [40, 50, 60, 70, 120, 250], loop };
}

/** What a network of one step makes of nothing, with alpha. */
async function generated(folder: string): Promise<Animation> {
  await generateStickers(join(folder, 'data'), { size: 16, frames: 4 });
  const data = await StickerDataset.fromFolder(join(folder, 'data'), { frames: 4, size: 16, channels: 4 });
  const runDir = join(folder, 'run');
  const trainer = new StickerTrainer({
    network: tinyNetwork,
    data,
    steps: 1,
    batchSize: 1,
    threads: 1,
    runDir,
  });
  for await (const _ of trainer.run());
  using pipeline = await StickerPipeline.load(runDir, { threads: 1 });
  return await pipeline.generate({ prompt: 'a white ghost floats', steps: 2, delay: 80 });
}

interface File {
  animation: Animation;
  path: string;
  shown: Shown;
}

describe.skipIf(!browser)('a browser shows', () => {
  const files = new Map<string, File>();
  const file = (name: string) => files.get(name) as File;

  beforeAll(async () => {
    const folder = await temporaryFolder();
    const three = await drawn(3);
    const wanted: [string, Animation, ExportOptions][] = [
      ['drawn.gif', three, {}],
      ['drawn.webp', three, { lossless: true }],
      ['lossy.webp', three, {}],
      ['once.gif', await drawn(1), {}],
      ['once.webp', await drawn(1), {}],
    ];
    const made = await generated(folder);
    wanted.push(['generated.gif', made, {}], ['generated.webp', made, { lossless: true }]);
    const paths: string[] = [];
    for (const [name, animation, options] of wanted)
      paths.push((await saveAnimation(join(folder, name), animation, options)).path);
    const shown = await showInBrowser(browser as string, paths);
    for (const [index, [name, animation]] of wanted.entries())
      files.set(name, { animation, path: paths[index] as string, shown: shown[index] as Shown });
  });

  test.each([
    ['drawn.gif', '2'],
    ['drawn.webp', '2'],
    ['once.gif', '0'],
    ['once.webp', '0'],
    ['generated.gif', 'Infinity'],
    ['generated.webp', 'Infinity'],
  ])('%s: size, frames, times, plays', (name, repetitions) => {
    const { animation, shown } = file(name);
    expect(shown.repetitions).toBe(repetitions);
    for (const { width, height } of shown.frames)
      expect([width, height]).toEqual([animation.width, animation.height]);
    const times = shown.frames.map(({ durationMs }) => durationMs);
    // WebP stores a frame that is shown twice once, for both times.
    const delays = [...animation.delays];
    if (name.endsWith('webp') && delays.length === 6) delays.splice(2, 2, 130);
    expect(times).toEqual(delays);
  });

  test.each(['drawn.webp', 'generated.webp'])('%s: every pixel, with its alpha', (name) => {
    const { animation, shown } = file(name);
    for (const [index, want] of framesOverTime(animation, shown).entries()) {
      const { rgba } = shown.frames[index]!;
      for (let i = 0; i < rgba.length; i += 4) {
        expect(rgba[i + 3]).toBe(want[i + 3]);
        if (rgba[i + 3]! > 0) for (let c = 0; c < 3; c++) near(rgba[i + c]!, want[i + c]!, 1);
      }
    }
    expect(new Set(animation.rgba.filter((_, i) => i % 4 === 3)).size).toBeGreaterThan(10);
  });

  test('lossy.webp: alpha as it is, colours nearly', () => {
    const { animation, shown } = file('lossy.webp');
    for (const [index, want] of framesOverTime(animation, shown).entries()) {
      const { rgba } = shown.frames[index]!;
      let difference = 0;
      for (let i = 0; i < rgba.length; i += 4) {
        expect(rgba[i + 3]).toBe(want[i + 3]);
        if (want[i + 3] === 255)
          for (let c = 0; c < 3; c++) difference += Math.abs(rgba[i + c]! - want[i + c]!);
      }
      expect(difference / rgba.length).toBeLessThan(10);
    }
  });

  test.each(['drawn.gif', 'generated.gif'])(
    '%s: opaque or transparent, with the colours of the file',
    async (name) => {
      const { animation, path, shown } = file(name);
      const read = await sharp(path, { animated: true }).ensureAlpha().raw().toBuffer();
      const bytes = animation.width * animation.height * 4;
      for (const [index, { rgba }] of shown.frames.entries()) {
        for (let i = 0; i < bytes; i += 4) {
          const at = index * bytes + i;
          const opaque = animation.rgba[at + 3]! >= 128;
          expect(rgba[i + 3]).toBe(opaque ? 255 : 0);
          if (opaque) expect(rgba.slice(i, i + 3)).toEqual([...read.subarray(at, at + 3)]);
        }
      }
    },
  );

  test.each(['drawn.gif', 'drawn.webp'])('%s: what is behind it, through it', (name) => {
    const { shown } = file(name);
    const { rgba } = shown.frames[0]!;
    for (let i = 0; i < rgba.length; i += 4) {
      const alpha = rgba[i + 3]! / 255;
      for (let c = 0; c < 3; c++)
        near(shown.onGreen[i + c]!, alpha * rgba[i + c]! + (1 - alpha) * (c === 1 ? 255 : 0), 2);
    }
    const clear = rgba.filter((x, i) => i % 4 === 3 && x === 0).length;
    expect(clear).toBeGreaterThan((SIZE * SIZE) / 10);
    expect(clear).toBeLessThan(SIZE * SIZE);
  });
});

function near(received: number, expected: number, tolerance: number): void {
  if (!(Math.abs(received - expected) <= tolerance)) expect(received).toBe(expected);
}

/** The frame of an animation that belongs on the screen when each shown frame appears. */
function framesOverTime({ rgba, delays }: Animation, shown: Shown): Uint8Array[] {
  const bytes = rgba.length / delays.length;
  let startMs = 0;
  return shown.frames.map(({ durationMs }) => {
    let [index, endMs] = [0, delays[0]!];
    while (endMs <= startMs) endMs += delays[++index]!;
    startMs += durationMs;
    return rgba.subarray(index * bytes, (index + 1) * bytes);
  });
}
