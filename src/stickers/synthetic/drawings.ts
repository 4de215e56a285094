/**
 * A few animated stickers drawn by code, with captions: for the quickstart and for tests.
 *
 * A drawing is a function from the phase of the loop, 0..1, to the inside of an SVG of 100 x 100 units. At phase 1 it is
 * back where it began.
 */

/**
 * An animated sticker drawn by code: a function from the phase of the loop to the inside of an SVG of 100 x 100
 * units. At phase 1 it is back where it began.
 */
export interface Drawing {
  /** Of its file. */
  name: string;
  /** What it shows. */
  caption: string;
  /** SVG elements of the picture at a phase of the loop, 0 <= phase < 1. */
  draw: (phase: number) => string;
}

const TURN = 2 * Math.PI;
const INK = '#3b2f4a';
/** -1..1 and back, beginning at 0. */
const swing = (phase: number, times = 1) => Math.sin(TURN * phase * times);
const n = (value: number) => value.toFixed(2);

const line = (width = 3) =>
  `stroke="${INK}" stroke-width="${width}" stroke-linecap="round" stroke-linejoin="round"`;
const circle = (x: number, y: number, r: number, fill: string, outline = '') =>
  `<circle cx="${n(x)}" cy="${n(y)}" r="${n(r)}" fill="${fill}" ${outline}/>`;
const ellipse = (x: number, y: number, rx: number, ry: number, fill: string, outline = '') =>
  `<ellipse cx="${n(x)}" cy="${n(y)}" rx="${n(rx)}" ry="${n(ry)}" fill="${fill}" ${outline}/>`;
const path = (d: string, fill: string, outline = line()) => `<path d="${d}" fill="${fill}" ${outline}/>`;
const moved = (x: number, y: number, inside: string) =>
  `<g transform="translate(${n(x)} ${n(y)})">${inside}</g>`;
const turned = (degrees: number, x: number, y: number, inside: string) =>
  `<g transform="rotate(${n(degrees)} ${x} ${y})">${inside}</g>`;
const scaled = (sx: number, sy: number, x: number, y: number, inside: string) =>
  `<g transform="translate(${x} ${y}) scale(${n(sx)} ${n(sy)}) translate(${-x} ${-y})">${inside}</g>`;

/** Two eyes with a light, and a smile. `open` is 1 for open eyes, 0 for closed ones. */
function face(x: number, y: number, size: number, open = 1): string {
  const eye = (at: number) =>
    open > 0.25
      ? ellipse(at, y, size * 0.13, size * 0.18 * open, INK) +
        circle(at + size * 0.04, y - size * 0.06, size * 0.05, '#fff')
      : path(
          `M${n(at - size * 0.13)} ${n(y)} q${n(size * 0.13)} ${n(size * 0.12)} ${n(size * 0.26)} 0`,
          'none',
          line(2.5),
        );
  const smile = `M${n(x - size * 0.2)} ${n(y + size * 0.32)} q${n(size * 0.2)} ${n(size * 0.22)} ${n(size * 0.4)} 0`;
  const cheek = (at: number) => ellipse(at, y + size * 0.28, size * 0.11, size * 0.07, '#ff8fa3');
  return (
    eye(x - size * 0.35) +
    eye(x + size * 0.35) +
    path(smile, 'none', line(2.5)) +
    cheek(x - size * 0.52) +
    cheek(x + size * 0.52)
  );
}

const starPoints = (x: number, y: number, outer: number, inner: number) =>
  Array.from({ length: 10 }, (_, i) => {
    const angle = (TURN * i) / 10 - TURN / 4;
    const r = i % 2 === 0 ? outer : inner;
    return `${n(x + r * Math.cos(angle))} ${n(y + r * Math.sin(angle))}`;
  }).join(' L');

const HEART = 'M50 82 C18 60 14 38 26 27 C36 18 47 24 50 34 C53 24 64 18 74 27 C86 38 82 60 50 82 Z';

/** All drawings. */
export const DRAWINGS: readonly Drawing[] = [
  {
    name: 'ball',
    caption: 'a red ball bounces up and down',
    draw: (phase) => {
      const height = Math.abs(Math.sin(TURN * phase));
      const flat = Math.max(0, 1 - 5 * height) * 0.25;
      const y = 72 - 42 * height;
      const ball =
        circle(50, y, 18, '#ef4056', line()) +
        path(`M38 ${n(y - 5)} q5 -9 13 -9`, 'none', 'stroke="#fff" stroke-width="4" stroke-linecap="round"');
      const shadow = ellipse(50, 92, 20 - 9 * height, 4 - 2 * height, 'rgba(60,50,70,0.35)');
      return shadow + scaled(1 + flat, 1 - flat, 50, 90, ball);
    },
  },
  {
    name: 'star',
    caption: 'a yellow star spins around',
    draw: (phase) =>
      turned(2 * 72 * phase, 50, 50, path(`M${starPoints(50, 50, 42, 20)} Z`, '#ffd23f')) + face(50, 47, 26),
  },
  {
    name: 'hand',
    caption: 'a hand waves hello',
    draw: (phase) => {
      const finger = (x: number, top: number, tilt: number) =>
        turned(
          tilt,
          50,
          66,
          `<rect x="${x}" y="${top}" width="11" height="40" rx="5.5" fill="#ffcf9f" ${line()}/>`,
        );
      const thumb = turned(
        -58,
        40,
        66,
        `<rect x="33" y="34" width="11" height="32" rx="5.5" fill="#ffcf9f" ${line()}/>`,
      );
      const fingers = finger(31, 20, -8) + finger(41, 13, -2) + finger(51, 14, 4) + finger(60, 22, 12);
      const palm =
        path('M33 52 Q32 84 50 85 Q70 84 70 52 Z', '#ffcf9f') +
        '<rect x="36" y="46" width="31" height="16" fill="#ffcf9f"/>';
      const cuff = `<rect x="36" y="80" width="29" height="13" rx="4" fill="#4d96ff" ${line()}/>`;
      return turned(17 * swing(phase, 2), 54, 92, moved(3, 0, thumb + fingers + palm + cuff));
    },
  },
  {
    name: 'eye',
    caption: 'a blue eye blinks',
    draw: (phase) => {
      const open = Math.min(1, Math.max(0.04, Math.abs(phase - 0.5) * 5 - 0.1));
      const look = 6 * swing(phase);
      const half = 26 * open;
      const lids = `M10 52 Q50 ${n(52 - 2 * half)} 90 52 Q50 ${n(52 + 2 * half)} 10 52 Z`;
      const iris =
        circle(50 + look, 52, 16, '#3fa7d6') +
        circle(50 + look, 52, 8, INK) +
        circle(54 + look, 46, 3.5, '#fff');
      const lash = (x: number, tilt: number) =>
        path(`M${x} ${n(50 - half * 0.85)} l${tilt} -10`, 'none', line(3));
      return `<clipPath id="lid"><path d="${lids}"/></clipPath>${path(lids, '#fff')}<g clip-path="url(#lid)">${iris}</g>${path(lids, 'none')}${lash(30, -5)}${lash(50, 0)}${lash(70, 5)}`;
    },
  },
  {
    name: 'heart',
    caption: 'a pink heart beats',
    draw: (phase) => {
      const beat = 0.82 + 0.18 * Math.max(0, swing(phase, 2)) ** 2 * (phase < 0.5 ? 1 : 0.6);
      return scaled(
        beat,
        beat,
        50,
        54,
        path(HEART, '#ff5d8f') +
          path('M30 38 q2 -8 9 -9', 'none', 'stroke="#fff" stroke-width="5" stroke-linecap="round"'),
      );
    },
  },
  {
    name: 'ghost',
    caption: 'a white ghost floats and waves its sleeves',
    draw: (phase) => {
      const wave = 4 * swing(phase, 2);
      const hem = `M24 86 V46 Q24 14 50 14 Q76 14 76 46 V86 q-6.5 ${n(-10 + wave)} -13 0 q-6.5 ${n(-10 - wave)} -13 0 q-6.5 ${n(-10 + wave)} -13 0 q-6.5 ${n(-10 - wave)} -13 0 Z`;
      const arm = (x: number, way: number) =>
        turned(way * 18 * swing(phase, 2), x, 56, ellipse(x + way * 7, 56, 9, 6, '#f4f1ff', line()));
      return moved(0, 5 * swing(phase), arm(24, -1) + arm(76, 1) + path(hem, '#f4f1ff') + face(50, 40, 26));
    },
  },
  {
    name: 'sun',
    caption: 'a smiling sun turns its rays',
    draw: (phase) => {
      const ray = (i: number) =>
        turned(
          30 * i + 60 * phase,
          50,
          50,
          path(`M44 22 L50 ${i % 2 === 0 ? 4 : 9} L56 22 Z`, '#ff9f1c', line(2.5)),
        );
      return (
        Array.from({ length: 12 }, (_, i) => ray(i)).join('') +
        circle(50, 50, 27, '#ffd23f', line()) +
        face(50, 46, 28)
      );
    },
  },
  {
    name: 'cat',
    caption: 'an orange cat tilts its head and blinks',
    draw: (phase) => {
      const ears =
        path('M22 44 L24 14 L46 28 Z', '#f79d5c') +
        path('M78 44 L76 14 L54 28 Z', '#f79d5c') +
        path('M27 34 L28 22 L37 28 Z', '#ffc6d0', '') +
        path('M73 34 L72 22 L63 28 Z', '#ffc6d0', '');
      const whisker = (x: number, y: number, dx: number, dy: number) =>
        path(`M${x} ${y} l${dx} ${dy}`, 'none', line(2));
      const whiskers =
        whisker(30, 62, -18, -4) + whisker(30, 67, -18, 3) + whisker(70, 62, 18, -4) + whisker(70, 67, 18, 3);
      const stripes = path(
        'M50 25 v10 M41 27 l2 8 M59 27 l-2 8',
        'none',
        'stroke="#d9722e" stroke-width="4" stroke-linecap="round"',
      );
      const nose =
        path('M46 59 h8 l-4 5 Z', '#ff7b93', line(2)) +
        path('M50 64 q-4 7 -9 3 M50 64 q4 7 9 3', 'none', line(2.5));
      const open = Math.abs(phase - 0.5) < 0.1 ? 0.1 : 1;
      const eye = (x: number) =>
        open < 0.25
          ? path(`M${x - 6} 50 q6 5 12 0`, 'none', line(2.5))
          : ellipse(x, 49, 5, 7, INK) + circle(x + 2, 46, 2, '#fff');
      return turned(
        12 * swing(phase),
        50,
        80,
        ears + ellipse(50, 54, 32, 29, '#f79d5c', line()) + stripes + eye(36) + eye(64) + nose + whiskers,
      );
    },
  },
  {
    name: 'rocket',
    caption: 'a rocket flies with a flickering flame',
    draw: (phase) => {
      const flame = 16 + 7 * swing(phase, 3);
      const fire =
        path(`M41 70 Q50 ${n(74 + 1.6 * flame)} 59 70 Z`, '#ff9f1c', line(2)) +
        path(`M45 70 Q50 ${n(72 + flame * 0.8)} 55 70 Z`, '#ffe66d', '');
      const body =
        path('M50 8 Q68 26 64 66 H36 Q32 26 50 8 Z', '#e8ecf5') +
        path('M50 8 Q59 17 62.5 30 H37.5 Q41 17 50 8 Z', '#ef4056');
      const fins =
        path('M37 48 L24 70 L37 66 Z', '#ef4056') +
        path('M63 48 L76 70 L63 66 Z', '#ef4056') +
        `<rect x="40" y="64" width="20" height="7" rx="2" fill="#8d99ae" ${line(2.5)}/>`;
      const trail = [0, 1, 2]
        .map((i) => circle(20 + 30 * i, (20 + 37 * i + 100 * phase) % 100, 2.2, '#b8c0d6'))
        .join('');
      return (
        trail +
        moved(
          1.5 * swing(phase, 3),
          2 * swing(phase),
          fire + fins + body + circle(50, 42, 8, '#9bd8ff', line()),
        )
      );
    },
  },
  {
    name: 'flower',
    caption: 'a flower sways in the wind',
    draw: (phase) => {
      const lean = 9 * swing(phase);
      const top = 40 - Math.abs(lean) * 0.1;
      const stem = path(
        `M50 94 Q50 70 ${n(50 + lean)} ${n(top)}`,
        'none',
        'stroke="#3f9b57" stroke-width="5" stroke-linecap="round"',
      );
      const leaf = (way: number) =>
        path(
          `M50 84 q${way * 10} -16 ${way * 22} -12 q${-way * 4} 13 ${-way * 22} 12 Z`,
          '#6fcf7f',
          line(2.5),
        );
      const petals = Array.from({ length: 7 }, (_, i) =>
        turned((360 * i) / 7 + lean, 50, 40, ellipse(50, 22, 9, 13, '#ff8fc7', line(2.5))),
      ).join('');
      return (
        stem +
        leaf(-1) +
        leaf(1) +
        moved(lean, top - 40, petals + circle(50, 40, 13, '#ffd23f', line(2.5)) + face(50, 38, 14))
      );
    },
  },
  {
    name: 'fish',
    caption: 'a blue fish swims and blows bubbles',
    draw: (phase) => {
      const tail = 14 * swing(phase, 2);
      const fin = path(`M28 52 L8 ${n(36 + tail * 0.5)} Q14 52 8 ${n(68 + tail * 0.5)} Z`, '#2f86c9');
      const body =
        ellipse(52, 52, 28, 20, '#4db6f2', line()) +
        path(`M46 33 Q56 18 66 36 Z`, '#2f86c9') +
        path('M44 52 q8 9 0 14', 'none', line(2.5));
      const eye =
        circle(68, 47, 5, '#fff', line(2)) +
        circle(69, 47, 2.4, INK) +
        path('M72 58 q5 0 6 -3', 'none', line(2.5));
      const bubble = (i: number) => {
        const t = (phase + i / 3) % 1;
        return `<circle cx="${n(86 + 3 * swing(t, 2))}" cy="${n(44 - 38 * t)}" r="${n(2 + 3 * t)}" fill="none" stroke="#7cc9f5" stroke-width="2" opacity="${n(1 - 0.6 * t)}"/>`;
      };
      return (
        moved(
          2 * swing(phase),
          4 * swing(phase + 0.25),
          turned(3 * swing(phase, 2), 50, 50, fin + body + eye),
        ) +
        bubble(0) +
        bubble(1) +
        bubble(2)
      );
    },
  },
  {
    name: 'bell',
    caption: 'a golden bell rings',
    draw: (phase) => {
      const angle = 18 * swing(phase, 2);
      const clapper = turned(-1.3 * angle, 50, 30, circle(50, 80, 7, '#b9770e', line()));
      const bell =
        path('M50 16 Q72 18 73 50 Q74 64 83 72 H17 Q26 64 27 50 Q28 18 50 16 Z', '#f7c331') +
        path('M36 34 Q34 44 34 54', 'none', 'stroke="#fff3c4" stroke-width="5" stroke-linecap="round"');
      const sound =
        Math.abs(angle) > 10
          ? path(
              angle > 0 ? 'M8 30 q-5 9 -1 18 M91 30 q6 9 1 18' : 'M12 26 q-5 10 -1 20 M88 26 q6 10 1 20',
              'none',
              line(2.5),
            )
          : '';
      return sound + turned(angle, 50, 14, clapper + bell + circle(50, 13, 5, '#b9770e', line()));
    },
  },
  {
    name: 'cloud',
    caption: 'a grey cloud rains',
    draw: (phase) => {
      const drop = (x: number, offset: number) => {
        const t = (phase * 2 + offset) % 1;
        return path(
          `M${x} ${n(60 + 32 * t)} q-4.5 7 0 9.5 q4.5 -2.5 0 -9.5 Z`,
          '#4db6f2',
          `stroke="#2f86c9" stroke-width="1.5" opacity="${n(t > 0.85 ? 0.4 : 1)}"`,
        );
      };
      const drops = drop(28, 0) + drop(40, 0.55) + drop(52, 0.2) + drop(64, 0.75) + drop(74, 0.4);
      const cloud = path(
        'M26 64 Q10 64 12 49 Q13 38 26 38 Q30 18 50 20 Q66 20 71 36 Q88 36 88 50 Q88 64 74 64 Z',
        '#c9d2e3',
      );
      return drops + moved(1.5 * swing(phase), 0, cloud + face(50, 44, 22, 1));
    },
  },
  {
    name: 'clock',
    caption: 'the hands of a clock go round',
    draw: (phase) => {
      const mark = (i: number) =>
        turned(30 * i, 50, 50, path('M50 17 v5', 'none', line(i % 3 === 0 ? 4 : 2)));
      const marks = Array.from({ length: 12 }, (_, i) => mark(i)).join('');
      const hour = turned(30 + 360 * phase, 50, 50, path('M50 50 V32', 'none', line(5)));
      const minute = turned(
        720 * phase,
        50,
        50,
        path('M50 50 V23', 'none', 'stroke="#ef4056" stroke-width="4" stroke-linecap="round"'),
      );
      return (
        circle(50, 50, 41, '#6c63c7', line()) +
        circle(50, 50, 35, '#fffdf5', line(2)) +
        marks +
        hour +
        minute +
        circle(50, 50, 4, INK)
      );
    },
  },
  {
    name: 'butterfly',
    caption: 'a purple butterfly flaps its wings',
    draw: (phase) => {
      const spread = 0.3 + 0.7 * Math.abs(Math.cos(TURN * phase));
      const wing =
        path('M50 48 Q70 8 88 24 Q94 46 52 54 Z', '#a26bf2') +
        path('M50 52 Q84 52 80 74 Q68 88 50 60 Z', '#c99bff') +
        circle(74, 33, 5, '#ffe66d') +
        circle(67, 67, 4, '#ffe66d');
      const body =
        ellipse(50, 54, 4.5, 20, INK) +
        path('M49 36 q-4 -12 -11 -14 M51 36 q4 -12 11 -14', 'none', line(2.5));
      return moved(
        0,
        5 * swing(phase),
        scaled(spread, 1, 50, 50, wing) + scaled(-spread, 1, 50, 50, wing) + body,
      );
    },
  },
  {
    name: 'candle',
    caption: 'a candle flickers',
    draw: (phase) => {
      const lean = 5 * swing(phase, 2) + 2 * swing(phase, 3);
      const tall = 26 + 4 * swing(phase, 3);
      const flame = (width: number, height: number, fill: string, outline: string) =>
        path(
          `M50 42 C${n(50 - width)} 42 ${n(50 - width)} ${n(42 - height * 0.5)} ${n(50 + lean)} ${n(42 - height)} C${n(50 + width)} ${n(42 - height * 0.5)} ${n(50 + width)} 42 50 42 Z`,
          fill,
          outline,
        );
      const glow = circle(50, 32, 25 + 3 * swing(phase, 2), 'rgba(255,214,102,0.35)');
      const wax =
        `<rect x="37" y="46" width="26" height="44" rx="4" fill="#fff1dc" ${line()}/>` +
        path('M37 52 q4 12 8 0 q5 16 9 1 q5 8 9 -1 v-3 q0 -3 -4 -3 h-18 q-4 0 -4 3 Z', '#ffd9a8', line(2));
      return (
        glow +
        wax +
        path('M50 47 V41', 'none', line(3)) +
        flame(13, tall, '#ff9f1c', line(2.5)) +
        flame(6.5, tall * 0.55, '#ffe66d', '')
      );
    },
  },
];
