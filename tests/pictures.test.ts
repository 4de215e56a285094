// Pictures: decoding like Pillow's convert('RGB'), Pillow's bicubic resize, the image processor, the cache.

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  ImageProcessor,
  pictureSpec,
  pictureSpecFromJson,
  readPictureSpec,
  resizedSize,
  writePictureSpec,
} from '../src/data/image-processor.js';
import { decodePicture, type Picture, PictureCache } from '../src/data/pictures.js';
import { Random } from '../src/data/random.js';
import { native } from '../src/native.js';
import { hasShared, png, sharedPath, temporaryFolder } from './data-support.js';

let folder = '';
beforeAll(async () => {
  folder = await temporaryFolder();
});

function noise(width: number, height: number, seed = 1): Picture {
  const random = new Random(seed);
  return { rgb: Uint8Array.from({ length: width * height * 3 }, () => random.below(256)), width, height };
}

function encoded(picture: Picture) {
  const raw = { width: picture.width, height: picture.height, channels: 3 as const };
  return sharp(Buffer.from(picture.rgb), { raw });
}

describe('decoding', () => {
  const pixels = async (bytes: Uint8Array) => [...(await decodePicture(bytes)).rgb];
  const palette: [string, number[]] = ['PLTE', [255, 0, 0, 0, 255, 0, 0, 0, 255]];

  it('repeats grey, of any depth, over three channels', async () => {
    expect(await pixels(png({ width: 2, height: 1, depth: 8, colour: 0, rows: [0, 5, 200] }))).toEqual([
      5, 5, 5, 200, 200, 200,
    ]);
    const bits = png({ width: 3, height: 1, depth: 1, colour: 0, rows: [0, 0b10100000] });
    expect(await pixels(bits)).toEqual([255, 255, 255, 0, 0, 0, 255, 255, 255]);
  });

  it('expands palettes, with or without transparent entries', async () => {
    const rows = [0, 2, 0, 1];
    const expected = [0, 0, 255, 255, 0, 0, 0, 255, 0];
    const options = { width: 3, height: 1, depth: 8, colour: 3, rows };
    expect(await pixels(png({ ...options, chunks: [palette] }))).toEqual(expected);
    expect(await pixels(png({ ...options, chunks: [palette, ['tRNS', [0, 128]]] }))).toEqual(expected);
  });

  it('drops alpha without blending', async () => {
    const rgba = png({ width: 2, height: 1, depth: 8, colour: 6, rows: [0, 10, 20, 30, 0, 1, 2, 3, 128] });
    expect(await pixels(rgba)).toEqual([10, 20, 30, 1, 2, 3]);
    const greyAlpha = png({ width: 2, height: 1, depth: 8, colour: 4, rows: [0, 9, 0, 7, 255] });
    expect(await pixels(greyAlpha)).toEqual([9, 9, 9, 7, 7, 7]);
  });

  it('takes the upper byte of 16-bit samples', async () => {
    const rgb = png({ width: 1, height: 1, depth: 16, colour: 2, rows: [0, 0x80, 0xff, 1, 255, 2, 128] });
    expect(await pixels(rgb)).toEqual([0x80, 1, 2]);
    const grey = png({ width: 2, height: 1, depth: 16, colour: 0, rows: [0, 0x80, 0xff, 0, 0x7f] });
    expect(await pixels(grey)).toEqual([0x80, 0x80, 0x80, 0, 0, 0]);
  });

  it('reads the usual file formats', async () => {
    const picture = noise(24, 16);
    for (const format of ['png', 'webp', 'tiff', 'jpeg'] as const) {
      const bytes = await encoded(picture)
        .toFormat(format, format === 'webp' ? { lossless: true } : {})
        .toBuffer();
      const decoded = await decodePicture(bytes);
      expect([decoded.width, decoded.height]).toEqual([24, 16]);
      if (format === 'png' || format === 'webp') expect(decoded.rgb).toEqual(picture.rgb);
    }
  });

  it('refuses what is damaged, cut short or no picture', async () => {
    const whole = await encoded(noise(64, 64)).png().toBuffer();
    const jpeg = await encoded(noise(64, 64)).jpeg().toBuffer();
    const flipped = Buffer.from(whole);
    flipped[whole.length >> 1]! ^= 0xff;
    const bad = [whole.subarray(0, whole.length >> 1), jpeg.subarray(0, jpeg.length >> 1), flipped];
    for (const bytes of [...bad, Buffer.from('a text, not a picture'), Buffer.alloc(0)]) {
      await expect(decodePicture(bytes)).rejects.toMatchObject({ code: 'CORRUPT' });
    }
    const path = join(folder, 'cut.png');
    await writeFile(path, bad[0]!);
    await expect(decodePicture(path)).rejects.toThrow(/Cannot decode picture .*cut\.png: .*replace the file/);
  });

  it('refuses a picture that would be huge once decoded, and a huge file', async () => {
    const bomb = png({ width: 3000, height: 3000, depth: 1, colour: 0, rows: new Uint8Array(376 * 3000) });
    expect(bomb.length).toBeLessThan(10_000);
    await expect(decodePicture(bomb, { maxPixels: 1_000_000 })).rejects.toMatchObject({
      code: 'UNSUPPORTED',
    });
    const path = join(folder, 'bomb.png');
    await writeFile(path, bomb);
    await expect(decodePicture(path, { maxFileBytes: 100 })).rejects.toThrow(
      /at most 100 bytes but it has \d+/,
    );
  });

  it('names a missing file', async () => {
    const path = join(folder, 'missing.png');
    await expect(decodePicture(path)).rejects.toMatchObject({ code: 'NOT_FOUND' });
    await expect(decodePicture(path)).rejects.toThrow(/Cannot read picture .*missing\.png/);
  });

  it('leaves the event loop turning', async () => {
    const bytes = await encoded(noise(900, 900)).png({ compressionLevel: 1 }).toBuffer();
    let turns = 0;
    const timer = setInterval(() => turns++, 1);
    await new ImageProcessor({ shortestEdge: 384 }).prepare([bytes, bytes]);
    clearInterval(timer);
    expect(turns).toBeGreaterThan(5);
  });
});

/** Pillow's resize of one channel, written down a second time as plainly as possible. */
function referenceResize(values: number[][], outWidth: number, outHeight: number): number[][] {
  const cubic = (x: number) => {
    const d = Math.abs(x);
    if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
    return d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0;
  };
  const line = (input: number[], outSize: number) => {
    const scale = input.length / outSize;
    const stretch = Math.max(scale, 1);
    return Array.from({ length: outSize }, (_, out) => {
      const center = (out + 0.5) * scale;
      const first = Math.max(0, Math.trunc(center - 2 * stretch + 0.5));
      const end = Math.min(input.length, Math.trunc(center + 2 * stretch + 0.5));
      const weights = input.slice(first, end).map((_, tap) => cubic((tap + first - center + 0.5) / stretch));
      const total = weights.reduce((sum, weight) => sum + weight, 0);
      let sum = 2 ** 21;
      for (const [tap, weight] of weights.entries()) {
        const share = weight / total;
        sum += input[first + tap]! * Math.trunc((share < 0 ? -0.5 : 0.5) + share * 2 ** 22);
      }
      return Math.min(255, Math.max(0, Math.floor(sum / 2 ** 22)));
    });
  };
  const transpose = (rows: number[][]) => rows[0]!.map((_, column) => rows.map((row) => row[column]!));
  const wide = values.map((row) => line(row, outWidth));
  return transpose(transpose(wide).map((column) => line(column, outHeight)));
}

describe("Pillow's bicubic resize", () => {
  it.each([
    [20, 20, 64, 64],
    [64, 64, 32, 32],
    [100, 37, 32, 96],
    [7, 5, 7, 64],
    [90, 60, 31, 60],
    [1, 1, 32, 32],
    [300, 3, 32, 32],
  ])('%ix%i to %ix%i', async (width, height, outWidth, outHeight) => {
    const picture = noise(width, height, width + height);
    const resized = await native.resizePicture(picture.rgb, width, height, outWidth, outHeight);
    for (const channel of [0, 1, 2]) {
      const rows = Array.from({ length: height }, (_, y) =>
        Array.from({ length: width }, (_, x) => picture.rgb[(y * width + x) * 3 + channel]!),
      );
      const expected = referenceResize(rows, outWidth, outHeight).flat();
      expect(expected).toEqual(Array.from(expected, (_, i) => resized[i * 3 + channel]!));
    }
  });

  it('leaves a picture of the same size as it is', async () => {
    const picture = noise(9, 11);
    expect(await native.resizePicture(picture.rgb, 9, 11, 9, 11)).toEqual(picture.rgb);
  });

  it('refuses sizes that cannot be', async () => {
    const { rgb } = noise(4, 4);
    await expect(native.resizePicture(rgb, 4, 5, 8, 8)).rejects.toThrow(
      /Expected 60 bytes of RGB .* 4x5 but received 48/,
    );
    await expect(native.resizePicture(rgb, 4, 4, 0, 8)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  });
});

describe('the image processor', () => {
  const small = pictureSpec({ shortestEdge: 64 });

  it('follows the rule of sizes', () => {
    expect(small.longestEdge).toBe(106);
    expect(pictureSpec().longestEdge).toBe(639);
    const size = (w: number, h: number) => Object.values(resizedSize(small, w, h));
    expect(size(64, 64)).toEqual([64, 64, false]);
    expect(size(90, 60)).toEqual([96, 64, false]);
    expect(size(150, 77)).toEqual([96, 32, false]);
    expect(size(48, 96)).toEqual([32, 96, false]);
  });

  it('keeps one multiple of the divisor where the published rule would give 0 pixels, and says so', async () => {
    expect(resizedSize(small, 1000, 10)).toEqual({ width: 96, height: 32, raised: true });
    expect(resizedSize(small, 3, 2000)).toEqual({ width: 32, height: 96, raised: true });
    expect(resizedSize(pictureSpec({ shortestEdge: 16 }), 20, 20)).toEqual({
      width: 32,
      height: 32,
      raised: true,
    });
    expect((await new ImageProcessor(small).resize(noise(500, 2))).raised).toBe(true);
  });

  it('has the same rule of sizes in native code', async () => {
    const random = new Random(3);
    for (let trial = 0; trial < 20; trial++) {
      const spec = pictureSpec({
        shortestEdge: random.pick([32, 64, 96]),
        sizeDivisor: random.pick([8, 16, 32]),
      });
      const picture = noise(1 + random.below(200), 1 + random.below(200), trial);
      const options = { ...spec, mean: [...spec.mean], std: [...spec.std], resize: true };
      const prepared = await native.preparePictures([picture], options);
      expect(prepared.sizes[0]).toEqual(resizedSize(spec, picture.width, picture.height));
      const processed = await new ImageProcessor(spec).prepare([picture]);
      expect(processed.pixelValues).toEqual(prepared.pixelValues);
    }
  });

  it('rescales, normalises, pads with 0 and masks', async () => {
    const processor = new ImageProcessor({
      ...small,
      sizeDivisor: 1,
      mean: [0.5, 0, 0.25],
      std: [0.5, 1, 0.25],
    });
    const flat = (width: number, height: number, value: number): Picture => ({
      rgb: new Uint8Array(width * height * 3).fill(value),
      width,
      height,
    });
    const wide = { ...flat(3, 1, 255), raised: false };
    const tall = { ...flat(1, 2, 0), raised: false };
    const { pixelValues, pixelMask, ...shape } = await processor.collate([wide, tall]);
    expect(shape).toEqual({ batch: 2, height: 2, width: 3 });
    expect([...pixelMask]).toEqual([1, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0]);
    expect([...pixelValues.subarray(0, 18)]).toEqual([1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 3, 3, 3, 0, 0, 0]);
    expect([...pixelValues.subarray(18)].map((value) => value + 0)).toEqual([
      -1, 0, 0, -1, 0, 0, 0, 0, 0, 0, 0, 0, -1, 0, 0, -1, 0, 0,
    ]);
    await expect(processor.collate([])).rejects.toThrow(/at least 1 picture/);
  });

  it('reads and writes preprocessor_config.json', async () => {
    const old = {
      size: 384,
      size_divisor: 32,
      resample: 3,
      image_mean: [0.5, 0.5, 0.5],
      feature_extractor_type: 'x',
    };
    expect(pictureSpecFromJson(old)).toEqual(pictureSpec());
    expect(pictureSpecFromJson({ size: { shortest_edge: 64 } })).toEqual(small);
    const spec = pictureSpec({ shortestEdge: 96, longestEdge: 200, mean: [0.1, 0.2, 0.3] });
    await writePictureSpec(folder, spec);
    expect(await readPictureSpec(folder)).toEqual(spec);
    expect(() => pictureSpecFromJson({ resample: 2 })).toThrow(/3 .*for resample but received 2/);
    expect(() => pictureSpecFromJson({ do_resize: false })).toThrow(/do_resize/);
    expect(() => pictureSpec({ shortestEdge: 0 })).toThrow(
      /between 1 and 65535 for shortestEdge but received 0/,
    );
  });
});

describe('the cache', () => {
  const picture = (bytes: number): Picture => ({ rgb: new Uint8Array(bytes), width: 1, height: bytes / 3 });

  it('keeps the most recently used pictures within its bytes', async () => {
    const cache = new PictureCache(30);
    let made = 0;
    const make = (bytes: number) => async () => {
      made++;
      return picture(bytes);
    };
    await cache.get('a', make(12));
    await cache.get('b', make(12));
    await cache.get('a', make(12));
    await cache.get('c', make(12));
    expect(made).toBe(3);
    expect(cache.stats).toEqual({ bytes: 24, pictures: 2, hits: 1, misses: 3 });
    await cache.get('a', make(12));
    expect(made).toBe(3);
    await cache.get('b', make(12));
    expect(made).toBe(4);
    await cache.get('large', make(300));
    expect(cache.stats.bytes).toBe(24);
  });

  it('makes a picture once for everybody who asks meanwhile, and does not remember failures', async () => {
    const cache = new PictureCache(100);
    let made = 0;
    const slow = async () => {
      made++;
      await new Promise((resolve) => setTimeout(resolve, 5));
      return picture(3);
    };
    await Promise.all([cache.get('a', slow), cache.get('a', slow), cache.get('a', slow)]);
    expect(made).toBe(1);
    await expect(cache.get('b', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect((await cache.get('b', slow)).height).toBe(1);
  });

  it('saves decoding in the processor', async () => {
    const path = join(folder, 'cached.png');
    await writeFile(path, await encoded(noise(80, 60)).png().toBuffer());
    const processor = new ImageProcessor({ shortestEdge: 32 });
    const [first, second] = [await processor.resized(path), await processor.resized(path)];
    expect(second).toBe(first);
    expect(processor.cacheStats).toEqual({ bytes: 32 * 32 * 3, pictures: 1, hits: 1, misses: 1 });
  });
});

interface Case {
  files: string[];
  shortest_edge: number;
  size_divisor: number;
  image_mean: [number, number, number];
  image_std: [number, number, number];
  rescale_factor: number;
  resized_hw: [number, number][];
  batch_shape: number[];
}

const golden = ['golden', 'feddat', 'image_processor'];
describe.skipIf(!hasShared(...golden))('the reference cases', () => {
  it('give the same pixels and masks', async () => {
    const info = JSON.parse(await readFile(sharedPath(...golden, 'info.json'), 'utf8')) as {
      cases: Record<string, Case>;
    };
    for (const [name, reference] of Object.entries(info.cases)) {
      const processor = new ImageProcessor({
        shortestEdge: reference.shortest_edge,
        sizeDivisor: reference.size_divisor,
        rescaleFactor: reference.rescale_factor,
        mean: reference.image_mean,
        std: reference.image_std,
      });
      const paths = reference.files.map((file) => sharedPath(...golden, file));
      const resized = await Promise.all(paths.map((path) => processor.resized(path)));
      expect(resized.map((picture) => [picture.height, picture.width])).toEqual(reference.resized_hw);
      const prepared = await processor.prepare(paths);
      expect([prepared.batch, 3, prepared.height, prepared.width]).toEqual(reference.batch_shape);
      const { tensors } = await native.readSafetensors(sharedPath(...golden, `${name}.safetensors`));
      const values = tensors.pixel_values!.data as Float32Array;
      let largest = 0;
      for (const [index, value] of values.entries()) {
        largest = Math.max(largest, Math.abs(value - prepared.pixelValues[index]!));
      }
      expect(largest).toBeLessThanOrEqual(1e-6);
      expect(Array.from(tensors.pixel_mask!.data as BigInt64Array, Number)).toEqual([...prepared.pixelMask]);
    }
  });
});
