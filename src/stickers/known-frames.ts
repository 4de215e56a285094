/** Frames that are given to the network: pictures of any size, prepared as the data set prepares its clips. */

import { requireInstance, requireInteger, requireObject } from '../arguments.js';
import { decodeSticker, readSticker } from '../data/stickers/decode.js';
import { ANIMATION_LIMITS } from '../data/stickers/limits.js';
import { DuetError, shown } from '../errors.js';
import { native } from '../native.js';
import type { Animation } from './animation.js';

/** A picture in RGBA, or a picture file (of an animation the first frame). */
export type GivenFrame = string | Pick<Animation, 'width' | 'height' | 'rgba'>;

export interface KnownFrames {
  /** [frames], 1 on given ones */
  mask: Uint8Array;
  /** [channels, frames, size, size] in -1 .. 1; 0 elsewhere */
  values: Float32Array;
}

export interface KnownShape {
  frames: number;
  /** Pixels a side. */
  size: number;
  channels: 3 | 4;
}

/**
 * @param keep given frames by their position, from 0
 * @throws DuetError INVALID_ARGUMENT for a position out of range; as `decodeSticker` for a bad file
 */
export async function knownFrames(
  keep: Readonly<Record<number, GivenFrame>>,
  { frames, size, channels }: KnownShape,
): Promise<KnownFrames> {
  const mask = new Uint8Array(frames);
  const values = new Float32Array(channels * frames * size * size);
  const pixels = size * size;
  for (const [key, given] of Object.entries(keep)) {
    const position = Number(key);
    if (!/^\d+$/.test(key) || position >= frames) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected positions from 0 to ${frames - 1} in keep (frames of the sticker) but received ${shown(key)}`,
      );
    }
    const { rgba, width, height } =
      typeof given === 'string' ? await pictureOf(given) : requireObject(given, `keep[${position}]`);
    requireInstance(rgba, Uint8Array, `rgba of keep[${position}]`);
    requireInteger(width, `width of keep[${position}]`, 1);
    requireInteger(height, `height of keep[${position}]`, 1);
    const first = rgba.subarray(0, width * height * 4);
    const resized = await native.resizeRgba(first, 1, width, height, size, size);
    const strip = await native.compositeOnWhite(resized, channels === 4);
    const one = await native.stackClips([{ strip, frames: 1 }], 1, size, size, channels);
    for (let channel = 0; channel < channels; channel++) {
      values.set(
        one.subarray(channel * pixels, (channel + 1) * pixels),
        (channel * frames + position) * pixels,
      );
    }
    mask[position] = 1;
  }
  return { mask, values };
}

async function pictureOf(path: string): Promise<Animation> {
  return decodeSticker(await readSticker(path, ANIMATION_LIMITS), ANIMATION_LIMITS);
}
