/** The options of a sticker training: checked, completed, and what of them a run folder remembers. */

import { resolve } from 'node:path';
import { z } from 'zod';
import { requireInstance, requireKnown, requireObject } from '../arguments.js';
import { StickerDataset } from '../data/stickers/dataset.js';
import { computeSchema, type DeviceName, deviceSchema } from '../device.js';
import { DuetError } from '../errors.js';
import { type DfgnConfig, type DfgnConfigInput, dfgnConfig } from '../models/dfgn-config.js';
import type { ComputeType } from '../native/core.js';
import { requireRunDir } from '../run/run-folder.js';
import { validated } from '../validation.js';
import { WORD_DROP_PROBABILITY } from './captions.js';
import type { CurriculumName } from './curriculum/by-name.js';
import type { Curriculum } from './curriculum/curriculum.js';
import { PREDICTIONS, type Prediction } from './prediction.js';
import type { TextSourceSettings } from './text-source.js';

const count = z.int().min(1);
const rate = z.number().min(0).max(1);
/** Absolute, so that a run folder opens from anywhere. */
const folder = z
  .string()
  .min(1)
  .transform((path) => resolve(path));

const settingsSchema = z.strictObject({
  space: z.union([z.literal('pixels'), z.strictObject({ autoencoder: folder })]).default('pixels'),
  patch: count.max(4).default(1),
  text: z
    .union([
      z.literal('captions'),
      z.strictObject({
        encoder: folder,
        second: folder.optional(),
        length: count.optional(),
      }),
    ])
    .default('captions'),
  steps: count,
  batchSize: count.default(8),
  accumulation: count.max(4096).default(1),
  learningRate: z.number().gt(0).max(1).default(3e-5),
  schedule: z
    .strictObject({
      kind: z.enum(['constant', 'linear', 'cosine']).default('constant'),
      warmup: rate.default(0),
    })
    .prefault({}),
  optimizer: z
    .strictObject({
      betas: z.tuple([rate, rate]).default([0.9, 0.999]),
      epsilon: z.number().gt(0).default(1e-8),
      weightDecay: z.number().min(0).default(0.01),
    })
    .prefault({}),
  maxGradNorm: z.number().gt(0).nullable().default(1),
  emaDecay: z.number().min(0).lt(1).nullable().default(0.999),
  prediction: z.enum(PREDICTIONS).default('epsilon'),
  lossOverKept: z.boolean().default(false),
  lossMask: z.boolean().default(true),
  gradientCheckpointing: z.boolean().default(false),
  wordDrop: rate.default(WORD_DROP_PROBABILITY),
  seed: z.int().min(0).default(0),
  device: deviceSchema,
  compute: computeSchema,
  threads: z.int().min(0).default(0),
  runDir: z.string().optional(),
  resume: z.boolean().default(false),
  keepCheckpoints: count.default(2),
  checkpointEvery: count.default(500),
  reportEvery: count.default(50),
});

/** Everything a sticker training can be told; defaults marked (published) are those of RDTF (arXiv 2503.17735). */
export interface StickerTrainerOptions {
  /** Sizes of the network, e.g. `DfgnConfig.small`; `in_channels` and `num_frames` follow space and data unless given. */
  network: DfgnConfigInput;
  /** What it is trained on; bad stickers should be left out by `prepare` before. */
  data: StickerDataset;
  /** Default `pixels`: 3 or 4 channels, as the data have. Or the folder of an AutoencoderKL, for latents. */
  space?: 'pixels' | { autoencoder: string };
  /**
   * Pixels: squares of so many pixels a side, at most 4, become channels of one smaller picture. Default 1. The network's in_channels is the
   * data's channels times its square.
   */
  patch?: number;
  /** Default `captions`: a small text encoder that is trained with the network. Or folders of frozen encoders. */
  text?: 'captions' | TextSourceSettings;
  /** Default `difficulty-adaptive`. */
  curriculum?: CurriculumName | Curriculum;
  /** Optimiser steps. */
  steps: number;
  /** Clips of a micro-batch. Default 8. */
  batchSize?: number;
  /** Micro-batches of a step. Default 1 (published: 6 with one clip each), at most 4096. */
  accumulation?: number;
  /** Default 3e-5 (published). */
  learningRate?: number;
  /** `warmup` is a share of the steps. Default constant without warm-up (published). */
  schedule?: { kind?: 'constant' | 'linear' | 'cosine'; warmup?: number };
  /** AdamW; decays all parameters, as published. Defaults 0.9, 0.999, 1e-8, 0.01. */
  optimizer?: { betas?: [number, number]; epsilon?: number; weightDecay?: number };
  /** Gradients longer than this are scaled down to it; null: never. Default 1 (published). */
  maxGradNorm?: number | null;
  /** Of the moving averages that stickers are generated with; null: none are kept. Default 0.999. */
  emaDecay?: number | null;
  /**
   * What the network predicts. Default `epsilon`, the noise (published). `sample`, the clip itself, suits short trainings of
   * small networks on patches: what does not pass their width is not asked of them (arXiv 2511.13720).
   */
  prediction?: Prediction;
  /** Divide the loss by the elements of real frames instead of all (published: all). */
  lossOverKept?: boolean;
  /** false: padded frames count in the loss like real ones, for comparison. Default true. */
  lossMask?: boolean;
  /** Keep only the inputs of layers and compute the rest again on the way back: less memory, more time. */
  gradientCheckpointing?: boolean;
  /** Chance of each caption word to become `#`. Default 21/101 (published). */
  wordDrop?: number;
  /** Of weights, order, tasks, noise. Default 0. */
  seed?: number;
  /** Where it computes. Default `cpu`. */
  device?: DeviceName;
  /** Large products in fp32 (default), tf32 (GPUs alone) or bf16; weights, norms and losses are fp32 in all. */
  compute?: ComputeType;
  /** 0 (default) takes one per physical processor. */
  threads?: number;
  /** Folder for config, metrics and checkpoints. Without it nothing is kept. */
  runDir?: string;
  /** Continue the run in the folder. */
  resume?: boolean;
  /** Default 2. */
  keepCheckpoints?: number;
  /** Steps. Default 500; one is also written at the end and when the run is stopped. */
  checkpointEvery?: number;
  /** Steps of one line of metrics. Default 50. */
  reportEvery?: number;
}

/**
 * The options with all defaults; see `StickerTrainerOptions`.
 * @interface
 */
export type TrainerSettings = z.output<typeof settingsSchema> & { network: DfgnConfig };

/** @throws DuetError INVALID_ARGUMENT for settings that cannot work */
export function trainerSettings(options: StickerTrainerOptions): TrainerSettings {
  const what = 'the options of StickerTrainer';
  const known = { network: true, data: true, curriculum: true, ...settingsSchema.shape };
  const { network, data, curriculum: _, ...rest } = requireKnown(options, what, known);
  requireObject(network, 'network');
  const { frames, channels, size } = requireInstance(
    data,
    StickerDataset,
    'data',
    'open it with StickerDataset.fromFolder',
  ).spec;
  const checked = validated(settingsSchema, rest, what);
  requireRunDir(checked);
  const { space, patch } = checked;
  const fitting = {
    num_frames: frames,
    ...(space === 'pixels' && { in_channels: channels * patch ** 2 }),
  };
  const settings = { ...checked, network: dfgnConfig({ ...fitting, ...network }) };
  if (settings.network.num_frames !== frames) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected num_frames ${frames} (frames of the data) for the network but received ${settings.network.num_frames}`,
    );
  }
  if (space === 'pixels' && size % patch !== 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected clips whose side is a multiple of the patch, ${patch}, but received ${size}`,
    );
  }
  if (space !== 'pixels' && (channels !== 3 || patch !== 1)) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected data of 3 channels and patch 1 with an autoencoder but received ${channels} and ${patch}`,
    );
  }
  return settings;
}

/** What decides the numbers of a run. Of frozen parts that is not where they lie; what they hold has fingerprints. */
export function rememberedSettings(settings: TrainerSettings): Record<string, unknown> {
  const { runDir: _1, resume: _2, keepCheckpoints: _3, checkpointEvery: _4, threads: _5, ...rest } = settings;
  const { space, text } = rest;
  return {
    ...rest,
    space: space === 'pixels' ? space : 'latents',
    text: text === 'captions' ? text : { length: text.length },
  };
}
