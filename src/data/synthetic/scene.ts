/**
 * What a picture shows, before any style: one to four things of one kind and color, placed without touching.
 *
 * Everything is drawn at random from the generator of the picture, so that a picture depends on its seed and
 * number alone.
 */

import type { Random } from '../random.js';
import { COLOR_NAMES, type ColorName } from './colors.js';
import { SHAPES, type Shape } from './shapes.js';

export const DIRECTIONS = ['right', 'down', 'left', 'up'] as const;
export type Direction = (typeof DIRECTIONS)[number];
export const MAX_COUNT = 4;

/** One thing in a picture of 100 x 100 units. */
export interface Placement {
  x: number;
  y: number;
  /** Half the side of its square. */
  radius: number;
  /** Degrees clockwise. */
  angle: number;
}

export interface Scene {
  shape: Shape;
  color: ColorName;
  placements: readonly Placement[];
  /** Only for shapes that point. */
  direction?: Direction;
}

type Spot = readonly [x: number, y: number];

/** Arrangements by count. Few and steady: where things stand is not the question. */
const LAYOUTS: readonly (readonly (readonly Spot[])[])[] = [
  [[[50, 50]]],
  [
    [
      [27, 50],
      [73, 50],
    ],
    [
      [28, 28],
      [72, 72],
    ],
  ],
  [
    [
      [50, 27],
      [27, 71],
      [73, 71],
    ],
    [
      [27, 29],
      [73, 29],
      [50, 73],
    ],
  ],
  [
    [
      [27, 27],
      [73, 27],
      [27, 73],
      [73, 73],
    ],
  ],
];
/** Half the side of a thing, by count. */
const RADII: readonly (readonly [least: number, most: number])[] = [
  [36, 41],
  [20, 22],
  [19, 21],
  [19, 21],
];

/**
 * Draws a scene.
 * @param shapeWeights chance of every shape, in proportion; one number for each of `SHAPES`
 */
export function drawScene(random: Random, shapeWeights: readonly number[]): Scene {
  const shape = SHAPES[random.weighted(shapeWeights)]!;
  const color = random.pick(COLOR_NAMES);
  const count = 1 + random.below(MAX_COUNT);
  const quarter = random.below(4);
  const layout = random.pick(LAYOUTS[count - 1]!);
  const [least, most] = RADII[count - 1]!;
  const wander = count === 1 ? 4 : 2;
  const placements = layout.map(([x, y]) => ({
    x: x + random.between(-wander, wander),
    y: y + random.between(-wander, wander),
    radius: random.between(least, most),
    angle: random.between(-6, 6) + (shape.pointing ? 90 * quarter : 0),
  }));
  return shape.pointing
    ? { shape, color, placements, direction: DIRECTIONS[quarter]! }
    : { shape, color, placements };
}

/**
 * Chances of the shapes: those that point come more often (they alone can be asked for it), favourites
 * `favour` times.
 */
export function shapeWeights(favourites: ReadonlySet<string>, favour: number): number[] {
  return SHAPES.map(({ name, pointing }) => (pointing ? 1.6 : 1) * (favourites.has(name) ? favour : 1));
}
