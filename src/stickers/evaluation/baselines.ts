/** What needs no network. */

import { invalid, requireInstance } from '../../arguments.js';
import { DuetError } from '../../errors.js';
import { type ClipShape, sizeOf } from './metrics.js';

/** The nearest known frame, or a blend of the two around. */
export type BaselineName = 'nearest' | 'blend';

/**
 * Fills the frames whose mask is 0 without a network, which is worth something where it does better.
 * @param clip [channels, frames, height, width]; unknown frames are not read
 * @param mask [frames], 1 on known frames; at least one
 * @returns a new clip; known frames as they are. `nearest` takes the earlier one of two at the same distance, `blend`
 *   mixes by distance between two known frames and repeats the nearest outside of them
 * @throws DuetError INVALID_ARGUMENT for arrays that do not fit or no known frame
 */
export function baseline(
  name: BaselineName,
  clip: Float32Array,
  shape: ClipShape,
  mask: ArrayLike<number>,
): Float32Array {
  if (name !== 'nearest' && name !== 'blend') throw invalid('nearest or blend', 'the baseline', name);
  if (requireInstance(clip, Float32Array, 'clip').length !== sizeOf(shape))
    throw invalid(`${sizeOf(shape)} numbers`, 'clip', clip);
  if (mask?.length !== shape.frames) throw invalid(`${shape.frames} entries`, 'mask', mask);
  const known = Array.from({ length: shape.frames }, (_, frame) => frame).filter(
    (frame) => mask[frame] === 1,
  );
  if (known.length === 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      'Expected at least 1 known frame for a baseline but received none',
    );
  }
  const plane = shape.height * shape.width;
  const out = clip.slice();
  for (let frame = 0; frame < shape.frames; frame++) {
    if (mask[frame] === 1) continue;
    const before = known.filter((one) => one < frame).at(-1);
    const after = known.find((one) => one > frame);
    const share = shareOfAfter(name, frame, before, after);
    for (let channel = 0; channel < shape.channels; channel++) {
      const at = (one: number) => (channel * shape.frames + one) * plane;
      for (let i = 0; i < plane; i++) {
        const earlier = clip[at(before ?? frame) + i] as number;
        const later = clip[at(after ?? frame) + i] as number;
        out[at(frame) + i] =
          share === 0 ? earlier : share === 1 ? later : earlier + share * (later - earlier);
      }
    }
  }
  return out;
}

function shareOfAfter(name: BaselineName, frame: number, before?: number, after?: number): number {
  if (before === undefined) return 1;
  if (after === undefined) return 0;
  if (name === 'nearest') return frame - before <= after - frame ? 0 : 1;
  return (frame - before) / (after - before);
}
