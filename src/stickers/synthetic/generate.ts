/** Draws the stickers of `drawings.ts`: in memory, or as a folder that `StickerDataset.fromFolder` reads. */

import { join } from 'node:path';
import {
  requireFunction,
  requireInteger,
  requireKnown,
  requireObject,
  requireText,
} from '../../arguments.js';
import { imageLibrary } from '../../data/image-library.js';
import { throwIfAborted } from '../../errors.js';
import { makeFolder, writeAtomic } from '../../run/files.js';
import type { Animation } from '../animation.js';
import { encodeWebp } from '../encode.js';
import { DRAWINGS, type Drawing } from './drawings.js';

/** Size and speed of drawn stickers. */
export interface DrawOptions {
  /** Pixels a side. Default 64. */
  size?: number;
  /** Frames of the loop. Default 12. */
  frames?: number;
  /** Milliseconds a frame. Default 100. */
  delayMs?: number;
}

const DRAW_OPTIONS = { size: true, frames: true, delayMs: true } satisfies Record<keyof DrawOptions, true>;

/** One loop of a drawing on a transparent background. */
export async function drawSticker(drawing: Drawing, options: DrawOptions = {}): Promise<Animation> {
  const { size = 64, frames = 12, delayMs = 100 } = requireKnown(options, 'options', DRAW_OPTIONS);
  requireInteger(size, 'size', 1, 1024);
  requireInteger(frames, 'frames', 1, 256);
  requireInteger(delayMs, 'delayMs', 0, 65535);
  requireFunction(requireObject(drawing, 'drawing').draw, 'draw of the drawing');
  const sharp = await imageLibrary();
  const bytes = size * size * 4;
  const rgba = new Uint8Array(bytes * frames);
  for (let frame = 0; frame < frames; frame++) {
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}" viewBox="0 0 100 100">${drawing.draw(frame / frames)}</svg>`;
    rgba.set(await sharp(Buffer.from(svg)).ensureAlpha().raw().toBuffer(), frame * bytes);
  }
  return { width: size, height: size, rgba, delays: new Array(frames).fill(delayMs), loop: 0 };
}

/**
 * Writes drawings, by default all, as animated WebP with `captions.jsonl` into a folder.
 * @returns the number of stickers
 */
export async function generateStickers(
  folder: string,
  options: DrawOptions & { drawings?: readonly Drawing[]; signal?: AbortSignal } = {},
): Promise<number> {
  const known = { ...DRAW_OPTIONS, drawings: true, signal: true };
  const { drawings = DRAWINGS, signal, ...how } = requireKnown(options, 'options', known);
  await makeFolder(requireText(folder, 'folder'), `make the folder ${folder} for drawn stickers`);
  const lines: string[] = [];
  for (const drawing of drawings) {
    throwIfAborted(signal, 'Drawing stickers');
    const { name, caption } = drawing;
    const file = `${name}.webp`;
    await writeAtomic(
      join(folder, file),
      await encodeWebp(await drawSticker(drawing, how), { lossless: true }),
    );
    lines.push(`${JSON.stringify({ file, caption })}\n`);
  }
  await writeAtomic(join(folder, 'captions.jsonl'), lines.join(''));
  return drawings.length;
}
