/** Key frames: which frames of an animation a clip is made of. */

import { invalid, requireInteger, requireList } from '../arguments.js';
import { DuetError } from '../errors.js';
import { native } from '../native.js';

/** All ways to choose key frames. */
export const KEY_FRAME_METHODS = ['equal', 'difference', 'clusters'] as const;
/** How key frames are chosen: at equal distances, where most changes, or one for each group of similar frames. */
export type KeyFrameMethod = (typeof KEY_FRAME_METHODS)[number];

/** Far more than a clip has; the positions are made in memory. */
const MOST_FRAMES = 65_536;

/**
 * Positions of a clip of `count` frames in an animation of `features.length` frames, in order of time.
 *
 * As many frames as wanted: all of them. A single one: `count` times. Fewer: the animation is played forth and back
 * until it is long enough (0 1 2 1 0 ...). Then the method decides; all are deterministic. The rules are those of the
 * published code of RDTF (arXiv 2503.17735); the network that computed features there is replaced by features of the
 * caller's choice, by default small thumbnails.
 * @param features one vector a frame, all of one length; only their number matters for `equal`
 * @throws DuetError INVALID_ARGUMENT for no frames, different lengths or an impossible count
 */
export async function keyFrames(
  method: KeyFrameMethod,
  features: readonly ArrayLike<number>[],
  count: number,
): Promise<number[]> {
  requireInteger(count, 'the number of key frames', 1, MOST_FRAMES);
  if (requireList(features, 'features').length === 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      'Expected at least 1 frame to choose key frames from but received 0',
    );
  }
  const [first] = features;
  for (const [index, feature] of features.entries()) {
    if (typeof feature?.length !== 'number' || feature.length !== first?.length)
      throw invalid('vector as long as the others', `features[${index}]`, feature);
  }
  const source = forthAndBack(features.length, count);
  if (source.length === count) return source;
  const chosen = await methodOf(method)(
    source.map((index) => features[index] as ArrayLike<number>),
    count,
  );
  return chosen.map((position) => source[position] as number);
}

function methodOf(
  method: KeyFrameMethod,
): (features: ArrayLike<number>[], count: number) => number[] | Promise<number[]> {
  switch (method) {
    case 'equal':
      return (features, count) => equalPositions(features.length, count);
    case 'difference':
      return largestDifferences;
    case 'clusters':
      return firstOfClusters;
    default:
      throw invalid(`one of ${KEY_FRAME_METHODS.join(', ')}`, 'the choice of key frames', method);
  }
}

/** The frames played forth and back until there are `count` of them: lengths n, 2n-1, 4n-3, ... */
export function forthAndBack(length: number, count: number): number[] {
  if (length === 1) return new Array<number>(count).fill(0);
  const played = Array.from({ length }, (_, index) => index);
  while (played.length < count) played.push(...played.slice(0, -1).reverse());
  return played;
}

/** `round(i * (length-1) / (count-1))`, exact halves to the even integer. */
export function equalPositions(length: number, count: number): number[] {
  if (count === 1) return [0];
  return Array.from({ length: count }, (_, index) => roundHalfToEven((index * (length - 1)) / (count - 1)));
}

/** The `count` frames that differ most from the one before them (mean absolute difference). */
export function largestDifferences(features: readonly ArrayLike<number>[], count: number): number[] {
  const differences = features.slice(1).map((feature, index) => ({
    frame: index + 1,
    difference: meanDifference(feature, features[index] as ArrayLike<number>),
  }));
  differences.sort((a, b) => b.difference - a.difference || a.frame - b.frame);
  return differences
    .slice(0, count)
    .map(({ frame }) => frame)
    .sort((a, b) => a - b);
}

/**
 * k-means with `count` clusters; the first frame of each. It starts from the first frame and then always the frame
 * farthest from those chosen, so it needs no chance. Animations with fewer different frames than clusters are filled up
 * with frames at equal distances. A thousand frames and 256 clusters take seconds: it is done on libuv's pool.
 */
export async function firstOfClusters(
  features: readonly ArrayLike<number>[],
  count: number,
): Promise<number[]> {
  const length = features[0]?.length ?? 0;
  const vectors = new Float64Array(features.length * length);
  for (const [frame, feature] of features.entries()) vectors.set(feature, frame * length);
  const labels = await native.clusterLabels(vectors, features.length, count);
  const chosen = new Set<number>();
  const seen = new Set<number>();
  for (const [frame, label] of labels.entries()) {
    if (!seen.has(label)) chosen.add(frame);
    seen.add(label);
  }
  const others = [...features.keys()].filter((frame) => !chosen.has(frame));
  const missing = count - chosen.size;
  for (let i = 0; i < missing; i++)
    chosen.add(others[Math.floor(((i + 0.5) * others.length) / missing)] as number);
  return [...chosen].sort((a, b) => a - b);
}

function meanDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += Math.abs((a[i] as number) - (b[i] as number));
  return sum / a.length;
}

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
