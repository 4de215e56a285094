/**
 * The things that are drawn: outlines as lists of points, so that every style can bend, fill and stroke them
 * its own way.
 *
 * A shape lives in the square from -1 to 1 (x to the right, y down) and is made of parts, painted in order.
 * `body` is the main area, `shade` a darker and `light` a lighter area of the same color, `ink` a small dark
 * detail. Shapes with a direction point to the right; the scene turns them.
 */

export type Point = readonly [x: number, y: number];
export type Tone = 'body' | 'shade' | 'light' | 'ink';

export interface Part {
  tone: Tone;
  /** A closed outline. */
  points: readonly Point[];
}

export interface Shape {
  name: string;
  plural: string;
  /** Asked for its direction. */
  pointing: boolean;
  parts: readonly Part[];
}

const TURN = 2 * Math.PI;

/** Points of an arc from `start` to `end` (in turns, clockwise on the screen). */
function arc(center: Point, radius: Point, start: number, end: number, steps = 32): Point[] {
  return Array.from({ length: steps + 1 }, (_, step) => {
    const angle = TURN * (start + ((end - start) * step) / steps);
    return [center[0] + radius[0] * Math.cos(angle), center[1] + radius[1] * Math.sin(angle)];
  });
}

const ellipse = (center: Point, radius: Point): Point[] => arc(center, radius, 0, 1).slice(0, -1);
const circle = (center: Point, radius: number): Point[] => ellipse(center, [radius, radius]);

function box(left: number, top: number, right: number, bottom: number): Point[] {
  return [
    [left, top],
    [right, top],
    [right, bottom],
    [left, bottom],
  ];
}

/** A closed curve r(angle) around a center; angle in turns. */
function polar(center: Point, radius: (turn: number) => number, steps = 60): Point[] {
  return Array.from({ length: steps }, (_, step) => {
    const turn = step / steps;
    const r = radius(turn);
    return [center[0] + r * Math.cos(TURN * turn), center[1] + r * Math.sin(TURN * turn)];
  });
}

/** Corners at `count` outer and inner points, the first one up. */
function starPoints(count: number, outer: number, inner: number, center: Point): Point[] {
  return Array.from({ length: 2 * count }, (_, i) => {
    const angle = TURN * (i / (2 * count) - 0.25);
    const radius = i % 2 ? inner : outer;
    return [center[0] + radius * Math.cos(angle), center[1] + radius * Math.sin(angle)];
  });
}

function heart(): Point[] {
  return Array.from({ length: 48 }, (_, step) => {
    const t = (TURN * step) / 48;
    const y = 13 * Math.cos(t) - 5 * Math.cos(2 * t) - 2 * Math.cos(3 * t) - Math.cos(4 * t);
    return [Math.sin(t) ** 3 * 0.98, -(y + 2) / 16];
  });
}

/** The part of a disc left over by a second one beside it. */
function crescent(): Point[] {
  const meet = 50 / 360;
  const tip: Point = [0.92 * Math.cos(TURN * meet), 0.92 * Math.sin(TURN * meet)];
  const center: Point = [0.42, 0];
  const radius = Math.hypot(tip[0] - center[0], tip[1]);
  const start = Math.atan2(tip[1], tip[0] - center[0]) / TURN;
  const outer = arc([0, 0], [0.92, 0.92], meet, 1 - meet);
  const inner = arc(center, [radius, radius], 1 - start, start, 24);
  return [...outer, ...inner].map(([x, y]) => [x + 0.2, y]);
}

const body = (points: Point[]): Part => ({ tone: 'body', points });
const shade = (points: Point[]): Part => ({ tone: 'shade', points });
const light = (points: Point[]): Part => ({ tone: 'light', points });
const ink = (points: Point[]): Part => ({ tone: 'ink', points });

function shape(name: string, parts: Part[], options: { plural?: string; pointing?: boolean } = {}): Shape {
  return { name, plural: options.plural ?? `${name}s`, pointing: options.pointing ?? false, parts };
}

const arrow: Point[] = [
  [-0.95, -0.3],
  [0.05, -0.3],
  [0.05, -0.85],
  [0.98, 0],
  [0.05, 0.85],
  [0.05, 0.3],
  [-0.95, 0.3],
];
const triangle: Point[] = [
  [0, -0.9],
  [0.95, 0.78],
  [-0.95, 0.78],
];
const roof: Point[] = [
  [-0.95, 0.02],
  [0, -0.92],
  [0.95, 0.02],
];
const mug: Point[] = [
  [-0.78, -0.62],
  [0.42, -0.62],
  [0.3, 0.82],
  [-0.66, 0.82],
];
const tail: Point[] = [
  [-0.42, 0],
  [-0.98, -0.58],
  [-0.84, 0],
  [-0.98, 0.58],
];
const hull: Point[] = [
  [0.98, 0],
  ...arc([0.28, 0], [0.66, 0.34], 0.05, 0.25, 10),
  [-0.5, 0.28],
  [-0.5, -0.28],
  ...arc([0.28, 0], [0.66, 0.34], 0.75, 0.95, 10),
];
const fin = (side: number): Point[] => [
  [0.02, 0.3 * side],
  [-0.5, 0.74 * side],
  [-0.74, 0.72 * side],
  [-0.5, 0.26 * side],
];
const flame: Point[] = [
  [-0.5, -0.22],
  [-0.76, -0.2],
  [-0.98, 0],
  [-0.76, 0.2],
  [-0.5, 0.22],
];
const handle: Point[] = [
  ...arc([0.38, 0.02], [0.56, 0.46], -0.22, 0.22, 16),
  ...arc([0.38, 0.02], [0.32, 0.24], 0.22, -0.22, 16),
];

/** Everything that can be drawn. The order is part of the format: seeds choose by position. */
export const SHAPES: readonly Shape[] = [
  shape('circle', [body(circle([0, 0], 0.9))]),
  shape('square', [body(box(-0.8, -0.8, 0.8, 0.8))]),
  shape('triangle', [body(triangle)]),
  shape('star', [body(starPoints(5, 1, 0.42, [0, 0.06]))]),
  shape('heart', [body(heart())]),
  shape('moon', [body(crescent())]),
  shape('arrow', [body(arrow)], { pointing: true }),
  shape('fish', [shade(tail), body(ellipse([0.16, 0], [0.78, 0.54])), ink(circle([0.58, -0.14], 0.11))], {
    plural: 'fish',
    pointing: true,
  }),
  shape('rocket', [shade(fin(1)), shade(fin(-1)), light(flame), body(hull), light(circle([0.3, 0], 0.18))], {
    pointing: true,
  }),
  shape('house', [body(box(-0.68, 0, 0.68, 0.88)), shade(roof), light(box(-0.2, 0.34, 0.2, 0.88))]),
  shape('tree', [
    shade(box(-0.17, 0.2, 0.17, 0.98)),
    body(polar([0, -0.28], (turn) => 0.62 + 0.07 * Math.cos(TURN * 7 * turn))),
  ]),
  shape('cup', [shade(handle), body(mug), light(ellipse([-0.18, -0.62], [0.6, 0.14]))]),
  shape('flower', [
    body(polar([0, 0], (turn) => 0.64 + 0.3 * Math.cos(TURN * 5 * (turn + 0.25)), 80)),
    light(circle([0, 0], 0.27)),
  ]),
];
