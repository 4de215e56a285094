/**
 * From the outlines of a shape to SVG paths: turned, scaled, moved and, for hand-drawn styles, bent a little.
 */

import type { Random } from '../random.js';
import type { Placement } from './scene.js';
import type { Part, Point, Tone } from './shapes.js';

/** A part in picture units. */
export interface PlacedPart {
  tone: Tone;
  points: Point[];
  /** Value for the `d` of an SVG path. */
  path: string;
}

/** The parts of one thing at its place. */
export function placeParts(parts: readonly Part[], placement: Placement): PlacedPart[] {
  const angle = (placement.angle * Math.PI) / 180;
  const [cos, sin] = [Math.cos(angle) * placement.radius, Math.sin(angle) * placement.radius];
  return parts.map(({ tone, points }) => {
    const placed = points.map(
      ([x, y]): Point => [placement.x + cos * x - sin * y, placement.y + sin * x + cos * y],
    );
    return { tone, points: placed, path: closedPath(placed) };
  });
}

export function closedPath(points: readonly Point[]): string {
  return `M${points.map(([x, y]) => `${number(x)} ${number(y)}`).join('L')}Z`;
}

/**
 * A hand-drawn version of a closed outline: points every unit or two, pushed about by slow waves of the given
 * size, and overlapping a little where the pen comes back.
 */
export function handDrawn(points: readonly Point[], size: number, random: Random): string {
  const dense = subdivided(points, 3);
  const waves = [1, 2, 3].map((cycles) => ({
    cycles: cycles + random.uniform(),
    x: random.uniform(),
    y: random.uniform(),
    size: size / cycles,
  }));
  const start = random.below(dense.length);
  const drawn = Array.from({ length: dense.length + 2 }, (_, step): Point => {
    const [x, y] = dense[(start + step) % dense.length]!;
    let [dx, dy] = [0, 0];
    for (const wave of waves) {
      const turn = (wave.cycles * step) / dense.length;
      dx += wave.size * Math.sin(2 * Math.PI * (turn + wave.x));
      dy += wave.size * Math.sin(2 * Math.PI * (turn + wave.y));
    }
    return [x + dx, y + dy];
  });
  return `M${drawn.map(([x, y]) => `${number(x)} ${number(y)}`).join('L')}`;
}

/** Adds points so that no two neighbours are further apart than `step`. */
function subdivided(points: readonly Point[], step: number): Point[] {
  return points.flatMap((from, index) => {
    const to = points[(index + 1) % points.length]!;
    const pieces = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / step));
    return Array.from({ length: pieces }, (_, piece): Point => {
      const share = piece / pieces;
      return [from[0] + share * (to[0] - from[0]), from[1] + share * (to[1] - from[1])];
    });
  });
}

export function number(value: number): string {
  return String(Math.round(value * 100) / 100);
}
