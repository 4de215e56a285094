/** Picture files to 8-bit RGB, and a cache of them. */

import { readFile, stat } from 'node:fs/promises';
import { invalid, requireInteger, requireObject } from '../arguments.js';
import { DuetError, ioError, messageOf } from '../errors.js';
import { imageLibrary } from './image-library.js';

/** An 8-bit RGB picture: interleaved, rows from top to bottom, `width * height * 3` bytes. */
export interface Picture {
  /** [height, width, 3] */
  rgb: Uint8Array;
  /** Pixels. */
  width: number;
  /** Pixels. */
  height: number;
}

/** A DuetError about one picture file: it costs the questions of that picture, not the run. */
export class PictureError extends DuetError {}

/** What a picture may ask of this machine before it is decoded. */
export interface DecodeOptions {
  /**
   * Pictures of more pixels are refused before they are decoded ("decompression bombs"). Default 64 Mi (8192
   * x 8192).
   */
  maxPixels?: number;
  /** Larger files are refused before they are read. Default 256 MiB. */
  maxFileBytes?: number;
}

const DEFAULT_MAX_PIXELS = 8192 * 8192;
const DEFAULT_MAX_FILE_BYTES = 256 * 1024 * 1024;

/**
 * Decodes a picture file (PNG, JPEG, WebP, GIF, TIFF, AVIF, SVG) or its bytes to RGB, on libuv's worker threads.
 *
 * It gives what Pillow's `convert('RGB')` gives: palettes expanded, grey repeated over the three channels, alpha
 * dropped (not blended), the upper byte of 16-bit samples, no colour profile and no rotation applied, the first frame
 * of an animation. CMYK pictures are converted by libvips, which differs slightly from Pillow; grey ones of 16 bits turn
 * nearly white in Pillow, which cuts their samples off at 255.
 * @throws DuetError NOT_FOUND, IO (the file cannot be read), CORRUPT (damaged, cut short or no picture at all),
 *   UNSUPPORTED (more than `maxPixels` or `maxFileBytes`)
 */
export async function decodePicture(
  source: string | Uint8Array,
  options: DecodeOptions = {},
): Promise<Picture> {
  const { maxPixels, maxFileBytes } = checkedLimits(options);
  if (typeof source !== 'string' && !(source instanceof Uint8Array))
    throw invalid('path or Uint8Array', 'a picture', source);
  const name = typeof source === 'string' ? `picture ${source}` : `picture of ${source.byteLength} bytes`;
  const bytes = typeof source === 'string' ? await readPictureFile(source, maxFileBytes) : source;
  try {
    const sharp = await imageLibrary();
    const decoder = sharp(bytes, { failOn: 'error', limitInputPixels: maxPixels, ignoreIcc: true });
    const { data, info } = await decoder
      .toColourspace('srgb')
      .removeAlpha()
      .raw({ depth: 'uchar' })
      .toBuffer({ resolveWithObject: true });
    if (info.channels !== 3) throw new Error(`it decodes to ${info.channels} channels instead of 3`);
    return {
      rgb: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
      width: info.width,
      height: info.height,
    };
  } catch (error) {
    throw decodeError(error, name, maxPixels);
  }
}

/** @throws DuetError INVALID_ARGUMENT for numbers below 1 */
export function checkedLimits(options: DecodeOptions): Required<DecodeOptions> {
  const { maxPixels = DEFAULT_MAX_PIXELS, maxFileBytes = DEFAULT_MAX_FILE_BYTES } = requireObject(
    options,
    'options',
  );
  requireInteger(maxPixels, 'maxPixels', 1);
  requireInteger(maxFileBytes, 'maxFileBytes', 1);
  return { maxPixels, maxFileBytes };
}

async function readPictureFile(path: string, maxFileBytes: number): Promise<Uint8Array> {
  try {
    const { size } = await stat(path);
    if (size > maxFileBytes) {
      throw new PictureError(
        'UNSUPPORTED',
        `Expected picture ${path} of at most ${maxFileBytes} bytes but it has ${size}; raise maxFileBytes to allow it`,
      );
    }
    return await readFile(path);
  } catch (error) {
    if (error instanceof PictureError) throw error;
    const { code, message } = ioError(error, `read picture ${path}`);
    throw new PictureError(code, message, { cause: error });
  }
}

function decodeError(error: unknown, name: string, maxPixels: number): PictureError {
  const reason = messageOf(error).trim();
  if (/pixel limit/i.test(reason)) {
    return new PictureError(
      'UNSUPPORTED',
      `Expected ${name} of at most ${maxPixels} pixels but it has more; shrink it or raise maxPixels`,
      { cause: error },
    );
  }
  return new PictureError(
    'CORRUPT',
    `Cannot decode ${name}: ${reason}; replace the file or remove its questions`,
    {
      cause: error,
    },
  );
}

/** Keeps the most recently used pictures up to a number of bytes. */
export class PictureCache<P extends Picture> {
  readonly maxBytes: number;
  #bytes = 0;
  #hits = 0;
  #misses = 0;
  /** In order of use, oldest first (a Map iterates in order of insertion). */
  readonly #pictures = new Map<string, P>();
  /** Pictures being made now, so that two askers share one decode. */
  readonly #pending = new Map<string, Promise<P>>();

  /** @param maxBytes of pixels kept; 0 keeps nothing */
  constructor(maxBytes: number) {
    this.maxBytes = requireInteger(maxBytes, 'cacheBytes', 0);
  }

  /** The picture of `key`, made by `make` when it is not in the cache. A failure is not remembered. */
  async get(key: string, make: () => Promise<P>): Promise<P> {
    const cached = this.#pictures.get(key);
    if (cached !== undefined) {
      this.#hits++;
      this.#pictures.delete(key);
      this.#pictures.set(key, cached);
      return cached;
    }
    const pending = this.#pending.get(key);
    if (pending !== undefined) {
      this.#hits++;
      return pending;
    }
    this.#misses++;
    const making = make();
    this.#pending.set(key, making);
    try {
      const picture = await making;
      this.#keep(key, picture);
      return picture;
    } finally {
      this.#pending.delete(key);
    }
  }

  /** Bytes and pictures held, and how often a picture was found (`hits`) or had to be made (`misses`). */
  get stats(): { bytes: number; pictures: number; hits: number; misses: number } {
    return { bytes: this.#bytes, pictures: this.#pictures.size, hits: this.#hits, misses: this.#misses };
  }

  clear(): void {
    this.#pictures.clear();
    this.#bytes = 0;
  }

  #keep(key: string, picture: P): void {
    if (picture.rgb.byteLength > this.maxBytes) return;
    this.#pictures.set(key, picture);
    this.#bytes += picture.rgb.byteLength;
    for (const [oldest, dropped] of this.#pictures) {
      if (this.#bytes <= this.maxBytes) break;
      this.#pictures.delete(oldest);
      this.#bytes -= dropped.rgb.byteLength;
    }
  }
}
