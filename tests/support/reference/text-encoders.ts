// CLIP's text model, BERT and T5's encoder in double precision, text by text, from the formulas of their papers; and random
// weights for them under the published names.

import type { TextEncoderShape } from '../../../src/native/stickers.js';
import { attention } from './attention.js';
import { activate, layerNorm, linear, plus } from './layers.js';
import { f32, type Numbers, normals, sizeOf } from './numbers.js';

export type Weights = Record<string, Float32Array>;
type Shapes = Record<string, number[]>;

function block(shapes: Shapes, name: string, out: number, inputs: number, biased = true): void {
  shapes[`${name}.weight`] = [out, inputs];
  if (biased) shapes[`${name}.bias`] = [out];
}

function norm(shapes: Shapes, name: string, width: number): void {
  shapes[`${name}.weight`] = [width];
  shapes[`${name}.bias`] = [width];
}

export function clipShapes(s: TextEncoderShape): Shapes {
  const shapes: Shapes = {
    'text_model.embeddings.token_embedding.weight': [s.vocabSize, s.width],
    'text_model.embeddings.position_embedding.weight': [s.maxPositions!, s.width],
  };
  for (let i = 0; i < s.layers; i++) {
    const layer = `text_model.encoder.layers.${i}.`;
    for (const part of ['q_proj', 'k_proj', 'v_proj', 'out_proj'])
      block(shapes, `${layer}self_attn.${part}`, s.width, s.width);
    norm(shapes, `${layer}layer_norm1`, s.width);
    norm(shapes, `${layer}layer_norm2`, s.width);
    block(shapes, `${layer}mlp.fc1`, s.intermediateSize, s.width);
    block(shapes, `${layer}mlp.fc2`, s.width, s.intermediateSize);
  }
  norm(shapes, 'text_model.final_layer_norm', s.width);
  return shapes;
}

export function bertShapes(s: TextEncoderShape): Shapes {
  const shapes: Shapes = {
    'embeddings.word_embeddings.weight': [s.vocabSize, s.width],
    'embeddings.position_embeddings.weight': [s.maxPositions!, s.width],
    'embeddings.token_type_embeddings.weight': [s.typeVocabSize!, s.width],
  };
  norm(shapes, 'embeddings.LayerNorm', s.width);
  for (let i = 0; i < s.layers; i++) {
    const layer = `encoder.layer.${i}.`;
    for (const part of ['self.query', 'self.key', 'self.value', 'output.dense'])
      block(shapes, `${layer}attention.${part}`, s.width, s.width);
    norm(shapes, `${layer}attention.output.LayerNorm`, s.width);
    block(shapes, `${layer}intermediate.dense`, s.intermediateSize, s.width);
    block(shapes, `${layer}output.dense`, s.width, s.intermediateSize);
    norm(shapes, `${layer}output.LayerNorm`, s.width);
  }
  return shapes;
}

export function t5Shapes(s: TextEncoderShape): Shapes {
  const inner = s.heads * s.headSize!;
  const shapes: Shapes = {
    'shared.weight': [s.vocabSize, s.width],
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight': [s.buckets!, s.heads],
    'encoder.final_layer_norm.weight': [s.width],
  };
  for (let i = 0; i < s.layers; i++) {
    const layer = `encoder.block.${i}.layer.`;
    for (const part of ['q', 'k', 'v'])
      block(shapes, `${layer}0.SelfAttention.${part}`, inner, s.width, false);
    block(shapes, `${layer}0.SelfAttention.o`, s.width, inner, false);
    shapes[`${layer}0.layer_norm.weight`] = [s.width];
    shapes[`${layer}1.layer_norm.weight`] = [s.width];
    for (const part of s.gated ? ['wi_0', 'wi_1'] : ['wi'])
      block(shapes, `${layer}1.DenseReluDense.${part}`, s.intermediateSize, s.width, false);
    block(shapes, `${layer}1.DenseReluDense.wo`, s.width, s.intermediateSize, false);
  }
  return shapes;
}

/** Matrices that keep the size of what goes through them, norms around 1, biases around 0. */
export function drawWeights(shapes: Shapes): Weights {
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape], seed) => {
      if (shape.length > 1) {
        const fanIn = /embedding|shared/.test(name) ? 1 : sizeOf(shape.slice(1));
        return [name, f32(shape, seed + 1, 0.9 / Math.sqrt(fanIn)).data as Float32Array];
      }
      const isNorm = /norm.*weight/i.test(name);
      return [name, normals(shape[0]!, seed + 1, 0.2, isNorm ? 1 : 0)];
    }),
  );
}

export interface Encoded {
  last: Float64Array;
  hidden: Float64Array[];
  pooled?: Float64Array;
}

const rowsAt = (table: Numbers, width: number, ids: readonly number[]): Float64Array =>
  Float64Array.from(
    { length: ids.length * width },
    (_, i) => table[ids[Math.floor(i / width)]! * width + (i % width)]!,
  );

/** Self attention of one text; `name` gives the three projections. */
function attend(
  w: Weights,
  names: string[],
  x: Float64Array,
  width: number,
  heads: number,
  more: { causal?: boolean; scale?: number; bias?: Numbers; keyMask?: Numbers },
): Float64Array {
  const [q, k, v] = names.map((name) => linear(x, w[`${name}.weight`]!, width, w[`${name}.bias`])) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const rows = x.length / width;
  return attention({ q, k, v, width: q.length / rows, heads, spans: [[0, rows, 0, rows]], ...more });
}

const dense = (w: Weights, name: string, x: Numbers, inputs: number) =>
  linear(x, w[`${name}.weight`]!, inputs, w[`${name}.bias`]);
const normed = (w: Weights, name: string, x: Numbers, epsilon: number) =>
  layerNorm(x, w[`${name}.weight`]!, w[`${name}.bias`]!, epsilon);

export function clipReference(s: TextEncoderShape, w: Weights, ids: readonly number[]): Encoded {
  const base = 'text_model.';
  let x = plus(
    rowsAt(w[`${base}embeddings.token_embedding.weight`]!, s.width, ids),
    w[`${base}embeddings.position_embedding.weight`]!,
  );
  const hidden = [x];
  for (let i = 0; i < s.layers; i++) {
    const layer = `${base}encoder.layers.${i}.`;
    const names = ['q', 'k', 'v'].map((part) => `${layer}self_attn.${part}_proj`);
    const a = attend(w, names, normed(w, `${layer}layer_norm1`, x, s.layerNormEps), s.width, s.heads, {
      causal: true,
    });
    x = plus(x, dense(w, `${layer}self_attn.out_proj`, a, s.width));
    const up = dense(w, `${layer}mlp.fc1`, normed(w, `${layer}layer_norm2`, x, s.layerNormEps), s.width);
    x = plus(x, dense(w, `${layer}mlp.fc2`, activate(up, s.activation), s.intermediateSize));
    hidden.push(x);
  }
  const last = normed(w, `${base}final_layer_norm`, x, s.layerNormEps);
  const end = s.eosTokenId === 2 ? ids.indexOf(Math.max(...ids)) : Math.max(0, ids.indexOf(s.eosTokenId!));
  return { last, hidden, pooled: last.slice(end * s.width, (end + 1) * s.width) };
}

export function bertReference(
  s: TextEncoderShape,
  w: Weights,
  ids: readonly number[],
  keyMask?: Numbers,
): Encoded {
  const types = rowsAt(
    w['embeddings.token_type_embeddings.weight']!,
    s.width,
    ids.map(() => 0),
  );
  const words = rowsAt(w['embeddings.word_embeddings.weight']!, s.width, ids);
  let x = plus(plus(words, w['embeddings.position_embeddings.weight']!), types);
  x = normed(w, 'embeddings.LayerNorm', x, s.layerNormEps);
  const hidden = [x];
  for (let i = 0; i < s.layers; i++) {
    const layer = `encoder.layer.${i}.`;
    const names = ['query', 'key', 'value'].map((part) => `${layer}attention.self.${part}`);
    const a = attend(w, names, x, s.width, s.heads, keyMask ? { keyMask } : {});
    const mixed = plus(x, dense(w, `${layer}attention.output.dense`, a, s.width));
    x = normed(w, `${layer}attention.output.LayerNorm`, mixed, s.layerNormEps);
    const up = activate(dense(w, `${layer}intermediate.dense`, x, s.width), s.activation);
    const fed = plus(x, dense(w, `${layer}output.dense`, up, s.intermediateSize));
    x = normed(w, `${layer}output.LayerNorm`, fed, s.layerNormEps);
    hidden.push(x);
  }
  return { last: x, hidden };
}

/** Half of the buckets for keys behind the query; of the rest the small distances exactly, then logarithmically. */
export function bucketOf(relative: number, buckets: number, maxDistance: number): number {
  const half = buckets / 2;
  const exact = half / 2;
  const d = Math.abs(relative);
  const far =
    exact + Math.floor((Math.log(d / exact) / Math.log(maxDistance / exact)) * (half - exact) + 1e-9);
  return (relative > 0 ? half : 0) + (d < exact ? d : Math.min(far, half - 1));
}

export function t5Reference(
  s: TextEncoderShape,
  w: Weights,
  ids: readonly number[],
  keyMask?: Numbers,
): Encoded {
  const rms = (name: string, x: Float64Array) =>
    x.map((value, i) => {
      const row = x.subarray(i - (i % s.width), i - (i % s.width) + s.width);
      const square = row.reduce((sum, v) => sum + v * v, 0) / s.width;
      return (value / Math.sqrt(square + s.layerNormEps)) * w[`${name}.weight`]![i % s.width]!;
    });
  const length = ids.length;
  const table = w['encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight']!;
  const bias = Float64Array.from({ length: s.heads * length * length }, (_, i) => {
    const [head, query, key] = [Math.floor(i / length ** 2), Math.floor(i / length) % length, i % length];
    return table[bucketOf(key - query, s.buckets!, s.maxDistance!) * s.heads + head]!;
  });
  let x: Float64Array = rowsAt(w['shared.weight']!, s.width, ids);
  const hidden = [x];
  for (let i = 0; i < s.layers; i++) {
    const layer = `encoder.block.${i}.layer.`;
    const names = ['q', 'k', 'v'].map((part) => `${layer}0.SelfAttention.${part}`);
    const a = attend(w, names, rms(`${layer}0.layer_norm`, x), s.width, s.heads, {
      bias,
      scale: 1,
      ...(keyMask ? { keyMask } : {}),
    });
    x = plus(x, dense(w, `${layer}0.SelfAttention.o`, a, s.heads * s.headSize!));
    const y = rms(`${layer}1.layer_norm`, x);
    const feed = `${layer}1.DenseReluDense.`;
    let up: Float64Array = activate(dense(w, `${feed}${s.gated ? 'wi_0' : 'wi'}`, y, s.width), s.activation);
    if (s.gated) {
      const gate = dense(w, `${feed}wi_1`, y, s.width);
      up = up.map((value, j) => value * gate[j]!);
    }
    x = plus(x, dense(w, `${feed}wo`, up, s.intermediateSize));
    hidden.push(x);
  }
  return { last: rms('encoder.final_layer_norm', x), hidden };
}
