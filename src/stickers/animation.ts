/** An animation in memory. */

import {
  invalid,
  requireInstance,
  requireInteger,
  requireList,
  requireNumber,
  requireObject,
} from '../arguments.js';
import { DuetError } from '../errors.js';

/** As GIF counts: 65535 hundredths of a second. */
const LONGEST_DELAY_MS = 655_350;

/** An animation in memory: what decoding gives and what the exporter takes. */
export interface Animation {
  /** Pixels. */
  width: number;
  /** Pixels. */
  height: number;
  /** [frames, height, width, 4], RGBA, colours not multiplied by alpha. */
  rgba: Uint8Array;
  /** Milliseconds each frame is shown; its length is the number of frames. */
  delays: readonly number[];
  /** Times it is played; 0 = for ever. */
  loop: number;
}

/** @throws DuetError INVALID_ARGUMENT when the bytes do not fit the sizes, or there is no frame */
export function checkAnimation(animation: Animation): void {
  const { width, height, rgba, delays, loop } = requireObject(animation, 'animation');
  requireInteger(width, 'width', 1, 65535);
  requireInteger(height, 'height', 1, 65535);
  requireInstance(rgba, Uint8Array, 'rgba');
  if (requireList(delays, 'delays', requireNumber).length === 0)
    throw new DuetError(
      'INVALID_ARGUMENT',
      'Expected an animation of at least 1 frame but received 0 delays',
    );
  const expected = width * height * 4 * delays.length;
  if (rgba.length !== expected) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected ${expected} bytes of RGBA for ${delays.length} frames of ${width}x${height} but received ${rgba.length}`,
    );
  }
  for (const delay of delays) checkTiming({ delay });
  checkTiming({ loop });
}

/** @throws DuetError INVALID_ARGUMENT for what no format can say */
export function checkTiming({ delay = 0, loop = 0 }: { delay?: number; loop?: number }): void {
  if (!(requireNumber(delay, 'delay') >= 0 && delay <= LONGEST_DELAY_MS))
    throw invalid(`number from 0 to ${LONGEST_DELAY_MS} (ms)`, 'delay', delay);
  requireInteger(loop, 'loop', 0, 65535);
}

/** Frame `index` of an animation, [height, width, 4]; shares its memory. */
export function frameOf({ width, height, rgba }: Animation, index: number): Uint8Array {
  const bytes = width * height * 4;
  return rgba.subarray(index * bytes, (index + 1) * bytes);
}

/** The frames at these positions, as a new animation. `delays` default to those of the chosen frames. */
export function pickFrames(
  animation: Animation,
  positions: readonly number[],
  delays: readonly number[] = positions.map((position) => animation.delays[position] as number),
): Animation {
  const rgba = new Uint8Array(animation.width * animation.height * 4 * positions.length);
  const bytes = animation.width * animation.height * 4;
  for (const [index, position] of positions.entries()) rgba.set(frameOf(animation, position), index * bytes);
  return { ...animation, rgba, delays: [...delays] };
}
