// Plain double-precision layers on feature maps, written from their formulas: rows of pixels in the order clip, frame, y,
// x, with the channels last. A 3x3 kernel lies as [out, ky, kx, in].

import type { Numbers } from './numbers.js';

export interface Grid {
  clips: number;
  frames: number;
  height: number;
  width: number;
}

export const rowsOf = ({ clips, frames, height, width }: Grid) => clips * frames * height * width;

export const silu = (x: number) => x / (1 + Math.exp(-x));

export interface Convolution {
  channels: number;
  size?: number;
  stride?: number;
  padding?: 'same' | 'rightBottom';
}

export function convolvedGrid(grid: Grid, { stride = 1, padding = 'same' }: Partial<Convolution>): Grid {
  const length = (n: number) => (padding === 'same' ? Math.ceil(n / stride) : Math.floor(n / 2));
  return { ...grid, height: length(grid.height), width: length(grid.width) };
}

/** Cross-correlation with zeros around the picture. */
export function convolution(
  x: Numbers,
  weight: Numbers,
  bias: Numbers | undefined,
  grid: Grid,
  options: Convolution,
): Float64Array {
  const { channels, size = 3, stride = 1, padding = 'same' } = options;
  const to = convolvedGrid(grid, options);
  const outputs = weight.length / (size * size * channels);
  const before = padding === 'same' ? (size - 1) / 2 : 0;
  const y = new Float64Array(rowsOf(to) * outputs);
  for (let row = 0; row < rowsOf(to); row++) {
    const picture = Math.floor(row / (to.height * to.width));
    const i = Math.floor(row / to.width) % to.height;
    const j = row % to.width;
    for (let o = 0; o < outputs; o++) {
      let sum = bias ? bias[o]! : 0;
      for (let ky = 0; ky < size; ky++) {
        for (let kx = 0; kx < size; kx++) {
          const py = i * stride + ky - before;
          const px = j * stride + kx - before;
          if (py < 0 || px < 0 || py >= grid.height || px >= grid.width) continue;
          const from = ((picture * grid.height + py) * grid.width + px) * channels;
          const tap = ((o * size + ky) * size + kx) * channels;
          for (let c = 0; c < channels; c++) sum += x[from + c]! * weight[tap + c]!;
        }
      }
      y[row * outputs + o] = sum;
    }
  }
  return y;
}

export interface GroupNorm {
  groups: number;
  epsilon: number;
  silu?: boolean;
  acrossFrames?: boolean;
  /** One vector a clip, added to x first. */
  shift?: Numbers | undefined;
}

export function groupNorm(
  x: Numbers,
  gamma: Numbers,
  beta: Numbers,
  grid: Grid,
  options: GroupNorm,
): Float64Array {
  const channels = gamma.length;
  const width = channels / options.groups;
  const clipRows = grid.frames * grid.height * grid.width;
  const unitRows = options.acrossFrames ? clipRows : grid.height * grid.width;
  const shifted = (row: number, c: number) =>
    x[row * channels + c]! + (options.shift ? options.shift[Math.floor(row / clipRows) * channels + c]! : 0);
  const y = new Float64Array(x.length);
  for (let first = 0; first < rowsOf(grid); first += unitRows) {
    for (let group = 0; group < options.groups; group++) {
      let mean = 0;
      let variance = 0;
      const each = (visit: (row: number, c: number) => void) => {
        for (let row = first; row < first + unitRows; row++)
          for (let c = group * width; c < (group + 1) * width; c++) visit(row, c);
      };
      each((row, c) => {
        mean += shifted(row, c) / (unitRows * width);
      });
      each((row, c) => {
        variance += (shifted(row, c) - mean) ** 2 / (unitRows * width);
      });
      each((row, c) => {
        const z = ((shifted(row, c) - mean) / Math.sqrt(variance + options.epsilon)) * gamma[c]! + beta[c]!;
        y[row * channels + c] = options.silu ? silu(z) : z;
      });
    }
  }
  return y;
}

/** Nearest neighbour: source index floor(i * in / out). */
export function upsampleNearest(x: Numbers, grid: Grid, height: number, width: number): Float64Array {
  const channels = x.length / rowsOf(grid);
  const to = { ...grid, height, width };
  return Float64Array.from({ length: rowsOf(to) * channels }, (_, at) => {
    const row = Math.floor(at / channels);
    const picture = Math.floor(row / (height * width));
    const i = Math.floor(((Math.floor(row / width) % height) * grid.height) / height);
    const j = Math.floor(((row % width) * grid.width) / width);
    return x[((picture * grid.height + i) * grid.width + j) * channels + (at % channels)]!;
  });
}

/** The mean of 2x2 pixels; an odd last row or column is dropped. */
export function averagePool(x: Numbers, grid: Grid): Float64Array {
  const channels = x.length / rowsOf(grid);
  const height = Math.floor(grid.height / 2);
  const width = Math.floor(grid.width / 2);
  return Float64Array.from({ length: grid.clips * grid.frames * height * width * channels }, (_, at) => {
    const row = Math.floor(at / channels);
    const picture = Math.floor(row / (height * width));
    const i = 2 * (Math.floor(row / width) % height);
    const j = 2 * (row % width);
    const value = (a: number, b: number) =>
      x[((picture * grid.height + i + a) * grid.width + j + b) * channels + (at % channels)]!;
    return (value(0, 0) + value(0, 1) + value(1, 0) + value(1, 1)) / 4;
  });
}

/** softmax(q k^T / sqrt(size)) v over the frames, for every clip, pixel and head. */
export function temporalAttention(
  qkv: Numbers,
  grid: Grid,
  heads: number,
  keep?: ArrayLike<number>,
): Float64Array {
  const columns = qkv.length / rowsOf(grid);
  const width = columns / 3;
  const size = width / heads;
  const pixels = grid.height * grid.width;
  const out = new Float64Array(rowsOf(grid) * width);
  const frames = Array.from({ length: grid.frames }, (_, f) => f);
  for (let clip = 0; clip < grid.clips; clip++) {
    for (let pixel = 0; pixel < pixels; pixel++) {
      const row = (f: number) => (clip * grid.frames + f) * pixels + pixel;
      for (let at = 0; at < width; at += size) {
        for (const i of frames) {
          const scores = frames.map((j) => {
            if (keep && !keep[clip * grid.frames + j]) return Number.NEGATIVE_INFINITY;
            let dot = 0;
            for (let d = at; d < at + size; d++)
              dot += qkv[row(i) * columns + d]! * qkv[row(j) * columns + width + d]!;
            return dot / Math.sqrt(size);
          });
          const top = Math.max(...scores);
          const exps = scores.map((s) => Math.exp(s - top));
          const total = exps.reduce((a, b) => a + b);
          for (let d = at; d < at + size; d++) {
            out[row(i) * width + d] = frames.reduce(
              (sum, j) => sum + (exps[j]! / total) * qkv[row(j) * columns + 2 * width + d]!,
              0,
            );
          }
        }
      }
    }
  }
  return out;
}

/** Where channel c of a feature map lies in the view of the detail branch, whose channels are the frames. */
function exchange(x: Numbers, grid: Grid, channels: number, back: boolean): Float64Array {
  const pixels = grid.height * grid.width;
  const y = new Float64Array(x.length);
  for (let clip = 0; clip < grid.clips; clip++)
    for (let f = 0; f < grid.frames; f++)
      for (let pixel = 0; pixel < pixels; pixel++)
        for (let c = 0; c < channels; c++) {
          const plain = ((clip * grid.frames + f) * pixels + pixel) * channels + c;
          const exchanged = ((clip * channels + c) * pixels + pixel) * grid.frames + f;
          if (back) y[plain] = x[exchanged]!;
          else y[exchanged] = x[plain]!;
        }
  return y;
}

/** Two residual blocks over clips * channels pictures of `frames` channels, as a chain of plain layers. */
export function detailBranch(
  x: Numbers,
  parameters: Record<string, Numbers>,
  grid: Grid,
  epsilon: number,
): Float64Array {
  const { frames } = grid;
  const channels = x.length / rowsOf(grid);
  const view: Grid = { ...grid, clips: grid.clips * channels, frames: 1 };
  let d = exchange(x, grid, channels, false);
  for (const block of ['conv_layers.0', 'conv_layers.1']) {
    const at = (name: string) => parameters[`${block}.${name}`]!;
    /** Published kernels are [out, in, ky, kx]. */
    const kernel = (name: string) =>
      Float64Array.from({ length: frames * frames * 9 }, (_, i) => {
        const out = Math.floor(i / (9 * frames));
        const tap = Math.floor(i / frames) % 9;
        return at(name)[(out * frames + (i % frames)) * 9 + tap]!;
      });
    const norm = { groups: 1, epsilon, silu: true };
    const first = groupNorm(d, at('norm1.weight'), at('norm1.bias'), view, norm);
    const inner = convolution(first, kernel('conv1.weight'), at('conv1.bias'), view, { channels: frames });
    const second = groupNorm(inner, at('norm2.weight'), at('norm2.bias'), view, norm);
    const last = convolution(second, kernel('conv2.weight'), at('conv2.bias'), view, { channels: frames });
    d = d.map((value, i) => value + last[i]!);
  }
  return exchange(d, grid, channels, true);
}
