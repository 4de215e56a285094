/** The image processor of ViLT: what `preprocessor_config.json` says, done in native code. */

import { join } from 'node:path';
import { z } from 'zod';
import {
  invalid,
  requireInteger,
  requireList,
  requireNumber,
  requireObject,
  requireText,
} from '../arguments.js';
import { native } from '../native.js';
import { validated } from '../validation.js';
import { readJson, writeText } from './files.js';
import { checkedLimits, type DecodeOptions, decodePicture, type Picture, PictureCache } from './pictures.js';

/** How pictures become numbers. All lengths in pixels. */
export interface PictureSpec {
  /** Length to which the shorter side is scaled. */
  shortestEdge: number;
  /** Cap for the longer side; by default int(1333 / 800 * shortestEdge). */
  longestEdge: number;
  /** Both sides are floored to a multiple of this, and kept at one multiple at least. */
  sizeDivisor: number;
  /** Multiplied to the bytes. */
  rescaleFactor: number;
  /** Per channel R, G, B, after rescaling. */
  mean: readonly [number, number, number];
  /** Per channel R, G, B, after rescaling. */
  std: readonly [number, number, number];
}

/** A batch as the model takes it. */
export interface PreparedPictures {
  batch: number;
  height: number;
  width: number;
  /** [batch, 3, height, width] */
  pixelValues: Float32Array;
  /** [batch, height, width], 1 on real pixels */
  pixelMask: Uint8Array;
}

/** Pixels of a picture after resizing. */
export interface PictureSize {
  width: number;
  height: number;
  /** True when the published rule would give a side of 0 pixels and it was raised to `sizeDivisor`. */
  raised: boolean;
}

/** A picture at its final size. */
export interface ResizedPicture extends Picture {
  raised: boolean;
}

const triple = z.tuple([z.number(), z.number(), z.number()]);
const length = z.number().int().min(1).max(65535);
const preprocessorConfig = z.object({
  size: z.union([length, z.object({ shortest_edge: length, longest_edge: length.optional() })]).default(384),
  size_divisor: length.default(32),
  do_resize: z.literal(true).default(true),
  do_rescale: z.literal(true).default(true),
  do_normalize: z.literal(true).default(true),
  do_pad: z.literal(true).default(true),
  /** Pillow's number for bicubic. */
  resample: z.literal(3).default(3),
  rescale_factor: z
    .number()
    .positive()
    .default(1 / 255),
  image_mean: triple.default([0.5, 0.5, 0.5]),
  image_std: triple
    .refine((std) => std.every((value) => value > 0), 'Expected numbers above 0')
    .default([0.5, 0.5, 0.5]),
});

/**
 * Completes a spec with the values of `vilt-b32`.
 * @throws DuetError INVALID_ARGUMENT for impossible values
 */
export function pictureSpec(given: Partial<PictureSpec> = {}): PictureSpec {
  const shortestEdge = requireObject(given, 'picture settings').shortestEdge ?? 384;
  const spec: PictureSpec = {
    shortestEdge,
    longestEdge:
      given.longestEdge ?? Math.floor((1333 / 800) * requireInteger(shortestEdge, 'shortestEdge', 1, 65535)),
    sizeDivisor: given.sizeDivisor ?? 32,
    rescaleFactor: given.rescaleFactor ?? 1 / 255,
    mean: given.mean ?? [0.5, 0.5, 0.5],
    std: given.std ?? [0.5, 0.5, 0.5],
  };
  for (const name of ['shortestEdge', 'longestEdge', 'sizeDivisor'] as const)
    requireInteger(spec[name], name, 1, 65535);
  requireNumber(spec.rescaleFactor, 'rescaleFactor');
  for (const name of ['mean', 'std'] as const) {
    if (requireList(spec[name], name, requireNumber).length !== 3)
      throw invalid('three numbers', name, spec[name]);
  }
  if (spec.std.some((value) => !(value > 0))) throw invalid('three numbers above 0', 'std', spec.std);
  return spec;
}

/**
 * The spec of a `preprocessor_config.json` (any generation of ViLT's image or feature processor).
 * @throws DuetError UNSUPPORTED for settings other than ViLT's (another resampling, a step switched off)
 */
export function pictureSpecFromJson(json: unknown, source = 'preprocessor_config.json'): PictureSpec {
  const config = validated(preprocessorConfig, json, source, 'UNSUPPORTED');
  const size = typeof config.size === 'number' ? { shortest_edge: config.size } : config.size;
  return pictureSpec({
    shortestEdge: size.shortest_edge,
    ...('longest_edge' in size && size.longest_edge !== undefined ? { longestEdge: size.longest_edge } : {}),
    sizeDivisor: config.size_divisor,
    rescaleFactor: config.rescale_factor,
    mean: config.image_mean,
    std: config.image_std,
  });
}

/**
 * Reads `preprocessor_config.json` (a file, or a folder that holds one).
 * @throws DuetError NOT_FOUND, IO, CORRUPT, or UNSUPPORTED for settings other than ViLT's
 */
export async function readPictureSpec(path: string): Promise<PictureSpec> {
  const file = specPath(path);
  return pictureSpecFromJson(await readJson(file, 'image processor settings'), file);
}

/** Writes the spec as a `preprocessor_config.json` that Hugging Face's library reads too. */
export async function writePictureSpec(path: string, spec: PictureSpec): Promise<void> {
  const file = specPath(path);
  const standard = spec.longestEdge === Math.floor((1333 / 800) * spec.shortestEdge);
  const json = {
    image_processor_type: 'ViltImageProcessor',
    do_resize: true,
    size: { shortest_edge: spec.shortestEdge, ...(standard ? {} : { longest_edge: spec.longestEdge }) },
    size_divisor: spec.sizeDivisor,
    resample: 3,
    do_rescale: true,
    rescale_factor: spec.rescaleFactor,
    do_normalize: true,
    image_mean: spec.mean,
    image_std: spec.std,
    do_pad: true,
  };
  await writeText(file, `${JSON.stringify(json, null, 2)}\n`, 'image processor settings');
}

function specPath(path: string): string {
  return requireText(path, 'path').endsWith('.json') ? path : join(path, 'preprocessor_config.json');
}

/** The size of a picture after the rule at the top; the same as `duet::resizedSize` in native/data. */
export function resizedSize(spec: PictureSpec, width: number, height: number): PictureSize {
  const scale = spec.shortestEdge / Math.min(width, height);
  let newHeight = height < width ? spec.shortestEdge : scale * height;
  let newWidth = height < width ? scale * width : spec.shortestEdge;
  if (Math.max(newHeight, newWidth) > spec.longestEdge) {
    const shrink = spec.longestEdge / Math.max(newHeight, newWidth);
    newHeight *= shrink;
    newWidth *= shrink;
  }
  const floored = (side: number) => Math.floor(Math.floor(side + 0.5) / spec.sizeDivisor) * spec.sizeDivisor;
  const [w, h] = [floored(newWidth), floored(newHeight)];
  return {
    width: Math.max(w, spec.sizeDivisor),
    height: Math.max(h, spec.sizeDivisor),
    raised: w === 0 || h === 0,
  };
}

/** What pictures may ask of this machine. */
export interface ImageProcessorOptions extends DecodeOptions {
  /** Bytes of resized pictures kept in memory. Default 512 MiB; 0 decodes every picture every time. */
  cacheBytes?: number;
}

/**
 * ViLT's image processor (ViltImageProcessor of Hugging Face transformers): decodes, resizes, caches and batches
 * pictures.
 *
 * Shorter side to `shortestEdge`, longer side at most `longestEdge` (the 1333/800 rule), both floored to a multiple
 * of `sizeDivisor` (one multiple at least), Pillow's bicubic, bytes / 255, (x - mean) / std, padding with 0 at the
 * right and the bottom of the batch, a mask that is 1 on real pixels. Resized pictures are cached as bytes; only the
 * last step is repeated each epoch. Everything slow runs on worker threads.
 */
export class ImageProcessor {
  /** How pictures become numbers. */
  readonly spec: PictureSpec;
  readonly #decode: DecodeOptions;
  readonly #cache: PictureCache<ResizedPicture>;

  /** @throws DuetError INVALID_ARGUMENT for options that cannot work */
  constructor(spec: Partial<PictureSpec> = {}, options: ImageProcessorOptions = {}) {
    this.spec = pictureSpec(spec);
    const { cacheBytes = 512 * 1024 * 1024, ...decode } = requireObject(options, 'options');
    this.#decode = checkedLimits(decode);
    this.#cache = new PictureCache(cacheBytes);
  }

  /**
   * The processor of a model folder (`preprocessor_config.json`).
   * @throws DuetError as `readPictureSpec`
   */
  static async load(path: string, options: ImageProcessorOptions = {}): Promise<ImageProcessor> {
    return new ImageProcessor(await readPictureSpec(path), options);
  }

  /** What the cache of resized pictures holds. */
  get cacheStats(): { bytes: number; pictures: number; hits: number; misses: number } {
    return this.#cache.stats;
  }

  /**
   * One picture file decoded and resized, from the cache when it is there. The bytes are shared: do not write
   * to them.
   * @throws DuetError as `decodePicture`
   */
  async resized(path: string): Promise<ResizedPicture> {
    return this.#cache.get(requireText(path, 'path'), async () =>
      this.resize(await decodePicture(path, this.#decode)),
    );
  }

  /** Resizes one decoded picture by the rule of the spec. */
  async resize(picture: Picture): Promise<ResizedPicture> {
    for (const side of ['width', 'height'] as const)
      requireInteger(requireObject(picture, 'picture')[side], side, 1);
    const { width, height, raised } = resizedSize(this.spec, picture.width, picture.height);
    if (width === picture.width && height === picture.height) return { ...picture, raised };
    const rgb = await native.resizePicture(picture.rgb, picture.width, picture.height, width, height);
    return { rgb, width, height, raised };
  }

  /**
   * Rescales, normalises, pads and masks pictures that are at their final size already.
   * @throws DuetError INVALID_ARGUMENT for an empty batch
   */
  async collate(pictures: readonly ResizedPicture[]): Promise<PreparedPictures> {
    const { pixelValues, pixelMask, batch, height, width } = await native.preparePictures(
      [...requireList(pictures, 'pictures')],
      {
        ...this.spec,
        mean: [...this.spec.mean],
        std: [...this.spec.std],
        resize: false,
      },
    );
    return { pixelValues, pixelMask, batch, height, width };
  }

  /**
   * The whole processor for one batch of files, encoded bytes or decoded pictures.
   * @throws DuetError INVALID_ARGUMENT for an empty batch; as `decodePicture`
   */
  async prepare(sources: readonly (string | Uint8Array | Picture)[]): Promise<PreparedPictures> {
    const resized = await Promise.all(
      requireList(sources, 'sources').map(async (source) => {
        if (typeof source === 'string') return this.resized(source);
        return this.resize(source instanceof Uint8Array ? await decodePicture(source, this.#decode) : source);
      }),
    );
    return this.collate(resized);
  }
}
