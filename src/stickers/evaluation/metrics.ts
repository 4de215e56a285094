/**
 * How close a generated clip is to the real one.
 *
 * Clips are values in [-1, 1] as the network has them, [channels, frames, height, width]. Only frames that were generated
 * count: those given to the network are left out by a list of frames. PSNR and SSIM are means over these frames; the
 * frame-difference error looks at what changes between neighbouring frames and so at how steady the motion is.
 */

import { requireInstance, requireInteger, requireList, requireObject } from '../../arguments.js';
import { DuetError } from '../../errors.js';

/** Sizes of a clip of values in [-1, 1] as the network has them: [channels, frames, height, width]. */
export interface ClipShape {
  /** 3 or 4. */
  channels: number;
  /** Frames. */
  frames: number;
  /** Pixels. */
  height: number;
  /** Pixels. */
  width: number;
}

/** Numbers of a clip. @throws DuetError INVALID_ARGUMENT for sides that are not integers above 0 */
export function sizeOf(shape: ClipShape): number {
  const { channels, frames, height, width } = requireObject(shape, 'shape');
  return Object.entries({ channels, frames, height, width }).reduce(
    (product, [name, side]) => product * requireInteger(side, name, 1),
    1,
  );
}

/** Span of values: from -1 to 1. */
const RANGE = 2;

/** Mean squared error of one frame over all channels. */
export function frameError(a: Float32Array, b: Float32Array, shape: ClipShape, frame: number): number {
  const plane = shape.height * shape.width;
  let sum = 0;
  for (let channel = 0; channel < shape.channels; channel++) {
    const at = (channel * shape.frames + frame) * plane;
    for (let i = at; i < at + plane; i++) sum += ((a[i] as number) - (b[i] as number)) ** 2;
  }
  return sum / (plane * shape.channels);
}

/**
 * Peak signal-to-noise ratio in dB, the mean over the frames; equal frames count as 100 dB.
 * @param frames which frames are compared
 */
export function psnr(a: Float32Array, b: Float32Array, shape: ClipShape, frames: readonly number[]): number {
  checkClips(a, b, shape, frames);
  return mean(
    frames.map((frame) => {
      const error = frameError(a, b, shape, frame);
      return Math.min(100, 10 * Math.log10(RANGE ** 2 / Math.max(error, 1e-12)));
    }),
  );
}

/** Side of the window of SSIM, and its standard deviation. */
const WINDOW = 11;
const SIGMA = 1.5;

/**
 * Structural similarity (Wang et al. 2004): Gaussian window of 11 pixels, sigma 1.5, k1 = 0.01, k2 = 0.03, over all places
 * where the window fits, each channel on its own; the mean over channels and frames. Pictures below 11 pixels a side get
 * the largest odd window that fits.
 */
export function ssim(a: Float32Array, b: Float32Array, shape: ClipShape, frames: readonly number[]): number {
  checkClips(a, b, shape, frames);
  const plane = shape.height * shape.width;
  const values: number[] = [];
  for (const frame of frames) {
    for (let channel = 0; channel < shape.channels; channel++) {
      const at = (channel * shape.frames + frame) * plane;
      values.push(
        planeSsim(a.subarray(at, at + plane), b.subarray(at, at + plane), shape.height, shape.width),
      );
    }
  }
  return mean(values);
}

function planeSsim(a: Float32Array, b: Float32Array, height: number, width: number): number {
  const fitting = Math.min(WINDOW, height, width);
  const window = gaussian(fitting % 2 === 1 ? fitting : fitting - 1);
  const blurred = (value: (index: number) => number) =>
    blur(
      Float64Array.from(a, (_, i) => value(i)),
      height,
      width,
      window,
    );
  const x = (i: number) => a[i] as number;
  const y = (i: number) => b[i] as number;
  const [mx, my] = [blurred(x), blurred(y)];
  const [xx, yy, xy] = [blurred((i) => x(i) ** 2), blurred((i) => y(i) ** 2), blurred((i) => x(i) * y(i))];
  const c1 = (0.01 * RANGE) ** 2;
  const c2 = (0.03 * RANGE) ** 2;
  let sum = 0;
  for (let i = 0; i < mx.length; i++) {
    const [meanX, meanY] = [mx[i] as number, my[i] as number];
    const varianceX = (xx[i] as number) - meanX ** 2;
    const varianceY = (yy[i] as number) - meanY ** 2;
    const covariance = (xy[i] as number) - meanX * meanY;
    const likeness = (2 * meanX * meanY + c1) * (2 * covariance + c2);
    sum += likeness / ((meanX ** 2 + meanY ** 2 + c1) * (varianceX + varianceY + c2));
  }
  return sum / mx.length;
}

function gaussian(size: number): number[] {
  const weights = Array.from({ length: size }, (_, i) =>
    Math.exp(-((i - (size - 1) / 2) ** 2) / (2 * SIGMA ** 2)),
  );
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  return weights.map((weight) => weight / total);
}

/** Rows, then columns; only where the window fits. */
function blur(plane: Float64Array, height: number, width: number, window: readonly number[]): Float64Array {
  const [outHeight, outWidth] = [height - window.length + 1, width - window.length + 1];
  const rows = new Float64Array(height * outWidth);
  const out = new Float64Array(outHeight * outWidth);
  for (const [tap, weight] of window.entries()) {
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < outWidth; x++)
        rows[y * outWidth + x]! += weight * (plane[y * width + x + tap] as number);
    }
  }
  for (const [tap, weight] of window.entries()) {
    for (let i = 0; i < out.length; i++) out[i]! += weight * (rows[i + tap * outWidth] as number);
  }
  return out;
}

/**
 * Mean absolute difference between the changes from frame to frame: |(a[f+1] - a[f]) - (b[f+1] - b[f])|, over all
 * pairs of neighbours of which at least one is in `frames`. 0 for the same motion, whatever the picture.
 */
export function frameDifferenceError(
  a: Float32Array,
  b: Float32Array,
  shape: ClipShape,
  frames: readonly number[],
): number {
  checkClips(a, b, shape, frames);
  const plane = shape.height * shape.width;
  const wanted = new Set(frames);
  const values: number[] = [];
  for (let frame = 0; frame + 1 < shape.frames; frame++) {
    if (!wanted.has(frame) && !wanted.has(frame + 1)) continue;
    let sum = 0;
    for (let channel = 0; channel < shape.channels; channel++) {
      const at = (channel * shape.frames + frame) * plane;
      for (let i = at; i < at + plane; i++) {
        const change = (a[i + plane] as number) - (a[i] as number);
        sum += Math.abs(change - ((b[i + plane] as number) - (b[i] as number)));
      }
    }
    values.push(sum / (plane * shape.channels));
  }
  return values.length > 0 ? mean(values) : 0;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function checkClips(a: Float32Array, b: Float32Array, shape: ClipShape, frames: readonly number[]): void {
  requireInstance(a, Float32Array, 'the first clip');
  requireInstance(b, Float32Array, 'the second clip');
  const expected = sizeOf(shape);
  if (a.length !== expected || b.length !== expected) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected two clips of ${expected} values but received ${a.length} and ${b.length}`,
    );
  }
  requireList(frames, 'frames', (frame, name) => requireInteger(frame, name, 0, shape.frames - 1));
  if (frames.length === 0)
    throw new DuetError('INVALID_ARGUMENT', 'Expected at least 1 frame to compare but received 0');
}
