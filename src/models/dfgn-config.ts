/**
 * The sizes of a frame generation network: the published `config.json`, its presets, and the shape the native core
 * takes.
 */

import { join } from 'node:path';
import { z } from 'zod';
import { invalid, requireKnown, requireObject, requireText } from '../arguments.js';
import { readJson, writeText } from '../data/files.js';
import { DuetError, shown } from '../errors.js';
import type { DfgnShape } from '../native/stickers.js';
import { validated } from '../validation.js';

const count = z.int().min(1);

export const STI_VARIANTS = ['interaction', 'semantic', 'detail'] as const;

/** `config.json` as published; other keys of published files are kept as they are, if this version computes what they say. */
export const dfgnConfigSchema = z.looseObject({
  /** Side of the clips it was made for; others work too. */
  sample_size: count.optional(),
  /** 4 for latents of an autoencoder, 3 or 4 for pixels. */
  in_channels: count.max(64).default(4),
  /** The same as in_channels. */
  out_channels: count.optional(),
  /** The published arrangement: cross attention in all levels but the deepest. */
  down_block_types: z.array(z.string()).optional(),
  /** As down_block_types, upwards. */
  up_block_types: z.array(z.string()).optional(),
  /** Widths of the levels, the finest first. Default 320, 640, 1024, 1280. */
  block_out_channels: z.array(count).min(1).max(16).default([320, 640, 1024, 1280]),
  /** Layers of a level. Default 2. */
  layers_per_block: count.default(2),
  /** Groups of the group norms; must divide every width. Default 32. */
  norm_num_groups: count.default(32),
  /** Width of the text states. */
  cross_attention_dim: count.default(1024),
  /** Width of the states of a second text encoder (T5); null: there is none. */
  t5_dim: count.nullable().default(768),
  /** Width of one head; a block of c channels has c / attention_head_dim heads. */
  attention_head_dim: count.default(64),
  /** Frames of a clip (published: 8). */
  num_frames: count.max(1024).default(8),
  /** Branches of the spatio-temporal interaction layers (published: both). */
  sti: z.enum(STI_VARIANTS).default('interaction'),
  /** Hide padded frames in all attention and zero them where frames are mixed (published: false). */
  mask_padding: z.boolean().default(false),
  /** A text encoder of cross_attention_dim that is a part of the network and trained with it (published: none). */
  caption_encoder: z
    .strictObject({
      vocab_size: z.int().min(2),
      /** Most tokens of a caption. */
      max_length: count,
      num_layers: count,
      num_heads: count,
    })
    .nullable()
    .default(null),
});

/**
 * The sizes of a discrete frame generation network (RDTF, arXiv 2503.17735): the published `config.json`. Defaults of
 * absent keys are those of the published network; keys that only take note of something (`_class_name`) are kept as they are. The
 * value of the same name holds the presets.
 * @interface
 */
export type DfgnConfig = z.output<typeof dfgnConfigSchema>;
/**
 * Sizes as they are given; what is absent has the published default.
 * @interface
 */
export type DfgnConfigInput = z.input<typeof dfgnConfigSchema>;

/**
 * Named sizes. `tiny` is for tests and a first try, `small` for training on one machine, `full` is the published network of 960
 * million parameters.
 */
export const DFGN_PRESETS = {
  tiny: {
    block_out_channels: [16, 32],
    layers_per_block: 1,
    norm_num_groups: 4,
    cross_attention_dim: 64,
    t5_dim: null,
    attention_head_dim: 8,
  },
  small: {
    block_out_channels: [64, 128, 192, 256],
    norm_num_groups: 32,
    cross_attention_dim: 256,
    t5_dim: null,
    attention_head_dim: 32,
  },
  full: {
    block_out_channels: [320, 640, 1024, 1280],
    norm_num_groups: 32,
    cross_attention_dim: 1024,
    t5_dim: 768,
    attention_head_dim: 64,
  },
} as const satisfies Record<string, DfgnConfigInput>;

/** Name of a preset. */
export type DfgnPreset = keyof typeof DFGN_PRESETS;

/** The presets by name: `DfgnConfig.small`. Sizes that depend on the data are left open. */
export const DfgnConfig: Readonly<Record<DfgnPreset, DfgnConfigInput>> = {
  tiny: { ...DFGN_PRESETS.tiny, block_out_channels: [...DFGN_PRESETS.tiny.block_out_channels] },
  small: { ...DFGN_PRESETS.small, block_out_channels: [...DFGN_PRESETS.small.block_out_channels] },
  full: { ...DFGN_PRESETS.full, block_out_channels: [...DFGN_PRESETS.full.block_out_channels] },
};

/** Keys of the published class whose one value here is what is computed. */
const COMPUTED: Readonly<Record<string, unknown>> = {
  act_fn: 'silu',
  norm_eps: 1e-5,
  mid_block_scale_factor: 1,
  downsample_padding: 1,
  dropout: 0,
  num_attention_heads: null,
  time_cond_proj_dim: null,
};

/** Completes and checks a config. @throws DuetError INVALID_ARGUMENT, or UNSUPPORTED for what this version does not compute */
export function dfgnConfig(value: DfgnConfigInput, source = 'DFGN config'): DfgnConfig {
  const config = validated(dfgnConfigSchema, value, source);
  const { block_out_channels: widths, norm_num_groups: groups, attention_head_dim: head } = config;
  const refuse = (expected: string, received: unknown) => {
    throw new DuetError('INVALID_ARGUMENT', `Expected ${expected} but received ${received} (in ${source})`);
  };
  for (const width of widths) {
    if (width % groups !== 0) refuse(`block_out_channels divisible by norm_num_groups (${groups})`, width);
    if (width % head !== 0) refuse(`block_out_channels divisible by attention_head_dim (${head})`, width);
  }
  if (Number(widths[0]) % 2 !== 0) refuse('an even first width in block_out_channels', widths[0]);
  if (config.out_channels !== undefined && config.out_channels !== config.in_channels)
    refuse(`out_channels equal to in_channels (${config.in_channels})`, config.out_channels);
  const { caption_encoder: encoder, cross_attention_dim: width } = config;
  if (encoder && width % encoder.num_heads !== 0)
    refuse(`num_heads of caption_encoder that divide cross_attention_dim (${width})`, encoder.num_heads);
  refuseOtherBlocks(config, source);
  refuseOtherValues(config, source);
  return config;
}

/** A preset with changes, e.g. `dfgnPreset('small', { in_channels: 3 })`. */
export function dfgnPreset(name: DfgnPreset, changes: DfgnConfigInput = {}): DfgnConfig {
  if (!Object.hasOwn(DFGN_PRESETS, requireText(name, 'the size of a network')))
    throw invalid(`one of ${Object.keys(DFGN_PRESETS).join(', ')}`, 'the size of a network', name);
  return dfgnConfig({ ...DfgnConfig[name], ...requireObject(changes, 'changes') });
}

/**
 * Reads `config.json` from a network's folder.
 * @throws DuetError NOT_FOUND, IO, CORRUPT, UNSUPPORTED (what this version does not compute), INVALID_ARGUMENT (impossible sizes)
 */
export async function readDfgnConfig(folder: string): Promise<DfgnConfig> {
  const path = join(requireText(folder, 'folder'), 'config.json');
  const json = await readJson(
    path,
    'network config',
    'a network folder holds config.json and model.safetensors',
  );
  return dfgnConfig(json as DfgnConfigInput, path);
}

export async function writeDfgnConfig(folder: string, config: DfgnConfig): Promise<void> {
  await writeText(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`, 'network config');
}

/** Cross attention in all levels but the deepest is the one arrangement there is. */
function refuseOtherBlocks(config: DfgnConfig, source: string): void {
  const levels = config.block_out_channels.length;
  const inner = Array.from({ length: levels - 1 });
  const expected = {
    down_block_types: [...inner.map(() => 'CrossAttnDownBlock3D'), 'DownBlock3D'],
    up_block_types: ['UpBlock3D', ...inner.map(() => 'CrossAttnUpBlock3D')],
  };
  for (const [key, types] of Object.entries(expected)) {
    const given = config[key] as string[] | undefined;
    if (given === undefined || given.join() === types.join()) continue;
    throw new DuetError(
      'UNSUPPORTED',
      `Expected ${types.join(', ')} for ${key} but received ${given.join(', ')} (in ${source})`,
    );
  }
}

/** Keys that begin with _ are notes of the library that wrote the file. */
function refuseOtherValues(config: DfgnConfig, source: string): void {
  const published = Object.fromEntries(Object.entries(config).filter(([key]) => !key.startsWith('_')));
  requireKnown(published, source, { ...dfgnConfigSchema.shape, ...COMPUTED });
  for (const [key, value] of Object.entries(COMPUTED)) {
    const given = config[key];
    if (given === undefined || given === value) continue;
    throw new DuetError(
      'UNSUPPORTED',
      `Expected ${shown(value)} for ${key} but received ${shown(given)} (in ${source}); this version computes nothing else`,
    );
  }
}

/** The config as the native core takes it. */
export function dfgnShape(config: DfgnConfig): DfgnShape {
  const { caption_encoder: encoder } = config;
  return {
    channels: config.in_channels,
    blockChannels: config.block_out_channels,
    layersPerBlock: config.layers_per_block,
    normGroups: config.norm_num_groups,
    textWidth: config.cross_attention_dim,
    t5Width: config.t5_dim ?? 0,
    headSize: config.attention_head_dim,
    frames: config.num_frames,
    sti: config.sti,
    maskPadding: config.mask_padding,
    ...(encoder && {
      captionEncoder: {
        vocabSize: encoder.vocab_size,
        maxLength: encoder.max_length,
        layers: encoder.num_layers,
        heads: encoder.num_heads,
      },
    }),
  };
}
