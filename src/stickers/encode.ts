/**
 * Animations to files' bytes: GIF with one steady palette, animated WebP, PNG strip.
 *
 * A GIF's palette is chosen over all frames at once and nothing is dithered by default, so colours do not flicker from frame
 * to frame. GIF knows only opaque and transparent (alpha of 128 and more is opaque); WebP and PNG keep alpha.
 */

import { invalid, requireInteger, requireKnown, requireList } from '../arguments.js';
import { imageLibrary } from '../data/image-library.js';
import { DuetError, messageOf } from '../errors.js';
import { native } from '../native.js';
import { type Animation, checkAnimation, frameOf } from './animation.js';

/** GIF: browsers play faster ones slowly. */
const SHORTEST_GIF_DELAY_MS = 20;

export interface GifOptions {
  /** Colours of the palette, 2..255. Default 255. */
  colors?: number;
  /** Error diffusion, 0 (none, steady) to 1. Default 0. */
  dither?: number;
}

/** @throws DuetError INVALID_ARGUMENT for an animation that does not fit its sizes */
export async function encodeGif(animation: Animation, options: GifOptions = {}): Promise<Uint8Array> {
  return (await gifEncoder(animation, options.dither))(options.colors ?? 255);
}

/** Chooses the palette once; GIFs with fewer of its colours are quickly made from that. */
export async function gifEncoder(
  animation: Animation,
  dither = 0,
): Promise<(colors: number) => Promise<Uint8Array>> {
  checkAnimation(animation);
  const { width, height, delays, loop } = animation;
  const rgba = await quantised(animation, dither);
  return (colors) => native.encodeGif(rgba, width, height, hundredths(delays), loop, colors);
}

/** The same pixels in at most 255 colours, the same ones in all frames, and transparent. */
async function quantised(animation: Animation, dither: number): Promise<Uint8Array> {
  const { width, height, rgba, delays } = animation;
  // A transparent row at the end, so that one colour of the palette is the transparent one.
  const raw = { width, height: height * delays.length + 1, channels: 4 } as const;
  const hard = new Uint8Array(rgba.length + width * 4);
  for (let i = 0; i < rgba.length; i += 4) {
    if ((rgba[i + 3] as number) < 128) continue;
    hard.set(rgba.subarray(i, i + 3), i);
    hard[i + 3] = 255;
  }
  const sharp = await imageLibrary();
  const png = await sharp(hard, { raw, limitInputPixels: false })
    .png({ palette: true, colours: 256, dither, compressionLevel: 0, effort: 7 })
    .toBuffer();
  const decoded = await sharp(png, { limitInputPixels: false })
    .toColourspace('srgb')
    .ensureAlpha()
    .raw()
    .toBuffer();
  return new Uint8Array(decoded.buffer, decoded.byteOffset, rgba.length);
}

/** Milliseconds to hundredths of a second, with the rest carried on so that the whole takes as long. */
function hundredths(delays: readonly number[]): number[] {
  let carried = 0;
  return delays.map((delay) => {
    const wanted = Math.max(delay, SHORTEST_GIF_DELAY_MS) / 10 + carried;
    const rounded = Math.min(Math.round(wanted), 65535);
    carried = wanted - rounded;
    return rounded;
  });
}

export interface WebpOptions {
  /** 1..100. Default 90. */
  quality?: number;
  /** Every pixel as it is; `quality` is not used. Default false. */
  lossless?: boolean;
}

/** Pixels a side, of the format. */
const LARGEST_WEBP = 16383;

/** Equal frames after each other are stored as one that lasts longer. */
export async function encodeWebp(animation: Animation, options: WebpOptions = {}): Promise<Uint8Array> {
  checkAnimation(animation);
  const { width, height, rgba, delays, loop } = animation;
  const raw = { width, height: height * delays.length, channels: 4, pageHeight: height } as const;
  if (Math.max(width, height) > LARGEST_WEBP) {
    throw new DuetError(
      'UNSUPPORTED',
      `Expected at most ${LARGEST_WEBP} pixels a side for a WebP but received ${width}x${height}; set size, or write a GIF or PNG`,
    );
  }
  const { quality = 90, lossless = false } = options;
  const sharp = await imageLibrary();
  return sharp(rgba, { raw, limitInputPixels: false })
    .webp({ quality, lossless, alphaQuality: 100, effort: 4, delay: delays.map(Math.round), loop })
    .toBuffer();
}

/** All frames side by side in one PNG. */
export async function encodePngStrip(animation: Animation): Promise<Uint8Array> {
  return contactSheet([animation], { gap: 0 });
}

/** How a contact sheet looks. */
export interface ContactSheetOptions {
  /** Pixels between frames. Default 2. */
  gap?: number;
  /** Any CSS colour; default transparent. */
  background?: string;
  /** Frames are enlarged so many times, pixels as squares. Default 1. */
  scale?: number;
}

/**
 * A PNG with one row an animation and its frames side by side, e.g. to look at many at once.
 * @throws DuetError INVALID_ARGUMENT for animations that do not fit their sizes
 */
export async function contactSheet(
  animations: readonly Animation[],
  options: ContactSheetOptions = {},
): Promise<Uint8Array> {
  const {
    gap = 2,
    background,
    scale = 1,
  } = requireKnown(options, 'options', {
    gap: true,
    background: true,
    scale: true,
  } satisfies Record<keyof ContactSheetOptions, true>);
  requireInteger(gap, 'gap', 0, 1024);
  requireInteger(scale, 'scale', 1, 64);
  for (const animation of requireList(animations, 'animations')) checkAnimation(animation);
  const width = Math.max(...animations.map((one) => one.delays.length * (one.width + gap) - gap), 1);
  const height = animations.reduce((sum, one) => sum + one.height + gap, -gap);
  const sheet = new Uint8Array(width * Math.max(height, 1) * 4);
  let top = 0;
  for (const animation of animations) {
    for (const index of animation.delays.keys()) {
      const frame = frameOf(animation, index);
      const left = index * (animation.width + gap);
      const row = animation.width * 4;
      for (let y = 0; y < animation.height; y++)
        sheet.set(frame.subarray(y * row, (y + 1) * row), ((top + y) * width + left) * 4);
    }
    top += animation.height + gap;
  }
  const sharp = await imageLibrary();
  const picture = sharp(sheet, {
    raw: { width, height: Math.max(height, 1), channels: 4 },
    limitInputPixels: false,
  });
  if (scale !== 1) picture.resize(width * scale, Math.max(height, 1) * scale, { kernel: 'nearest' });
  if (background === undefined) return picture.png().toBuffer();
  try {
    picture.flatten({ background });
  } catch (error) {
    throw invalid('CSS colour', 'background', background, messageOf(error));
  }
  return picture.png().toBuffer();
}
