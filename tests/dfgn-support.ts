// A small frame generation network and batches for it; every value is a function of its place.

import { Dfgn, type DfgnOptions } from '../src/models/dfgn.js';
import { type DfgnConfigInput, dfgnConfig } from '../src/models/dfgn-config.js';
import type { DenoisingBatch, DenoisingOptions, PredictionBatch } from '../src/native/stickers.js';
import { native } from '../src/native.js';
import { normals } from './support/reference/numbers.js';

native.setThreads(1);

export function smallConfig(changes: DfgnConfigInput = {}) {
  return dfgnConfig({
    block_out_channels: [8, 16],
    layers_per_block: 1,
    norm_num_groups: 4,
    cross_attention_dim: 12,
    t5_dim: 10,
    attention_head_dim: 4,
    num_frames: 4,
    ...changes,
  });
}

export type Config = ReturnType<typeof smallConfig>;

/** Published initial values zero some paths (w1); with these every path contributes. */
export async function smallNetwork(changes: DfgnConfigInput = {}, options: DfgnOptions = {}): Promise<Dfgn> {
  const network = Dfgn.create(smallConfig(changes), { seed: 3, threads: 1, ...options });
  const scalars = [...network.shapes.keys()].filter((name) => /\.w[12]$/.test(name));
  await network.write(
    Object.fromEntries(scalars.map((name, i) => [name, Float32Array.of(0.5 + 0.1 * (i % 5))])),
  );
  return network;
}

const WIDTH = 6;
const HEIGHT = 5;
export const TOKENS = 3;
export const T5_TOKENS = 2;

function common(config: Config, clips: number, seed: number) {
  return {
    clips,
    height: HEIGHT,
    width: WIDTH,
    textTokens: TOKENS,
    text: normals(clips * TOKENS * config.cross_attention_dim, seed + 1),
    ...(config.t5_dim && { t5Tokens: T5_TOKENS, t5: normals(clips * T5_TOKENS * config.t5_dim, seed + 2) }),
  };
}

/** Values of one clip's latents. */
export const valuesOf = (config: Config) => config.in_channels * config.num_frames * HEIGHT * WIDTH;
export const PIXELS = HEIGHT * WIDTH;

interface States {
  text: Float32Array;
}

export function predictionBatch(config: Config, clips = 1, seed = 10): PredictionBatch & States {
  return {
    ...common(config, clips, seed),
    noisyLatents: normals(clips * valuesOf(config), seed + 3),
    imageLatents: normals(clips * valuesOf(config), seed + 4),
    timesteps: Float32Array.from({ length: clips }, (_, i) => 37 + 400 * i),
  };
}

export function denoisingBatch(config: Config, clips = 1, seed = 10): DenoisingBatch & States {
  return { ...common(config, clips, seed), latents: normals(clips * valuesOf(config), seed + 3) };
}

export const training: DenoisingOptions = {
  optimizer: { learningRate: 1e-3, betas: [0.9, 0.999], epsilon: 1e-8, weightDecay: 0.01 },
  schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 100 },
  maxGradNorm: 1,
  seed: 5,
};

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY;
  let most = 0;
  for (let i = 0; i < a.length; i++) {
    const difference = Math.abs((a[i] as number) - (b[i] as number));
    if (!(difference <= most)) most = Number.isNaN(difference) ? Number.POSITIVE_INFINITY : difference;
  }
  return most;
}

/** Pieces of typed arrays, end to end. */
export function joined(...parts: (Float32Array | undefined)[]): Float32Array {
  return Float32Array.from(parts.flatMap((part) => [...(part ?? [])]));
}
