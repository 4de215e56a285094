/** Saving an animation as a file, within a number of bytes if asked for. */

import { extname } from 'node:path';
import {
  invalid,
  requireBoolean,
  requireInteger,
  requireKnown,
  requireObject,
  requireText,
} from '../arguments.js';
import { DuetError } from '../errors.js';
import { native } from '../native.js';
import { checkFolderOf, writeAtomic } from '../run/files.js';
import { type Animation, checkAnimation, pickFrames } from './animation.js';
import { encodePngStrip, encodeWebp, gifEncoder } from './encode.js';

/** All formats a sticker can be saved in. */
export const STICKER_FORMATS = ['gif', 'webp', 'png'] as const;
/** `png` is a strip of all frames. */
export type StickerFormat = (typeof STICKER_FORMATS)[number];

/** How an animation is saved. */
export interface ExportOptions {
  /** Default: by the ending of the path. */
  format?: StickerFormat;
  /** Bytes the file may have. Default: any. */
  maxBytes?: number;
  /** Pixels a side of the longer side; default as it is. */
  size?: number;
  /** GIF: colours, 2..255. Default 255. */
  colors?: number;
  /** WebP: 1..100. Default 90. */
  quality?: number;
  /** WebP: every pixel as it is, unless bytes are limited and it does not fit. Default false. */
  lossless?: boolean;
}

const EXPORT_OPTIONS = {
  format: true,
  maxBytes: true,
  size: true,
  colors: true,
  quality: true,
  lossless: true,
} as const satisfies Record<keyof ExportOptions, true>;

/** A saved animation. */
export interface Exported {
  /** The file. */
  bytes: Uint8Array;
  /** What it is. */
  format: StickerFormat;
  /** Pixels. */
  width: number;
  /** Pixels. */
  height: number;
  /** Frames that were kept. */
  frames: number;
  /** What was given up for the number of bytes, e.g. `64 colours instead of 255`; empty when nothing was. */
  how: string[];
}

/** Pixels a file may have a side. */
export const LARGEST_SIDE = 8192;

/** Sides shrink to these shares; below the last one nothing is recognised. */
const SCALES = [1, 0.85, 0.7, 0.5, 0.35, 0.25];
const COLORS = [255, 128, 64, 32, 16];
const QUALITIES = [90, 75, 60, 45, 30, 15];
const SMALLEST_SIDE = 16;

/**
 * Encodes an animation, within a number of bytes if asked for. Messengers take stickers of, say, 256 KiB. When a file
 * is larger, the exporter gives up in this order: colours (GIF) or quality (WebP), then size, then every second frame
 * (the rest lasts twice as long). It takes the first that fits and says what it gave up. A GIF has one palette for
 * all frames and no dithering, so colours do not flicker; it knows only opaque and transparent (alpha of 128 and more
 * is opaque). WebP and PNG keep alpha.
 * @throws DuetError INVALID_ARGUMENT for impossible options, UNSUPPORTED when no way leads below `maxBytes`
 */
export async function exportAnimation(
  animation: Animation,
  options: ExportOptions & { format: StickerFormat },
): Promise<Exported> {
  checkAnimation(animation);
  checkOptions(options);
  const { format, maxBytes = Number.POSITIVE_INFINITY } = options;
  const whole =
    options.size === undefined ? animation : await scaled(animation, options.size / longest(animation));
  const { names, open } = encoderOf(options);
  let smallest = Number.POSITIVE_INFINITY;
  for (let step = 1; step === 1 || Math.ceil(whole.delays.length / step) >= 2; step *= 2) {
    const thinned = everyNth(whole, step);
    for (const scale of SCALES) {
      if (scale < 1 && Math.min(whole.width, whole.height) * scale < SMALLEST_SIDE) break;
      const candidate = await scaled(thinned, scale);
      const encode = await open(candidate);
      // The lowest level tells whether this size can fit at all.
      const lowest = await encode(names.length - 1);
      smallest = Math.min(smallest, lowest.length);
      if (lowest.length > maxBytes) continue;
      for (const level of names.keys()) {
        const bytes = level === names.length - 1 ? lowest : await encode(level);
        if (bytes.length > maxBytes) continue;
        const how = [
          ...(level > 0 ? [`${names[level]} instead of ${names[0]}`] : []),
          ...(scale < 1 ? [`${sizeOf(candidate)} pixels instead of ${sizeOf(whole)}`] : []),
          ...(step > 1 ? [`${candidate.delays.length} frames instead of ${whole.delays.length}`] : []),
        ];
        const { width, height, delays } = candidate;
        return { bytes, format, width, height, frames: delays.length, how };
      }
    }
  }
  throw new DuetError(
    'UNSUPPORTED',
    `Expected a ${format} of at most ${maxBytes} bytes but the smallest that is still recognisable has ${smallest}; allow more bytes or give fewer frames`,
  );
}

/**
 * Checks what can be checked of a later `saveAnimation` before there is an animation.
 * @throws DuetError INVALID_ARGUMENT for an ending that is none of STICKER_FORMATS or impossible options, NOT_FOUND without its folder
 */
export async function checkSaving(path: string, options: ExportOptions = {}): Promise<void> {
  checkOptions({ ...options, format: options.format ?? formatOf(path) });
  await checkFolderOf(path);
}

/**
 * Encodes an animation and writes it: the old file or the new one, never half of one.
 * @throws DuetError as `exportAnimation`, and IO or DISK_FULL
 */
export async function saveAnimation(
  path: string,
  animation: Animation,
  options: ExportOptions = {},
): Promise<Omit<Exported, 'bytes'> & { path: string; bytes: number }> {
  const format = requireObject(options, 'options').format ?? formatOf(path);
  const { bytes, ...about } = await exportAnimation(animation, { ...options, format });
  await writeAtomic(path, bytes);
  return { ...about, path, bytes: bytes.length };
}

/** A format with its levels of quality, from the best down. */
interface Encoder {
  names: string[];
  open: (animation: Animation) => Promise<(level: number) => Promise<Uint8Array>>;
}

function encoderOf({
  format,
  colors = 255,
  quality = 90,
  lossless = false,
  maxBytes,
}: ExportOptions): Encoder {
  if (format === 'png') return { names: ['PNG'], open: async (animation) => () => encodePngStrip(animation) };
  const below = (values: number[], first: number) => [
    first,
    ...(maxBytes === undefined ? [] : values.filter((value) => value < first)),
  ];
  if (format === 'gif') {
    const counts = below(COLORS, colors);
    const open = async (animation: Animation) => {
      const encode = await gifEncoder(animation);
      return (level: number) => encode(counts[level] as number);
    };
    return { names: counts.map((count) => `${count} colours`), open };
  }
  const qualities = below(QUALITIES, quality).map((value) => ({
    name: `quality ${value}`,
    options: { quality: value },
  }));
  const whole = { name: 'lossless', options: { lossless: true } };
  const levels = lossless ? [whole, ...(maxBytes === undefined ? [] : qualities)] : qualities;
  return {
    names: levels.map(({ name }) => name),
    open: async (animation) => (level) => encodeWebp(animation, levels[level]?.options),
  };
}

async function scaled(animation: Animation, scale: number): Promise<Animation> {
  if (scale === 1) return animation;
  const width = Math.max(Math.round(animation.width * scale), 1);
  const height = Math.max(Math.round(animation.height * scale), 1);
  const { rgba, delays } = animation;
  const resized = await native.resizeRgba(
    rgba,
    delays.length,
    animation.width,
    animation.height,
    width,
    height,
  );
  return { ...animation, width, height, rgba: resized };
}

/** Every nth frame, shown as long as those it stands for. */
function everyNth(animation: Animation, step: number): Animation {
  if (step === 1) return animation;
  const positions = [...animation.delays.keys()].filter((index) => index % step === 0);
  const delays = positions.map((position) =>
    animation.delays.slice(position, position + step).reduce((sum, delay) => sum + delay, 0),
  );
  return pickFrames(animation, positions, delays);
}

const longest = ({ width, height }: Animation) => Math.max(width, height);
const sizeOf = ({ width, height }: Animation) => `${width}x${height}`;

/** @throws DuetError INVALID_ARGUMENT for an ending that is none of STICKER_FORMATS */
export function formatOf(path: string): StickerFormat {
  const ending = extname(requireText(path, 'path')).slice(1).toLowerCase();
  const format = STICKER_FORMATS.find((known) => known === ending);
  if (format) return format;
  throw new DuetError(
    'INVALID_ARGUMENT',
    `Expected a file that ends in .${STICKER_FORMATS.join(', .')} but received ${path}`,
  );
}

function checkOptions(options: ExportOptions): void {
  const { format, maxBytes, size, colors, quality, lossless } = requireKnown(
    options,
    'options',
    EXPORT_OPTIONS,
  );
  const integers = {
    maxBytes: [maxBytes, 1, 2 ** 40],
    size: [size, 1, LARGEST_SIDE],
    colors: [colors, 2, 255],
    quality: [quality, 1, 100],
  } as const;
  for (const [name, [value, least, most]] of Object.entries(integers))
    if (value !== undefined) requireInteger(value, name, least, most);
  if (lossless !== undefined) requireBoolean(lossless, 'lossless');
  if (!STICKER_FORMATS.some((known) => known === format))
    throw invalid(`one of ${STICKER_FORMATS.join(', ')}`, 'format', format);
}
