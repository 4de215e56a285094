/** What an animation file may ask of this machine before it is decoded, and the error of one that cannot be used. */

import { DuetError, type DuetErrorCode } from '../../errors.js';

/** Why a sticker is left out of a data set. */
export type StickerSkipReason =
  /** Neither a caption in captions.jsonl nor a text file. */
  | 'missing caption'
  /** captions.jsonl names a file that is not there. */
  | 'missing file'
  /** A line of captions.jsonl that is not an object with a file, or a text file that cannot be read. */
  | 'malformed caption'
  /** Damaged, cut short, or no animation at all. */
  | 'corrupt animation'
  /** A still picture, or fewer frames than asked for. */
  | 'too few frames'
  /** More frames than allowed. */
  | 'too many frames'
  /** Larger pictures, or more of them, than allowed. */
  | 'too large';

/** A DuetError about one sticker: it costs that sticker, not the run. */
export class StickerError extends DuetError {
  readonly reason: StickerSkipReason;

  constructor(code: DuetErrorCode, reason: StickerSkipReason, message: string, options?: ErrorOptions) {
    super(code, message, options);
    this.reason = reason;
  }
}

/** What an animation file may ask of this machine before it is decoded. */
export interface AnimationLimits {
  /** Default 1000. */
  maxFrames: number;
  /** Pixels of one frame. Default 4 Mi (2048 x 2048). */
  maxPixels: number;
  /** Pixels of all frames together, 4 bytes each. Default 64 Mi. */
  maxTotalPixels: number;
  /** Default 64 MiB. */
  maxFileBytes: number;
}

export const ANIMATION_LIMITS: AnimationLimits = {
  maxFrames: 1000,
  maxPixels: 2048 * 2048,
  maxTotalPixels: 64 * 1024 * 1024,
  maxFileBytes: 64 * 1024 * 1024,
};

/** @throws StickerError UNSUPPORTED when the sizes a file declares are above the limits */
export function checkLimits(
  name: string,
  { frames, width, height }: { frames: number; width: number; height: number },
  limits: AnimationLimits,
): void {
  const refuse = (reason: StickerSkipReason, expected: string, received: string, option: string) => {
    throw new StickerError(
      'UNSUPPORTED',
      reason,
      `Expected ${name} to have ${expected} but it has ${received}; cut it down or raise ${option}`,
    );
  };
  if (frames > limits.maxFrames)
    refuse('too many frames', `at most ${limits.maxFrames} frames`, String(frames), 'maxFrames');
  if (width * height > limits.maxPixels)
    refuse('too large', `at most ${limits.maxPixels} pixels a frame`, `${width}x${height}`, 'maxPixels');
  if (width * height * frames > limits.maxTotalPixels) {
    const received = `${frames} frames of ${width}x${height}`;
    refuse('too large', `at most ${limits.maxTotalPixels} pixels in all frames`, received, 'maxTotalPixels');
  }
}
