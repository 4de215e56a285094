/**
 * The drawing styles: the same scene as a plain, printed, outlined, modelled, sketched, pixelled or glowing
 * picture.
 *
 * A style is one function from a scene to SVG of 100 x 100 units. `plain` is the neutral style that a
 * backbone is trained on; the others are the clients. Styles differ in background, fill, line, light and
 * texture, never in what is shown.
 */

import type { Random } from '../random.js';
import { type ColorName, color, css, type Hsl, lighter } from './colors.js';
import { handDrawn, number, type PlacedPart, placeParts } from './outline.js';
import type { Scene } from './scene.js';
import type { Tone } from './shapes.js';

export interface Style {
  /** The SVG elements inside a 100 x 100 viewBox. */
  paint(scene: Scene, random: Random): string;
  /** Painted at this many pixels a side without smoothing, then enlarged in blocks. */
  blocks?: number;
}

/** The colors of the four tones. */
function tones(name: ColorName, shift: Partial<Hsl>, ink = 'hsl(230,25%,15%)'): Record<Tone, string> {
  const main = color(name, shift);
  return {
    body: css(main),
    shade: css(lighter(main, -16)),
    light: css(lighter({ ...main, s: main.s * 0.9 }, 34)),
    ink,
  };
}

const background = (fill: string) => `<rect width="100" height="100" fill="${fill}"/>`;
const things = (scene: Scene): PlacedPart[][] =>
  scene.placements.map((at) => placeParts(scene.shape.parts, at));
const jitter = (random: Random): Partial<Hsl> => ({ h: random.between(-5, 5), l: random.between(-3, 3) });

/** Even fill with a thin darker line, on nearly white. */
const plain: Style = {
  paint(scene, random) {
    const paper = css({ h: random.between(0, 360), s: 20, l: random.between(94, 98) });
    const fill = tones(scene.color, jitter(random));
    const line = css(lighter(color(scene.color), -24));
    const parts = things(scene).flat();
    const paths = parts.map(({ tone, path }) => `<path d="${path}" fill="${fill[tone]}"/>`).join('');
    return `${background(paper)}<g stroke="${line}" stroke-width="1.6" stroke-linejoin="round">${paths}</g>`;
  },
};

/** Flat shapes on a colored ground with a hard shadow, like a printed poster. */
const poster: Style = {
  paint(scene, random) {
    const ground: Hsl = { h: random.pick([38, 165, 195, 225, 300]), s: 28, l: random.between(78, 85) };
    const fill = tones(scene.color, { ...jitter(random), s: -4 }, css(lighter(ground, -62)));
    const shadow = css(lighter(ground, -22));
    return (
      background(css(ground)) +
      things(scene)
        .map((parts) => {
          const solid = parts.map(({ path }) => path).join('');
          const cast = [2, 4].map(
            (by) => `<path d="${solid}" transform="translate(${by} ${by})" fill="${shadow}"/>`,
          );
          return (
            cast.join('') + parts.map(({ tone, path }) => `<path d="${path}" fill="${fill[tone]}"/>`).join('')
          );
        })
        .join('')
    );
  },
};

/** Thick colored contours, nothing filled. */
const outline: Style = {
  paint(scene, random) {
    const dark = scene.color === 'yellow' || scene.color === 'pink' ? -8 : 0;
    const line = css(color(scene.color, { ...jitter(random), l: dark }));
    const single = scene.placements.length === 1;
    const [thick, thin] = single ? [6.5, 4.5] : [4.6, 3.4];
    const paths = things(scene)
      .flat()
      .map(({ tone, path }) => {
        const fill = tone === 'ink' ? line : 'white';
        return `<path d="${path}" fill="${fill}" stroke-width="${tone === 'body' ? thick : thin}"/>`;
      });
    return `${background('white')}<g stroke="${line}" stroke-linejoin="round">${paths.join('')}</g>`;
  },
};

/** Rounded solids with light from the upper left and soft shadows, like modelling clay. */
const clay: Style = {
  paint(scene, random) {
    const main = color(scene.color, { ...jitter(random), s: -8, l: 3 });
    const gradient = (id: string, from: Hsl) =>
      `<radialGradient id="${id}" cx="0.35" cy="0.28" r="0.85"><stop offset="0" stop-color="${css(lighter(from, 20))}"/>` +
      `<stop offset="0.55" stop-color="${css(from)}"/><stop offset="1" stop-color="${css(lighter(from, -20))}"/></radialGradient>`;
    const h = random.between(0, 360);
    const defs =
      `<linearGradient id="ground" x1="0" y1="0" x2="0.3" y2="1"><stop offset="0" stop-color="${css({ h, s: 22, l: 93 })}"/>` +
      `<stop offset="1" stop-color="${css({ h, s: 18, l: 74 })}"/></linearGradient>` +
      gradient('body', main) +
      gradient('shade', lighter(main, -13)) +
      gradient('light', lighter({ ...main, s: main.s * 0.7 }, 26)) +
      gradient('ink', { h: 230, s: 15, l: 22 }) +
      '<filter id="soft" x="-30%" y="-30%" width="160%" height="160%"><feGaussianBlur stdDeviation="2.4"/></filter>';
    const painted = things(scene).map((parts, index) => {
      const { x, y, radius } = scene.placements[index]!;
      const solid = parts.map(({ path }) => path).join('');
      const shadow = `<path d="${solid}" transform="translate(${number(radius * 0.1)} ${number(radius * 0.2)})" fill="black" opacity="0.36" filter="url(#soft)"/>`;
      const paths = parts.map(
        ({ tone, path }) =>
          `<path d="${path}" fill="url(#${tone})" stroke="url(#${tone})" stroke-width="${number(radius * 0.12)}"/>`,
      );
      const shine = `<ellipse cx="${number(x - radius * 0.26)}" cy="${number(y - radius * 0.36)}" rx="${number(radius * 0.2)}" ry="${number(radius * 0.11)}" transform="rotate(-32 ${number(x)} ${number(y)})" fill="white" opacity="0.55"/>`;
      return shadow + paths.join('') + shine;
    });
    return `<defs>${defs}</defs>${background('url(#ground)')}<g stroke-linejoin="round">${painted.join('')}</g>`;
  },
};

/** Pencil on paper: contours drawn twice, color as hatching. */
const sketch: Style = {
  paint(scene, random) {
    const pencil = css(
      color(scene.color, { ...jitter(random), s: -14, l: scene.color === 'pink' ? -6 : -2 }),
    );
    const contour = css(color(scene.color, { s: -30, l: -26 }));
    const paper = css({ h: 42, s: 34, l: random.between(90, 94) });
    const single = scene.placements.length === 1;
    const wobble = single ? 1.5 : 0.9;
    const spacing = single ? 3.4 : 2.7;
    const tilt = random.between(-65, -35);
    const painted = things(scene).map((parts, thing) => {
      const { x, y, radius } = scene.placements[thing]!;
      return parts
        .map(({ tone, points, path }, part) => {
          const lines = [0, 1].map(() => `<path d="${handDrawn(points, wobble, random)}"/>`).join('');
          if (tone === 'ink') return `<path d="${path}" fill="${contour}"/>`;
          const id = `c${thing}p${part}`;
          const step = tone === 'shade' ? spacing * 0.7 : spacing;
          const strokes: string[] = [];
          for (let at = -radius * 1.1; at < radius * 1.1; at += step * random.between(0.85, 1.15)) {
            const bend = random.between(-1, 1);
            strokes.push(
              `M${number(-radius * 1.2)} ${number(at + bend)}L${number(radius * 1.2)} ${number(at - bend)}`,
            );
          }
          const hatching =
            `<g clip-path="url(#${id})"><path d="${path}" fill="${paper}" stroke="none"/>` +
            (tone === 'light'
              ? ''
              : `<path d="${path}" fill="${pencil}" stroke="none" opacity="0.38"/>` +
                `<path d="${strokes.join('')}" transform="translate(${number(x)} ${number(y)}) rotate(${number(tilt)})" ` +
                `stroke="${pencil}" stroke-width="${single ? 2 : 1.5}"/>`) +
            '</g>';
          return `<clipPath id="${id}"><path d="${path}"/></clipPath>${hatching}<g stroke="${contour}" stroke-width="${single ? 1.3 : 1}" opacity="0.85">${lines}</g>`;
        })
        .join('');
    });
    return `${background(paper)}<g fill="none" stroke-linecap="round">${painted.join('')}</g>`;
  },
};

/** Few colors in large square pixels, like an old video game. */
const pixel: Style = {
  blocks: 32,
  paint(scene, random) {
    const ground = random.pick([
      'hsl(205,45%,82%)',
      'hsl(90,30%,80%)',
      'hsl(35,35%,84%)',
      'hsl(250,22%,84%)',
    ]);
    const fill = tones(scene.color, { s: 8 }, 'hsl(240,30%,12%)');
    const parts = things(scene).flat();
    const rim = parts.map(({ path }) => `<path d="${path}"/>`).join('');
    const paths = parts.map(({ tone, path }) => `<path d="${path}" fill="${fill[tone]}"/>`).join('');
    return (
      `${background(ground)}<g shape-rendering="crispEdges"><g fill="${fill.ink}" stroke="${fill.ink}" stroke-width="5" ` +
      `stroke-linejoin="miter">${rim}</g>${paths}</g>`
    );
  },
};

/** Percent points added to the lightness of a tube, where 10 would wash the color out. */
const NEON_LIGHTNESS: Partial<Record<ColorName, number>> = { orange: -2, yellow: 4, pink: -2, red: 6 };

/** Glowing tubes in the dark. */
const neon: Style = {
  paint(scene, random) {
    const tube = color(scene.color, { ...jitter(random), s: 30, l: NEON_LIGHTNESS[scene.color] ?? 10 });
    const single = scene.placements.length === 1;
    const width = single ? 3.6 : 2.7;
    const paths = things(scene)
      .flat()
      .map(({ tone, path }) => `<path d="${path}" ${tone === 'ink' ? `fill="${css(tube)}"` : ''}/>`)
      .join('');
    const layer = (scale: number, opacity: number, stroke: string) =>
      `<g stroke="${stroke}" stroke-width="${number(width * scale)}" opacity="${opacity}">${paths}</g>`;
    const wall = css({ h: random.between(220, 290), s: 40, l: random.between(6, 11) });
    const fill = `<g fill="${css(tube)}" opacity="0.16">${paths}</g>`;
    return (
      `${background(wall)}<g fill="none" stroke-linejoin="round">${fill}${layer(4.2, 0.13, css(tube))}` +
      `${layer(2.3, 0.26, css(tube))}${layer(1.15, 1, css(tube))}${layer(0.3, 0.6, css(lighter(tube, 22)))}</g>`
    );
  },
};

/** The styles by name. The order is part of the format: ids of pictures count from it. */
export const STYLES: Record<StyleName, Style> = { plain, poster, outline, clay, sketch, pixel, neon };
/** Name of a drawing style: the same scene plain, printed, outlined, modelled, sketched, pixelled or glowing. */
export type StyleName = 'plain' | 'poster' | 'outline' | 'clay' | 'sketch' | 'pixel' | 'neon';
/** All drawing styles. */
export const STYLE_NAMES = Object.keys(STYLES) as StyleName[];
/** What a backbone is trained on; the other styles are the clients. */
export const NEUTRAL_STYLE: StyleName = 'plain';
