// Folders of small frozen encoders and autoencoders with drawn weights, as Hugging Face and diffusers lay them out.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { autoencoderShape } from '../../src/models/autoencoder.js';
import type { TensorData } from '../../src/native/core.js';
import type { TextEncoderShape } from '../../src/native/stickers.js';
import { native } from '../../src/native.js';
import { temporaryFolder } from '../data-support.js';
import { autoencoderShapes } from './reference/autoencoder.js';
import {
  bertReference,
  bertShapes,
  clipReference,
  clipShapes,
  drawWeights,
  type Encoded,
  t5Reference,
  t5Shapes,
  type Weights,
} from './reference/text-encoders.js';
import { writeTokenizer } from './tokenizers.js';

export interface EncoderKind {
  shape: TextEncoderShape;
  config: Record<string, unknown>;
  shapes: Record<string, number[]>;
  reference: (weights: Weights, ids: readonly number[], keyMask?: readonly number[]) => Encoded;
}

const sizes = { vocabSize: 40, intermediateSize: 21, layers: 2, layerNormEps: 1e-5 } as const;

export function clipKind(changes: Record<string, unknown> = {}): EncoderKind {
  const config = {
    model_type: 'clip_text_model',
    vocab_size: sizes.vocabSize,
    hidden_size: 12,
    intermediate_size: sizes.intermediateSize,
    num_hidden_layers: sizes.layers,
    num_attention_heads: 3,
    max_position_embeddings: 9,
    hidden_act: 'quick_gelu',
    eos_token_id: 2,
    ...changes,
  };
  const shape: TextEncoderShape = {
    ...sizes,
    width: 12,
    heads: 3,
    maxPositions: 9,
    activation: config.hidden_act as 'quick_gelu',
    eosTokenId: config.eos_token_id,
  };
  return { shape, config, shapes: clipShapes(shape), reference: (w, ids) => clipReference(shape, w, ids) };
}

export function bertKind(changes: Record<string, unknown> = {}): EncoderKind {
  const config = {
    model_type: 'bert',
    vocab_size: sizes.vocabSize,
    type_vocab_size: 2,
    hidden_size: 12,
    intermediate_size: sizes.intermediateSize,
    num_hidden_layers: sizes.layers,
    num_attention_heads: 2,
    max_position_embeddings: 11,
    layer_norm_eps: sizes.layerNormEps,
    ...changes,
  };
  const shape: TextEncoderShape = {
    ...sizes,
    width: 12,
    heads: 2,
    maxPositions: 11,
    typeVocabSize: 2,
    activation: 'gelu',
  };
  const reference = (w: Weights, ids: readonly number[], mask?: readonly number[]) =>
    bertReference(shape, w, ids, mask);
  return { shape, config, shapes: bertShapes(shape), reference };
}

/** With 8 buckets up to distance 20 a text of 30 tokens meets all of them. */
export function t5Kind(feedForward: 'relu' | 'gated-gelu' = 'relu'): EncoderKind {
  const gated = feedForward === 'gated-gelu';
  const config = {
    model_type: 't5',
    vocab_size: sizes.vocabSize,
    d_model: 10,
    d_kv: 7,
    d_ff: sizes.intermediateSize,
    num_layers: sizes.layers,
    num_heads: 2,
    relative_attention_num_buckets: 8,
    relative_attention_max_distance: 20,
    layer_norm_epsilon: sizes.layerNormEps,
    feed_forward_proj: feedForward,
  };
  const shape: TextEncoderShape = {
    ...sizes,
    width: 10,
    heads: 2,
    headSize: 7,
    buckets: 8,
    maxDistance: 20,
    activation: gated ? 'gelu_tanh' : 'relu',
    gated,
  };
  const reference = (w: Weights, ids: readonly number[], mask?: readonly number[]) =>
    t5Reference(shape, w, ids, mask);
  return { shape, config, shapes: t5Shapes(shape), reference };
}

/** An AutoencoderKL of three levels, so that sides shrink to a quarter; channels change on the way. */
export const AUTOENCODER = {
  _class_name: 'AutoencoderKL',
  in_channels: 3,
  out_channels: 3,
  latent_channels: 2,
  block_out_channels: [4, 4, 8],
  layers_per_block: 1,
  norm_num_groups: 2,
  scaling_factor: 0.5,
  act_fn: 'silu',
  down_block_types: Array(3).fill('DownEncoderBlock2D'),
  up_block_types: Array(3).fill('UpDecoderBlock2D'),
};
export type TensorSet = Record<string, TensorData>;

export function drawn(shapes: Record<string, number[]>): { weights: Weights; tensors: TensorSet } {
  const weights = drawWeights(shapes);
  return { weights, tensors: tensorsOf(weights, shapes) };
}

export function tensorsOf(weights: Weights, shapes: Record<string, number[]>): TensorSet {
  return Object.fromEntries(
    Object.entries(weights).map(([name, data]) => [name, { dtype: 'f32', shape: shapes[name]!, data }]),
  );
}

/** A folder with this config and, where given, these tensors. */
export async function modelFolder(
  config: unknown,
  tensors?: TensorSet,
  file = 'model.safetensors',
): Promise<string> {
  const folder = await temporaryFolder();
  await writeFile(join(folder, 'config.json'), JSON.stringify(config));
  if (tensors) await native.writeSafetensors(join(folder, file), tensors, { format: 'pt' });
  return folder;
}

const ENCODERS = { clip: clipKind, bert: bertKind, t5: () => t5Kind('gated-gelu') };

/** The folder of a text encoder with its tokenizer: states of width 12, of T5 10. */
export async function encoderFolder(kind: keyof typeof ENCODERS): Promise<string> {
  const { config, shapes } = ENCODERS[kind]();
  const folder = await modelFolder(config, drawn(shapes).tensors);
  await writeTokenizer(folder, kind);
  return folder;
}

export async function autoencoderFolder(changes: Partial<typeof AUTOENCODER> = {}): Promise<string> {
  const config = { ...AUTOENCODER, ...changes };
  const { tensors } = drawn(autoencoderShapes(autoencoderShape(config)));
  return modelFolder(config, tensors, 'diffusion_pytorch_model.safetensors');
}
