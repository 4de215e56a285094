// diffusers' AutoencoderKL in double precision, one picture at a time, from its published structure; and random weights.

import type { AutoencoderShape } from '../../../src/native/stickers.js';
import { attention } from './attention.js';
import { linear, plus } from './layers.js';
import { type Numbers, sizeOf } from './numbers.js';
import {
  type Convolution,
  convolution,
  convolvedGrid,
  type Grid,
  groupNorm,
  upsampleNearest,
} from './pictures.js';
import type { Weights } from './text-encoders.js';

type Shapes = Record<string, number[]>;

export function autoencoderShapes(s: AutoencoderShape): Shapes {
  const shapes: Shapes = {};
  const norm = (name: string, width: number) => {
    shapes[`${name}.weight`] = [width];
    shapes[`${name}.bias`] = [width];
  };
  const layer = (name: string, shape: number[]) => {
    shapes[`${name}.weight`] = shape;
    shapes[`${name}.bias`] = [shape[0]!];
  };
  const residual = (name: string, inputs: number, out: number) => {
    norm(`${name}.norm1`, inputs);
    layer(`${name}.conv1`, [out, inputs, 3, 3]);
    norm(`${name}.norm2`, out);
    layer(`${name}.conv2`, [out, out, 3, 3]);
    if (inputs !== out) layer(`${name}.conv_shortcut`, [out, inputs, 1, 1]);
  };
  const half = (name: string, levels: number[], io: [number, number], blocks: number, resample: string) => {
    const [first, last] = [levels[0]!, levels.at(-1)!];
    layer(`${name}.conv_in`, [first, io[0], 3, 3]);
    for (const [i, out] of levels.entries()) {
      const level = `${name}.${resample === 'downsamplers' ? 'down' : 'up'}_blocks.${i}`;
      for (let j = 0; j < blocks; j++)
        residual(`${level}.resnets.${j}`, j === 0 ? (levels[i - 1] ?? first) : out, out);
      if (i + 1 < levels.length) layer(`${level}.${resample}.0.conv`, [out, out, 3, 3]);
    }
    const deepest = s.channels.at(-1)!;
    residual(`${name}.mid_block.resnets.0`, deepest, deepest);
    residual(`${name}.mid_block.resnets.1`, deepest, deepest);
    norm(`${name}.mid_block.attentions.0.group_norm`, deepest);
    for (const part of ['to_q', 'to_k', 'to_v', 'to_out.0'])
      layer(`${name}.mid_block.attentions.0.${part}`, [deepest, deepest]);
    norm(`${name}.conv_norm_out`, last);
    layer(`${name}.conv_out`, [io[1], last, 3, 3]);
  };
  const latent = s.latentChannels;
  half('encoder', s.channels, [s.inChannels, 2 * latent], s.layersPerBlock, 'downsamplers');
  half('decoder', s.channels.toReversed(), [latent, s.outChannels], s.layersPerBlock + 1, 'upsamplers');
  layer('quant_conv', [2 * latent, 2 * latent, 1, 1]);
  layer('post_quant_conv', [latent, latent, 1, 1]);
  return shapes;
}

/** [channels, pixels] to [pixels, channels] and, with the numbers exchanged, back. */
export function turned(x: Numbers, rows: number): Float64Array {
  const columns = x.length / rows;
  return Float64Array.from({ length: x.length }, (_, i) => x[(i % rows) * columns + Math.floor(i / rows)]!);
}

export class AutoencoderReference {
  constructor(
    readonly s: AutoencoderShape,
    readonly w: Weights,
    readonly shapes: Shapes,
  ) {}

  /** @param picture [channels, height, width] @returns moments [2 * latent channels, h, w] */
  encode(picture: Numbers, height: number, width: number): Float64Array {
    const { s } = this;
    let grid: Grid = { clips: 1, frames: 1, height, width };
    let x = this.#convolve('encoder.conv_in', turned(picture, s.inChannels), grid);
    for (let i = 0; i < s.channels.length; i++) {
      const level = `encoder.down_blocks.${i}`;
      for (let j = 0; j < s.layersPerBlock; j++) x = this.#residual(`${level}.resnets.${j}`, x, grid);
      if (i + 1 === s.channels.length) break;
      const halving = { stride: 2, padding: 'rightBottom' } as const;
      x = this.#convolve(`${level}.downsamplers.0.conv`, x, grid, halving);
      grid = convolvedGrid(grid, halving);
    }
    x = this.#outcome('encoder', this.#middle('encoder.mid_block', x, grid), grid);
    return turned(this.#convolve('quant_conv', x, grid), grid.height * grid.width);
  }

  /** @param latents [latent channels, height, width], unscaled @returns [channels, H, W] */
  decode(latents: Numbers, height: number, width: number): Float64Array {
    const { s } = this;
    let grid: Grid = { clips: 1, frames: 1, height, width };
    let x = this.#convolve('post_quant_conv', turned(latents, s.latentChannels), grid);
    x = this.#middle('decoder.mid_block', this.#convolve('decoder.conv_in', x, grid), grid);
    for (let i = 0; i < s.channels.length; i++) {
      const level = `decoder.up_blocks.${i}`;
      for (let j = 0; j <= s.layersPerBlock; j++) x = this.#residual(`${level}.resnets.${j}`, x, grid);
      if (i + 1 === s.channels.length) break;
      x = upsampleNearest(x, grid, 2 * grid.height, 2 * grid.width);
      grid = { ...grid, height: 2 * grid.height, width: 2 * grid.width };
      x = this.#convolve(`${level}.upsamplers.0.conv`, x, grid);
    }
    return turned(this.#outcome('decoder', x, grid), grid.height * grid.width);
  }

  /** Kernels are published as [out, in, ky, kx]; the reference of the op takes [out, ky, kx, in]. */
  #convolve(name: string, x: Float64Array, grid: Grid, options: Partial<Convolution> = {}): Float64Array {
    const weight = this.w[`${name}.weight`]!;
    const [, channels = 1, size = 1] = this.shapes[`${name}.weight`]!;
    const taps = size * size;
    const kernel = Float64Array.from({ length: sizeOf(this.shapes[`${name}.weight`]!) }, (_, i) => {
      const [out, tap, c] = [
        Math.floor(i / (taps * channels)),
        Math.floor(i / channels) % taps,
        i % channels,
      ];
      return weight[(out * channels + c) * taps + tap]!;
    });
    return convolution(x, kernel, this.w[`${name}.bias`], grid, { channels, size, ...options });
  }

  #norm(name: string, x: Float64Array, grid: Grid, silu: boolean): Float64Array {
    const { groups } = this.s;
    const options = { groups, epsilon: 1e-6, silu };
    return groupNorm(x, this.w[`${name}.weight`]!, this.w[`${name}.bias`]!, grid, options);
  }

  #residual(name: string, x: Float64Array, grid: Grid): Float64Array {
    const h = this.#convolve(`${name}.conv1`, this.#norm(`${name}.norm1`, x, grid, true), grid);
    const y = this.#convolve(`${name}.conv2`, this.#norm(`${name}.norm2`, h, grid, true), grid);
    const shortcut = `${name}.conv_shortcut`;
    return plus(y, this.w[`${shortcut}.weight`] ? this.#convolve(shortcut, x, grid) : x);
  }

  #middle(name: string, input: Float64Array, grid: Grid): Float64Array {
    const x = this.#residual(`${name}.resnets.0`, input, grid);
    const at = `${name}.attentions.0.`;
    const width = this.s.channels.at(-1)!;
    const rows = grid.height * grid.width;
    const dense = (part: string, from: Float64Array) =>
      linear(from, this.w[`${at}${part}.weight`]!, width, this.w[`${at}${part}.bias`]);
    const normed = this.#norm(`${at}group_norm`, x, grid, false);
    const [q, k, v] = [dense('to_q', normed), dense('to_k', normed), dense('to_v', normed)];
    const attended = attention({ q, k, v, width, heads: 1, spans: [[0, rows, 0, rows]] });
    return this.#residual(`${name}.resnets.1`, plus(x, dense('to_out.0', attended)), grid);
  }

  #outcome(half: string, x: Float64Array, grid: Grid): Float64Array {
    return this.#convolve(`${half}.conv_out`, this.#norm(`${half}.conv_norm_out`, x, grid, true), grid);
  }
}
