/** The sizes of a ViLT model: Hugging Face's `config.json`, its presets, and the shape the native core takes. */

import { join } from 'node:path';
import { z } from 'zod';
import { invalid, requireObject, requireText } from '../arguments.js';
import { readJson, writeText } from '../data/files.js';
import { DuetError } from '../errors.js';
import type { ViltShape } from '../native/federated.js';
import { validated } from '../validation.js';

const count = z.int().min(1);
const probability = z.number().min(0).lt(1);

/** `config.json` as Hugging Face writes it; keys that do not matter here are kept as they are. */
export const viltConfigSchema = z.looseObject({
  /** Must begin with `Vilt`, as Hugging Face names them. */
  architectures: z.array(z.string()).optional(),
  /** `vilt`. */
  model_type: z.string().optional(),
  /** Rows of the word table. Default 30522. */
  vocab_size: count.default(30522),
  /** Rows of the segment table. Default 2. */
  type_vocab_size: count.default(2),
  /** Rows of the modality table: 2, or 3 with the copied type of published checkpoints. Default 2. */
  modality_type_vocab_size: z.int().min(2).default(2),
  /** Longest text, in tokens. Default 40. */
  max_position_embeddings: z.int().min(2).default(40),
  /** Width of the model. Default 768. */
  hidden_size: count.default(768),
  /** Layers. Default 12. */
  num_hidden_layers: count.default(12),
  /** Heads of an attention; must divide hidden_size. Default 12. */
  num_attention_heads: count.default(12),
  /** Width of the feed-forward layers. Default 3072. */
  intermediate_size: count.default(3072),
  /** gelu with the error function. */
  hidden_act: z.literal('gelu', 'Expected "gelu", the only activation there is,').default('gelu'),
  /** Default 0. With dropout FedDAT steps in the published order of passes. */
  hidden_dropout_prob: probability.default(0),
  /** Default 0. */
  attention_probs_dropout_prob: probability.default(0),
  /** Default 1e-12. */
  layer_norm_eps: z.number().gt(0).default(1e-12),
  /** Pixels: length to which the shorter side of a picture is scaled. Default 384. */
  image_size: count.default(384),
  /** Pixels a side of a patch. Default 32. */
  patch_size: count.default(32),
  /** RGB. */
  num_channels: z.literal(3, 'Expected 3, for pictures are RGB,').default(3),
  /** Whether query, key and value have a bias. Default true. */
  qkv_bias: z.boolean().default(true),
  /** -1 or null: all patches are used, none are drawn at random. */
  max_image_length: z
    .union([z.literal(-1), z.null()], 'Expected -1 (no patches drawn at random)')
    .default(-1),
});

/**
 * The sizes of a ViLT: Hugging Face's `config.json` (class ViltConfig). Defaults of absent keys are Hugging Face's,
 * which are the sizes of `vilt-b32`; keys that do not matter here are kept as they are.
 * @interface
 */
export type ViltConfig = z.output<typeof viltConfigSchema>;

/** Named sizes. `small` is what the quickstart trains; `base` is ViLT-B/32. */
export const VILT_PRESETS = {
  tiny: {
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    intermediate_size: 128,
    image_size: 64,
    patch_size: 16,
  },
  small: {
    hidden_size: 128,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    intermediate_size: 512,
    image_size: 64,
    patch_size: 8,
  },
  base: {
    hidden_size: 768,
    num_hidden_layers: 12,
    num_attention_heads: 12,
    intermediate_size: 3072,
    image_size: 384,
    patch_size: 32,
  },
} as const satisfies Record<string, Partial<ViltConfig>>;

/** Name of a preset. */
export type ViltPreset = keyof typeof VILT_PRESETS;

/**
 * Completes and checks a config.
 * @param source where it comes from, for messages
 * @throws DuetError INVALID_ARGUMENT, or UNSUPPORTED for another architecture
 */
export function viltConfig(value: z.input<typeof viltConfigSchema>, source = 'ViLT config'): ViltConfig {
  refuseOthers(value, source);
  const config = validated(viltConfigSchema, value, source);
  if (config.hidden_size % config.num_attention_heads !== 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected hidden_size divisible by num_attention_heads but received ${config.hidden_size} and ` +
        `${config.num_attention_heads} (in ${source})`,
    );
  }
  if (config.image_size < config.patch_size) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected image_size of at least patch_size but received ${config.image_size} and ${config.patch_size} (in ${source})`,
    );
  }
  return config;
}

/** A preset with changes, e.g. `viltPreset('small', { vocab_size: 512 })`. */
export function viltPreset(name: ViltPreset, changes: z.input<typeof viltConfigSchema> = {}): ViltConfig {
  if (!Object.hasOwn(VILT_PRESETS, requireText(name, 'size')))
    throw invalid(`one of ${Object.keys(VILT_PRESETS).join(', ')}`, 'size', name);
  const preset = VILT_PRESETS[name];
  return viltConfig({
    architectures: ['ViltModel'],
    model_type: 'vilt',
    ...preset,
    ...requireObject(changes, 'changes'),
  });
}

/**
 * Reads `config.json` from a model folder.
 * @throws DuetError NOT_FOUND, IO, CORRUPT, UNSUPPORTED (another architecture), INVALID_ARGUMENT (impossible sizes)
 */
export async function readViltConfig(folder: string): Promise<ViltConfig> {
  const path = join(requireText(folder, 'folder'), 'config.json');
  const json = await readJson(path, 'model config', 'a model folder holds config.json and model.safetensors');
  return viltConfig(json as z.input<typeof viltConfigSchema>, path);
}

export async function writeViltConfig(folder: string, config: ViltConfig): Promise<void> {
  await writeText(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`, 'model config');
}

function refuseOthers(value: unknown, source: string): void {
  const { model_type: type, architectures } = (value ?? {}) as {
    model_type?: unknown;
    architectures?: unknown;
  };
  const named = Array.isArray(architectures) ? architectures.filter((name) => typeof name === 'string') : [];
  // A type that is no text is for the schema to refuse.
  const isVilt =
    (typeof type !== 'string' || type === 'vilt') && named.every((name) => name.startsWith('Vilt'));
  if (isVilt) return;
  const received = [type, ...named].filter((part) => part !== undefined).join(', ');
  throw new DuetError(
    'UNSUPPORTED',
    `Expected a ViLT model (model_type "vilt") in ${source} but received ${received}; other architectures are not in this version`,
  );
}

/** The config as the native core takes it. */
export function viltShape(config: ViltConfig): ViltShape {
  return {
    vocabSize: config.vocab_size,
    typeVocabSize: config.type_vocab_size,
    maxPositionEmbeddings: config.max_position_embeddings,
    hiddenSize: config.hidden_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    intermediateSize: config.intermediate_size,
    imageSize: config.image_size,
    patchSize: config.patch_size,
    channels: config.num_channels,
    modalityTypes: config.modality_type_vocab_size,
    layerNormEps: config.layer_norm_eps,
    hiddenDropout: config.hidden_dropout_prob,
    attentionDropout: config.attention_probs_dropout_prob,
    qkvBias: config.qkv_bias,
  };
}
