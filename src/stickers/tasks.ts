/** The six tasks of RDTF as condition masks: which frames of a clip are given to the network. */

import { invalid, requireInstance, requireInteger, requireList } from '../arguments.js';
import { Random } from '../data/random.js';
import { DuetError } from '../errors.js';

/** The six tasks, in the published order, which is also the order of task weights in arrays. */
export const TASKS = [
  'i2v',
  't2v',
  'it2v',
  'interpolation',
  'pre_frame_prediction',
  'post_frame_prediction',
] as const;

/**
 * A task of RDTF (arXiv 2503.17735): which frames of a clip are given to the network. One clip serves them all.
 *
 * - `i2v` one frame, no text
 * - `t2v` text alone
 * - `it2v` one frame and text
 * - `interpolation` every second or third frame and text
 * - `pre_frame_prediction` the last frames and text: what was before
 * - `post_frame_prediction` the first frames and text: what comes next
 */
export type Task = (typeof TASKS)[number];

/** What the network is given for one batch. */
export interface Condition {
  /** What is asked for. */
  task: Task;
  /** One entry a frame, 1 = the frame is given. */
  mask: Uint8Array;
  /** The text is replaced by zeros after it was encoded. */
  dropText: boolean;
}

/** Only picture-to-sticker has no text. */
export function dropsText(task: Task): boolean {
  return task === 'i2v';
}

/**
 * All masks of a task, each as likely as the others. A mask is drawn once a batch, for the number of frames that its
 * shortest clip really has. With 8 frames the sets of masks are exactly the published ones; other frame counts follow
 * the same rules.
 *
 * Masks are made for all `frames` and may mark frames beyond the real ones; the frame mask of a clip removes those.
 * The prediction tasks follow the published bounds: `s..frames-1` for s in 1..floor(n/2)+1, and `0..e-1` for e in
 * floor(n/2)..n-1, with n real frames.
 * @param realFrames frames of the shortest clip of the batch, 1..frames
 * @param frames frames of the network
 * @throws DuetError INVALID_ARGUMENT for an unknown task or impossible numbers
 */
export function conditionMasks(task: Task, realFrames: number, frames = 8): Uint8Array[] {
  requireInteger(frames, 'frames', 1, 65535);
  requireInteger(realFrames, 'the number of real frames', 1, frames);
  const mask = (given: (frame: number) => boolean) =>
    Uint8Array.from({ length: frames }, (_, frame) => (given(frame) ? 1 : 0));
  const range = (first: number, last: number) =>
    Array.from({ length: last - first + 1 }, (_, index) => first + index);
  const half = Math.floor(realFrames / 2);
  switch (task) {
    case 'i2v':
    case 'it2v':
      return range(0, realFrames - 1).map((one) => mask((frame) => frame === one));
    case 't2v':
      return [mask(() => false)];
    case 'interpolation':
      return [
        mask((frame) => frame % 2 === 0),
        mask((frame) => frame % 2 === 1),
        mask((frame) => frame % 3 === 0),
      ];
    case 'pre_frame_prediction':
      return range(1, half + 1).map((start) => mask((frame) => frame >= start));
    case 'post_frame_prediction':
      return range(half, realFrames - 1).map((end) => mask((frame) => frame < end));
    default:
      throw invalid(`one of ${TASKS.join(', ')}`, 'the task', task);
  }
}

/** Draws one of the masks of `conditionMasks`. */
export function drawCondition(task: Task, realFrames: number, frames: number, random: Random): Condition {
  requireInstance(random, Random, 'random');
  return { task, mask: random.pick(conditionMasks(task, realFrames, frames)), dropText: dropsText(task) };
}

/** Draws a task with chances in proportion to its weight (in the order of TASKS). */
export function drawTask(weights: readonly number[], random: Random): Task {
  const usable =
    requireList(weights, 'the task weights').length === TASKS.length &&
    weights.every((weight) => Number.isFinite(weight) && weight >= 0);
  if (!usable || weights.every((weight) => weight === 0)) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected ${TASKS.length} task weights of at least 0, one of them above 0, but received ${weights.join(', ')}`,
    );
  }
  return TASKS[random.weighted(weights)] as Task;
}

/**
 * Frames times masks: `out[b, c, f, p] = values[b, c, f, p] * conditionMask[f] * frameMasks[b, f]`.
 * @param values [batch, channels, frames, pixels] (or latents of that shape)
 * @param frameMasks [batch, frames], 1 on real frames
 * @param conditionMask [frames]; all ones when left out, which is the mask of the loss
 */
export function applyMasks(
  values: Float32Array,
  shape: { batch: number; channels: number; frames: number },
  frameMasks: Uint8Array,
  conditionMask?: Uint8Array,
): Float32Array {
  const { batch, channels, frames } = shape;
  const pixels = values.length / (batch * channels * frames);
  if (!Number.isInteger(pixels) || frameMasks.length !== batch * frames) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected values of [${batch}, ${channels}, ${frames}, pixels] and ${batch * frames} entries of frame masks but received ${values.length} values and ${frameMasks.length} entries`,
    );
  }
  const out = new Float32Array(values.length);
  for (let row = 0; row < batch * channels * frames; row++) {
    const frame = row % frames;
    const clip = Math.floor(row / (channels * frames));
    const given = (conditionMask?.[frame] ?? 1) * (frameMasks[clip * frames + frame] as number);
    if (given) out.set(values.subarray(row * pixels, (row + 1) * pixels), row * pixels);
  }
  return out;
}
