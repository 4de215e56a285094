/** The colors that are asked for, and how styles shift them without changing their name. */

export const COLOR_NAMES = ['red', 'orange', 'yellow', 'green', 'blue', 'purple', 'pink'] as const;
export type ColorName = (typeof COLOR_NAMES)[number];

/** Hue in degrees, saturation and lightness in percent. */
export interface Hsl {
  h: number;
  s: number;
  l: number;
}

const BASE: Record<ColorName, Hsl> = {
  red: { h: 358, s: 78, l: 48 },
  orange: { h: 27, s: 92, l: 53 },
  yellow: { h: 50, s: 95, l: 53 },
  green: { h: 132, s: 52, l: 40 },
  blue: { h: 214, s: 78, l: 50 },
  purple: { h: 274, s: 52, l: 48 },
  pink: { h: 334, s: 82, l: 73 },
};

/** A color of the given name, moved a little: by degrees, percent points, percent points. */
export function color(name: ColorName, shift: Partial<Hsl> = {}): Hsl {
  const base = BASE[name];
  return {
    h: base.h + (shift.h ?? 0),
    s: clamp(base.s + (shift.s ?? 0)),
    l: clamp(base.l + (shift.l ?? 0)),
  };
}

/** As SVG writes it. */
export function css({ h, s, l }: Hsl): string {
  return `hsl(${round((h + 360) % 360)},${round(s)}%,${round(l)}%)`;
}

export function lighter(from: Hsl, by: number): Hsl {
  return { ...from, l: clamp(from.l + by) };
}

function clamp(percent: number): number {
  return Math.min(100, Math.max(0, percent));
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
