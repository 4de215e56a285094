// A tiny frame generation network with a caption encoder, and batches for it; every value is a function of its place.

import { Dfgn, type DfgnOptions } from '../src/models/dfgn.js';
import { type DfgnConfigInput, dfgnConfig } from '../src/models/dfgn-config.js';
import type { DenoisingBatch, DenoisingOptions, PredictionBatch } from '../src/native/stickers.js';

export const ENCODER = { vocab_size: 12, max_length: 6, num_layers: 2, num_heads: 2 };
export const FRAMES = 3;
export const CHANNELS = 3;
const SIDE = 5;
const VALUES = CHANNELS * FRAMES * SIDE * SIDE;

export function captionNetwork(changes: DfgnConfigInput = {}, options: DfgnOptions = {}): Dfgn {
  const config = dfgnConfig({
    in_channels: CHANNELS,
    block_out_channels: [8, 16],
    layers_per_block: 1,
    norm_num_groups: 4,
    cross_attention_dim: 16,
    t5_dim: null,
    attention_head_dim: 4,
    num_frames: FRAMES,
    caption_encoder: ENCODER,
    ...changes,
  });
  return Dfgn.create(config, { threads: 1, seed: 3, ...options });
}

export function wave(length: number, speed = 1): Float32Array {
  return Float32Array.from({ length }, (_, i) => Math.sin(speed * (i + 1)));
}

/** Two clips, [CLS] words [SEP] and padding (0). */
export const CAPTIONS = [
  [2, 5, 6, 3],
  [2, 7, 3, 0],
];

export function prediction(
  captions: readonly number[][] = CAPTIONS,
  changes: Partial<PredictionBatch> = {},
): PredictionBatch {
  const clips = 2;
  return {
    clips,
    height: SIDE,
    width: SIDE,
    textTokens: (captions[0] as number[]).length,
    tokens: Int32Array.from(captions.flat()),
    noisyLatents: wave(clips * VALUES),
    imageLatents: new Float32Array(clips * VALUES),
    timesteps: Float32Array.of(10, 400),
    ...changes,
  };
}

export const TARGET = wave(2 * VALUES, 0.7);

/**
 * Two clips, one of ones and one of minus ones, that look the same to the network: at the last timestep nothing is left of them,
 * and both have the same noise. Only the captions say which is which.
 */
export function twins(changes: Partial<DenoisingBatch> = {}): DenoisingBatch {
  const noise = new Float32Array(2 * VALUES);
  noise.set(wave(VALUES), 0);
  noise.set(wave(VALUES), VALUES);
  return {
    clips: 2,
    height: SIDE,
    width: SIDE,
    textTokens: 4,
    tokens: Int32Array.from(CAPTIONS.flat()),
    latents: Float32Array.from({ length: 2 * VALUES }, (_, i) => (i < VALUES ? 1 : -1)),
    noise,
    timesteps: Int32Array.of(99, 99),
    ...changes,
  };
}

/** The prediction is minus the clip itself where nothing but noise is left. */
export const TRAINING: DenoisingOptions = {
  optimizer: { learningRate: 3e-3, betas: [0.9, 0.999], epsilon: 1e-8, weightDecay: 0.01 },
  schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 1000 },
  noise: { steps: 100, betaStart: 0.1, betaEnd: 0.9 },
  prediction: 'velocity',
  maxGradNorm: 1,
  seed: 5,
};
