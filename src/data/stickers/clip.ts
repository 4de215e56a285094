/** From an animation to the clip the network is trained on; `ClipSpec` says how. */

import { createHash } from 'node:crypto';
import { native } from '../../native.js';
import { type Animation, pickFrames } from '../../stickers/animation.js';
import { type KeyFrameMethod, keyFrames } from '../../stickers/key-frames.js';
import { StickerError } from './limits.js';

/**
 * How an animation becomes the clip the network is trained on: key frames, resized, on white, at most `frames` of
 * them. The order is that of the published code: resizing (bicubic, without regard to the aspect ratio) comes before
 * white. With four channels the fourth is alpha and the first three are the same as without it.
 */
export interface ClipSpec {
  /** Frames of the network. */
  frames: number;
  /** Pixels a side. */
  size: number;
  /** 3 = on white, 4 = on white and alpha. */
  channels: 3 | 4;
  /** How frames are chosen when there are more. */
  keyFrames: KeyFrameMethod;
  /** Shorter animations: `pad` leaves frames empty (they are masked), `bounce` plays them forth and back. */
  shortClips: 'pad' | 'bounce';
  /** Animations of fewer frames are left out. */
  minFrames: number;
}

/** One clip in bytes. */
export interface Clip {
  /** [frames, size, size, channels] */
  strip: Uint8Array;
  /** Real frames, 1..spec.frames. */
  frames: number;
  /** How long the whole animation takes. */
  durationMs: number;
  /** SHA-256 of sizes and pixels: equal for the same clip under another name or in another format. */
  fingerprint: string;
}

/** Side of the thumbnails that frames are compared by. */
const THUMBNAIL = 16;

/** @throws StickerError UNSUPPORTED when the animation has too few frames */
export async function clipOf(name: string, animation: Animation, spec: ClipSpec): Promise<Clip> {
  const count = animation.delays.length;
  if (count < spec.minFrames) {
    throw new StickerError(
      'UNSUPPORTED',
      'too few frames',
      `Expected ${name} to have at least ${spec.minFrames} frames but it has ${count}; lower minFrames to use it`,
    );
  }
  const { size, channels } = spec;
  const durationMs = animation.delays.reduce((sum, delay) => sum + delay, 0);
  const positions = await positionsOf(animation, spec);
  const { rgba, width, height } = pickFrames(animation, positions);
  const resized = await native.resizeRgba(rgba, positions.length, width, height, size, size);
  const strip = await native.compositeOnWhite(resized, channels === 4);
  return clipOfStrip(strip, positions.length, durationMs, spec);
}

export function clipOfStrip(
  strip: Uint8Array,
  frames: number,
  durationMs: number,
  { size, channels }: ClipSpec,
): Clip {
  const sizes = `${frames} frames of ${size}x${size}x${channels}\n`;
  return {
    strip,
    frames,
    durationMs,
    fingerprint: createHash('sha256').update(sizes).update(strip).digest('hex'),
  };
}

async function positionsOf(animation: Animation, spec: ClipSpec): Promise<number[]> {
  const { width, height, rgba, delays } = animation;
  const count = delays.length;
  if (count <= spec.frames && spec.shortClips === 'pad') return [...delays.keys()];
  if (spec.keyFrames === 'equal')
    return keyFrames(
      'equal',
      delays.map(() => []),
      spec.frames,
    );
  const small = await native.resizeRgba(rgba, count, width, height, THUMBNAIL, THUMBNAIL);
  const onWhite = await native.compositeOnWhite(small, false);
  const bytes = THUMBNAIL * THUMBNAIL * 3;
  const features = Array.from({ length: count }, (_, i) => onWhite.subarray(i * bytes, (i + 1) * bytes));
  return keyFrames(spec.keyFrames, features, spec.frames);
}
