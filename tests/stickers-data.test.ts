// Sticker data sets: formats, captions, bad files, clips, batches, splits, the cache on disk.

import { cp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import { type StickerBatch, StickerDataset } from '../src/data/stickers/dataset.js';
import { decodeSticker, readSticker } from '../src/data/stickers/decode.js';
import { ANIMATION_LIMITS } from '../src/data/stickers/limits.js';
import { hasShared, sharedPath, temporaryFolder } from './data-support.js';
import { animatedPng, type PngFrame, solidFrames } from './sticker-support.js';

const decode = async (path: string, limits = {}) => {
  const all = { ...ANIMATION_LIMITS, ...limits };
  return decodeSticker(await readSticker(path, all), all);
};

async function animated(path: string, frames: Uint8Array, count: number, size = 8): Promise<void> {
  const raw = { width: size, height: size * count, channels: 4, pageHeight: size } as const;
  const picture = sharp(frames, { raw });
  const delay = Array.from({ length: count }, (_, index) => 40 + 10 * index);
  if (path.endsWith('.gif')) await picture.gif({ delay, loop: 3 }).toFile(path);
  else await picture.webp({ delay, loop: 3, lossless: true }).toFile(path);
}

const colors = [
  [250, 10, 20, 255],
  [10, 240, 30, 255],
  [30, 20, 230, 255],
  [200, 200, 10, 255],
];

describe('formats', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await temporaryFolder();
  });

  test.each(['gif', 'webp'])('%s: frames, delays, loop', async (ending) => {
    const path = join(folder, `four.${ending}`);
    await animated(path, solidFrames(colors, 8), 4);
    const { width, height, rgba, delays, loop } = await decode(path);
    expect({ width, height, delays, loop }).toEqual({
      width: 8,
      height: 8,
      delays: [40, 50, 60, 70],
      loop: 3,
    });
    expect(Buffer.compare(rgba, solidFrames(colors, 8))).toBe(0);
  });

  test('a sequence of numbered PNGs, by number and not by letter', async () => {
    const sequence = join(folder, 'sequence');
    await mkdir(sequence);
    for (const [index, number] of [1, 2, 10, 11].entries()) {
      const raw = { width: 8, height: 8, channels: 4 } as const;
      const file = join(sequence, `frame${number}.png`);
      await sharp(solidFrames([colors[index]!], 8), { raw })
        .png()
        .toFile(file);
    }
    await writeFile(join(sequence, 'notes.txt'), 'not a frame');
    const { rgba, delays } = await decode(sequence);
    expect(delays).toEqual([100, 100, 100, 100]);
    expect(Buffer.compare(rgba, solidFrames(colors, 8))).toBe(0);
  });

  test('animated PNG: offsets, disposal, blending, a default picture that is not a frame', async () => {
    const path = join(folder, 'animated.png');
    const frames: PngFrame[] = [
      { width: 4, height: 4, left: 0, top: 0, dispose: 0, blend: 0, color: [255, 0, 0, 255], delay: [1, 20] },
      {
        width: 2,
        height: 2,
        left: 1,
        top: 1,
        dispose: 1,
        blend: 0,
        color: [0, 255, 0, 128],
        delay: [30, 1000],
      },
      { width: 1, height: 1, left: 0, top: 0, dispose: 2, blend: 1, color: [0, 0, 255, 128], delay: [1, 0] },
      { width: 1, height: 1, left: 3, top: 3, dispose: 0, blend: 1, color: [9, 9, 9, 0], delay: [0, 1] },
    ];
    for (const hiddenDefault of [false, true]) {
      await writeFile(path, await animatedPng(4, 4, frames, { loop: 2, hiddenDefault }));
      const { rgba, delays, loop } = await decode(path);
      expect({ delays, loop }).toEqual({ delays: [50, 30, 10, 100], loop: 2 });
      const at = (frame: number, x: number, y: number) => [
        ...rgba.subarray((frame * 16 + y * 4 + x) * 4).subarray(0, 4),
      ];
      expect(at(0, 3, 3)).toEqual([255, 0, 0, 255]);
      expect(at(1, 0, 0)).toEqual([255, 0, 0, 255]);
      expect(at(1, 1, 1)).toEqual([0, 255, 0, 128]);
      expect(at(2, 1, 1)).toEqual([0, 0, 0, 0]); // cleared after frame 1
      expect(at(2, 0, 0)).toEqual([127, 0, 128, 255]); // laid over red
      expect(at(3, 0, 0)).toEqual([255, 0, 0, 255]); // as before frame 2
      expect(at(3, 3, 3)).toEqual([255, 0, 0, 255]); // nothing laid over
    }
  });

  test.skipIf(!hasShared('data', 'stickers'))('real stickers have the frames their list says', async () => {
    const list = (await readFile(sharedPath('data', 'stickers', 'captions.jsonl'), 'utf8'))
      .trim()
      .split('\n');
    for (const line of list) {
      const { file, frames, width, height } = JSON.parse(line);
      const animation = await decode(sharedPath('data', 'stickers', file));
      expect(animation).toMatchObject({ width, height, loop: 0 });
      expect(animation.delays).toEqual(new Array(frames).fill(100));
    }
  });
});

describe('bad files', () => {
  let folder: string;
  let whole: Buffer;
  beforeAll(async () => {
    folder = await temporaryFolder();
    await animated(join(folder, 'whole.webp'), solidFrames(colors, 8), 4);
    whole = await readFile(join(folder, 'whole.webp'));
    const captions = (name: string) => writeFile(join(folder, `${name}.txt`), `a ${name}`);
    await captions('whole');
    await writeFile(join(folder, 'empty.gif'), '');
    await writeFile(join(folder, 'text.gif'), 'this is no picture');
    await writeFile(join(folder, 'cut.webp'), whole.subarray(0, whole.length - 40));
    await animated(join(folder, 'one.gif'), solidFrames(colors.slice(0, 1), 8), 1);
    await animated(join(folder, 'silent.gif'), solidFrames(colors, 8), 4);
    await animated(
      join(folder, 'many.gif'),
      solidFrames(
        Array.from({ length: 60 }, (_, i) => [(i % 2) * 200, 4 * i, 99, 255]),
        8,
      ),
      60,
    );
    await animated(join(folder, 'wide.webp'), solidFrames(colors, 40), 4, 40);
    const frame: PngFrame = {
      width: 4,
      height: 4,
      left: 3,
      top: 0,
      dispose: 0,
      blend: 0,
      color: [1, 2, 3, 4],
      delay: [1, 9],
    };
    await writeFile(join(folder, 'outside.png'), await animatedPng(4, 4, [frame, frame], {}));
    const png = await animatedPng(
      4,
      4,
      [
        { ...frame, left: 0 },
        { ...frame, left: 0 },
      ],
      {},
    );
    await writeFile(join(folder, 'cut.png'), png.subarray(0, png.length - 30));
    const flipped = Buffer.from(png);
    flipped[60]! ^= 255;
    await writeFile(join(folder, 'flipped.png'), flipped);
    await writeFile(join(folder, 'blank.txt'), ' \n');
    await writeFile(join(folder, 'blank.png'), png);
    await mkdir(join(folder, 'unnumbered'));
    await writeFile(join(folder, 'unnumbered', 'frame.png'), '');
    for (const name of ['empty', 'text', 'cut', 'one', 'many', 'wide', 'outside', 'flipped', 'unnumbered'])
      await captions(name);
    await writeFile(
      join(folder, 'captions.jsonl'),
      // With the mark and the line ends that editors on Windows write.
      '\ufeff{"file": "gone.gif", "caption": "not there"}\r\nnot json\n{"file": 3}\n{"file": "cut.png", "caption": "cut"}\n',
    );
  });

  test('are skipped and counted with the reason', async () => {
    const limits = { maxFrames: 50, maxPixels: 30 * 30 };
    const listed = await StickerDataset.fromFolder(folder, { size: 8, limits });
    const sound = await listed.prepare();
    expect(sound.samples.map(({ name, caption }) => `${name}: ${caption}`)).toEqual(['whole: a whole']);
    expect(sound.report.skipped).toEqual({
      'missing caption': 2,
      'missing file': 1,
      'malformed caption': 2,
      'corrupt animation': 7,
      'too few frames': 1,
      'too many frames': 1,
      'too large': 1,
    });
    const examples = sound.report.examples.join('\n');
    expect(examples).toMatch(/the caption of blank.png is empty/);
    expect(examples).toMatch(/silent.gif has neither a line in captions.jsonl nor a file silent.txt/);
    expect(examples).toMatch(/at most 50 frames but it has 60; cut it down or raise maxFrames/);
    expect(examples).toMatch(/at least 2 frames but it has 1/);
  });

  test('a caption that cannot be read costs its sticker; a line without the field counts once', async () => {
    const place = await temporaryFolder();
    for (const name of ['a', 'b', 'c']) await animated(join(place, `${name}.gif`), solidFrames(colors, 8), 4);
    await mkdir(join(place, 'a.txt'));
    await writeFile(join(place, 'b.txt'), 'a square');
    await writeFile(join(place, 'captions.jsonl'), '{"file": "c.gif", "caption": "another"}\n');
    const listed = await StickerDataset.fromFolder(place, { captionField: 'nope' });
    expect(listed.samples.map(({ name }) => name)).toEqual(['b']);
    // The folder a.txt is a sequence without a caption itself.
    expect(listed.report.skipped).toEqual({ 'malformed caption': 1, 'missing caption': 2 });
    expect(listed.report.examples.join('\n')).toMatch(
      /Cannot read caption .*a\.txt: a folder is where a file should be\n[\s\S]*c.gif has neither nope in its line of captions.jsonl nor a file c.txt/,
    );
  });

  test('a GIF that is cut short anywhere in a block is one; the trailer alone may be missing', async () => {
    const gifs = await temporaryFolder();
    const path = join(gifs, 'whole.gif');
    await animated(path, solidFrames(colors, 40), 4, 40);
    const bytes = await readFile(path);
    expect(bytes.at(-1)).toBe(0x3b);
    const decoded = async (content: Buffer) => {
      await writeFile(join(gifs, 'other.gif'), content);
      return decode(join(gifs, 'other.gif'));
    };
    for (const content of [bytes.subarray(0, -1), Buffer.concat([bytes, Buffer.from('more')])])
      expect((await decoded(content)).delays).toHaveLength(4);
    for (let share = 0.1; share < 0.99; share += 0.1) {
      const error = await decoded(bytes.subarray(0, Math.floor(share * bytes.length))).catch((e) => e);
      expect(error, `${share}`).toMatchObject({ code: 'CORRUPT', reason: 'corrupt animation' });
    }
    await expect(decoded(bytes.subarray(0, -2))).rejects.toThrow(/other.gif: it is cut short; replace or/);
  });

  test('a folder without one usable sticker is an error that says why', async () => {
    const other = await temporaryFolder();
    await expect(StickerDataset.fromFolder(other)).rejects.toThrow(
      /Expected at least 1 usable sticker .* found 0/,
    );
    await expect(StickerDataset.fromFolder(join(other, 'no'))).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await cp(join(folder, 'text.gif'), join(other, 'text.gif'));
    await writeFile(join(other, 'text.txt'), 'a text');
    const dataset = await StickerDataset.fromFolder(other);
    await expect(dataset.prepare()).rejects.toThrow(/1 corrupt animation.*Cannot decode the sticker/);
    const batches = (await StickerDataset.fromFolder(other)).batches({ batchSize: 2, seed: 1 });
    await expect(batches.next()).rejects.toMatchObject({ code: 'CORRUPT' });
  });

  test('a bomb is refused by its header', async () => {
    const bomb = await temporaryFolder();
    const path = join(bomb, 'bomb.webp');
    const bytes = Buffer.from(whole);
    bytes.writeUIntLE(16382, 24, 3); // the canvas, less 1
    bytes.writeUIntLE(16382, 27, 3);
    await writeFile(path, bytes);
    await expect(decode(path)).rejects.toMatchObject({ code: 'UNSUPPORTED', reason: 'too large' });
    await expect(decode(join(folder, 'many.gif'), { maxTotalPixels: 8 * 8 * 59 })).rejects.toThrow(
      /raise maxTotalPixels/,
    );
    await expect(decode(join(folder, 'whole.webp'), { maxFileBytes: 10 })).rejects.toThrow(
      /raise maxFileBytes/,
    );
  });

  test('impossible options', async () => {
    const from = (options: object) => StickerDataset.fromFolder(folder, options);
    await expect(from({ frames: 0 })).rejects.toThrow(/number of at least 1 for frames but received 0/);
    await expect(from({ channels: 2 })).rejects.toThrow(/Expected 3 or 4 for channels but received 2/);
    await expect(from({ keyFrames: 'best' })).rejects.toThrow(/for keyFrames but received "best"/);
  });
});

describe('clips and batches', () => {
  let folder: string;
  const gray = (count: number) =>
    solidFrames(
      Array.from({ length: count }, (_, i) => [20 * i, 20 * i, 20 * i, 255]),
      8,
    );
  beforeAll(async () => {
    folder = await temporaryFolder();
    for (const count of [2, 3, 4, 5, 6, 9, 12]) {
      await animated(join(folder, `n${count}.webp`), gray(count), count);
      await writeFile(join(folder, `n${count}.txt`), `${count} frames`);
    }
  });
  const load = (options = {}) => StickerDataset.fromFolder(folder, { frames: 4, size: 8, ...options });
  const clipNamed = (dataset: StickerDataset, name: string) =>
    dataset.clip(dataset.samples.find((sample) => sample.name === name)!);
  const levels = (strip: Uint8Array, channels: number) =>
    Array.from({ length: strip.length / (64 * channels) }, (_, i) => strip[i * 64 * channels]! / 20);

  test('key frames, and the two ways with short animations', async () => {
    const padded = await load();
    expect(levels((await clipNamed(padded, 'n9')).strip, 3)).toEqual([0, 3, 5, 8]);
    expect(levels((await clipNamed(padded, 'n3')).strip, 3)).toEqual([0, 1, 2]);
    const bounced = await load({ shortClips: 'bounce', channels: 4 });
    expect(levels((await clipNamed(bounced, 'n3')).strip, 4)).toEqual([0, 1, 1, 0]);
    expect((await clipNamed(await load({ keyFrames: 'clusters' }), 'n12')).frames).toBe(4);
    expect((await clipNamed(await load({ keyFrames: 'difference' }), 'n12')).frames).toBe(4);
  });

  test('batches: masks, grey padding, every sticker once an epoch', async () => {
    const dataset = await load();
    const names: string[] = [];
    for await (const batch of dataset.batches({ batchSize: 2, seed: 3, count: 7 })) {
      expect(batch.values).toHaveLength(2 * 3 * 4 * 64);
      names.push(...batch.samples.map(({ name }) => name));
      for (const [row, sample] of batch.samples.entries()) {
        const real = Math.min(Number(sample.name.slice(1)), 4);
        expect([...batch.frameMask.subarray(row * 4, row * 4 + 4)]).toEqual([1, 1, 1, 1].fill(0, real));
        const frame = (index: number) => batch.values[(row * 3 * 4 + index) * 64]!;
        expect(frame(0)).toBe(-1);
        if (real < 4) expect(frame(3)).toBe(0);
        expect(batch.realFrames).toBeLessThanOrEqual(real);
      }
    }
    expect(new Set(names.slice(0, 7)).size).toBe(7);
    expect(new Set(names.slice(7)).size).toBe(7);
    expect(names.slice(7)).not.toEqual(names.slice(0, 7));
  });

  test('batch n is the same in a run that begins there', async () => {
    const collect = async (first: number, count: number) => {
      const batches: StickerBatch[] = [];
      for await (const batch of (await load()).batches({ batchSize: 3, seed: 5, first, count }))
        batches.push(batch);
      return batches;
    };
    const straight = await collect(0, 8);
    expect(await collect(5, 3)).toEqual(straight.slice(5));
    expect(straight.map(({ number }) => number)).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  test('a batch larger than the data set, and an abort', async () => {
    const abort = new AbortController();
    const batches = (await load()).batches({ batchSize: 20, seed: 5, signal: abort.signal });
    expect((await batches.next()).value?.samples).toHaveLength(20);
    abort.abort();
    await expect(batches.next()).rejects.toMatchObject({ code: 'CANCELLED' });
  });

  test('held out by name and seed, whatever the order', async () => {
    const dataset = await load();
    const held = (seed: number) =>
      dataset
        .split({ heldOut: 0.4, seed })
        .heldOut.samples.map(({ name }) => name)
        .sort();
    expect(held(1)).toHaveLength(3);
    expect(held(1)).toEqual(held(1));
    expect(new Set([1, 2, 3, 4, 5].map((seed) => held(seed).join())).size).toBeGreaterThan(1);
    const { training, heldOut } = dataset.split({ heldOut: 0.01 });
    expect([training.size, heldOut.size]).toEqual([6, 1]);
    expect(training.report.split).toEqual({ heldOut: 0.01, seed: 1 });
    expect(() => dataset.split({ heldOut: 1 })).toThrow(/share between 0 and 1/);
    expect(() => dataset.split({ together: () => 'one' })).toThrow(/at least 2 captions .* of 7 with 1/);
    for (const seed of [1, 2, 3, 4]) {
      const even = ({ name }: { name: string }) => String(Number(name.slice(1)) % 2);
      const side = dataset.split({ seed, together: even }).heldOut.samples.map((sample) => even(sample));
      expect([3, 4]).toContain(side.length);
      expect(new Set(side).size).toBe(1);
    }
  });

  test('the cache gives the same clips, and makes damaged ones again', async () => {
    const cache = await temporaryFolder();
    await writeFile(join(cache, 'x.clip.partial-999999999-0'), 'left by a process that was killed');
    const clips = async () => {
      const dataset = await load({ cache });
      return Promise.all(dataset.samples.map((sample) => dataset.clip(sample)));
    };
    const first = await clips();
    const files = await readdir(cache);
    expect(files).toHaveLength(7);
    expect(files.every((name) => name.endsWith('.clip'))).toBe(true);
    expect(await clips()).toEqual(first);
    const damaged = join(cache, files[0]!);
    const bytes = await readFile(damaged);
    bytes[bytes.length - 1]! ^= 1;
    await writeFile(damaged, bytes);
    const foreign = await readFile(join(cache, files[3]!));
    await writeFile(join(cache, files[4]!), foreign);
    await writeFile(join(cache, files[1]!), bytes.subarray(0, 50));
    await writeFile(join(cache, files[2]!), '');
    expect(await clips()).toEqual(first);
    expect(await readFile(damaged)).not.toEqual(bytes);
    expect(await readFile(join(cache, files[4]!))).not.toEqual(foreign);
  });

  test('a sticker that changes is decoded again; a cache that cannot be written costs nothing', async () => {
    const cache = await temporaryFolder();
    const own = await temporaryFolder();
    await cp(folder, own, { recursive: true });
    const open = () => StickerDataset.fromFolder(own, { frames: 4, size: 8, cache });
    const before = await clipNamed(await open(), 'n5');
    await animated(join(own, 'n5.webp'), solidFrames(colors, 8), 4);
    const dataset = await open();
    expect(await clipNamed(dataset, 'n5')).not.toEqual(before);
    await rm(cache, { recursive: true });
    expect((await clipNamed(dataset, 'n9')).frames).toBe(4);
    expect(dataset.cacheProblem).toMatch(/Decoded frames are no longer kept in .*: ENOENT/);
    const nowhere = await load({ cache: '/dev/null/clips' });
    expect((await clipNamed(nowhere, 'n9')).frames).toBe(4);
    expect(nowhere.cacheProblem).toMatch(/Decoded frames are no longer kept in \/dev\/null\/clips: /);
  });
});

describe.skipIf(!hasShared('data', 'animated_emoji'))('real stickers', () => {
  test('all of a folder can be used', async () => {
    const dataset = await StickerDataset.fromFolder(sharedPath('data', 'animated_emoji'), {
      size: 32,
      channels: 4,
    });
    const sound = await dataset.prepare();
    expect(sound.size).toBe(dataset.size);
    expect(sound.report.skipped).toEqual({});
    expect(sound.samples.every(({ caption }) => caption.length > 0)).toBe(true);
  });
});
