/**
 * `config.json` of the text encoders as Hugging Face writes it (CLIPTextModel, BertModel, Chinese-CLIP's text tower,
 * T5EncoderModel), checked, and the shape the native core takes. Absent keys have the defaults of those classes.
 */

import { join } from 'node:path';
import { z } from 'zod';
import { readJson } from '../data/files.js';
import type { TextEncoderKind } from '../data/text-tokenizer.js';
import { DuetError } from '../errors.js';
import type { TextEncoderShape } from '../native/stickers.js';
import { validated } from '../validation.js';

/** Sizes of a text encoder, from its config.json. */
export interface TextEncoderConfig {
  /** Architecture. */
  kind: TextEncoderKind;
  /** As the native core takes it. */
  shape: TextEncoderShape;
  /** Largest number of tokens of a text; undefined for any (t5). */
  maxLength: number | undefined;
  /** As the config says; undefined where it does not. */
  padTokenId: number | undefined;
}

const count = z.int().min(1);
const epsilon = z.number().gt(0);
const ACTIVATIONS = {
  gelu: 'gelu',
  relu: 'relu',
  quick_gelu: 'quick_gelu',
  gelu_new: 'gelu_tanh',
  gelu_pytorch_tanh: 'gelu_tanh',
} as const;
const activation = z.enum(Object.keys(ACTIVATIONS) as (keyof typeof ACTIVATIONS)[]);
const token = z.int().min(0).nullish();

const clipSchema = z.looseObject({
  vocab_size: count.default(49408),
  hidden_size: count.default(512),
  intermediate_size: count.default(2048),
  num_hidden_layers: count.default(12),
  num_attention_heads: count.default(8),
  max_position_embeddings: count.default(77),
  layer_norm_eps: epsilon.default(1e-5),
  hidden_act: activation.default('quick_gelu'),
  eos_token_id: z.int().min(0).default(49407),
  pad_token_id: token,
});

const bertSchema = z.looseObject({
  vocab_size: count.default(30522),
  type_vocab_size: count.default(2),
  hidden_size: count.default(768),
  intermediate_size: count.default(3072),
  num_hidden_layers: count.default(12),
  num_attention_heads: count.default(12),
  max_position_embeddings: count.default(512),
  layer_norm_eps: epsilon.default(1e-12),
  hidden_act: activation.default('gelu'),
  position_embedding_type: z.literal('absolute', 'Expected "absolute", the only kind there is,').optional(),
  is_decoder: z.literal(false, 'Expected false, for decoders are not in this version,').optional(),
  pad_token_id: token,
});

const t5Schema = z.looseObject({
  vocab_size: count.default(32128),
  d_model: count.default(512),
  d_kv: count.default(64),
  d_ff: count.default(2048),
  num_layers: count.default(6),
  num_heads: count.default(8),
  relative_attention_num_buckets: z.int().min(4).default(32),
  relative_attention_max_distance: count.default(128),
  layer_norm_epsilon: epsilon.default(1e-6),
  feed_forward_proj: z
    .enum(
      ['relu', 'gelu', 'gated-gelu', 'gated-relu'],
      'Expected one of "relu", "gelu", "gated-gelu", "gated-relu"',
    )
    .default('relu'),
  pad_token_id: token,
});

function clipConfig(value: unknown, source: string): TextEncoderConfig {
  const config = validated(clipSchema, value, source);
  const shape: TextEncoderShape = {
    ...common(config),
    maxPositions: config.max_position_embeddings,
    eosTokenId: config.eos_token_id,
  };
  const maxLength = config.max_position_embeddings;
  return { kind: 'clip', shape, maxLength, padTokenId: config.pad_token_id ?? undefined };
}

function bertConfig(value: unknown, source: string): TextEncoderConfig {
  const config = validated(bertSchema, value, source);
  const shape: TextEncoderShape = {
    ...common(config),
    maxPositions: config.max_position_embeddings,
    typeVocabSize: config.type_vocab_size,
  };
  const maxLength = config.max_position_embeddings;
  return { kind: 'bert', shape, maxLength, padTokenId: config.pad_token_id ?? undefined };
}

function t5Config(value: unknown, source: string): TextEncoderConfig {
  const config = validated(t5Schema, value, source);
  const gated = config.feed_forward_proj.startsWith('gated-');
  // What the published class calls gated-gelu is gated by the tanh approximation.
  const act = config.feed_forward_proj === 'gated-gelu' ? 'gelu_new' : config.feed_forward_proj;
  const shape: TextEncoderShape = {
    vocabSize: config.vocab_size,
    width: config.d_model,
    intermediateSize: config.d_ff,
    layers: config.num_layers,
    heads: config.num_heads,
    layerNormEps: config.layer_norm_epsilon,
    activation: ACTIVATIONS[act.replace('gated-', '') as keyof typeof ACTIVATIONS],
    headSize: config.d_kv,
    buckets: config.relative_attention_num_buckets,
    maxDistance: config.relative_attention_max_distance,
    gated,
  };
  return { kind: 't5', shape, maxLength: undefined, padTokenId: config.pad_token_id ?? undefined };
}

/** What CLIP's and BERT's configs call alike. */
function common(config: z.output<typeof clipSchema> | z.output<typeof bertSchema>) {
  return {
    vocabSize: config.vocab_size,
    width: config.hidden_size,
    intermediateSize: config.intermediate_size,
    layers: config.num_hidden_layers,
    heads: config.num_attention_heads,
    layerNormEps: config.layer_norm_eps,
    activation: ACTIVATIONS[config.hidden_act],
  };
}

const READERS: Record<string, (value: unknown, source: string) => TextEncoderConfig> = {
  clip_text_model: clipConfig,
  bert: bertConfig,
  chinese_clip_text_model: bertConfig,
  t5: t5Config,
  mt5: t5Config,
};

/** Configs of two towers hold the one of the text tower. */
const TOWERS: Record<string, string> = { clip: 'clip_text_model', chinese_clip: 'chinese_clip_text_model' };

/** @throws DuetError INVALID_ARGUMENT for sizes that cannot be, UNSUPPORTED for another architecture */
export function textEncoderConfig(value: unknown, source = 'text encoder config'): TextEncoderConfig {
  const given = (value ?? {}) as Record<string, unknown>;
  let type = String(given.model_type);
  let own: unknown = value;
  const tower = TOWERS[type];
  if (tower !== undefined) {
    if (given.text_config !== undefined) own = given.text_config;
    type = tower;
  }
  const reader = READERS[type];
  if (reader === undefined) {
    throw new DuetError(
      'UNSUPPORTED',
      `Expected one of ${[...Object.keys(READERS), ...Object.keys(TOWERS)].join(', ')} for model_type in ${source} ` +
        `but received ${type}; other text encoders are not in this version`,
    );
  }
  return reader(own, source);
}

/** Reads `config.json` from a model folder. */
export async function readTextEncoderConfig(folder: string): Promise<TextEncoderConfig> {
  const path = join(folder, 'config.json');
  const hint = 'a text encoder folder holds config.json and model.safetensors';
  return textEncoderConfig(await readJson(path, 'model config', hint), path);
}
