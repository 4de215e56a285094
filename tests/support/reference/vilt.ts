// ViLT's forward pass in plain double precision, as published (Hugging Face's ViltModel, FedDAT's adapters after every
// feed-forward block, FedDAT's head): every padded token is computed, one sample at a time, nothing is fused or skipped.

import type { AdapterMode, ViltBatch, ViltShape } from '../../../src/native/federated.js';
import { attention } from './attention.js';
import { type AdapterWeights, activate, layerNorm, linear, meanOfAdapters, plus } from './layers.js';
import type { Numbers } from './numbers.js';

export type Parameters = Record<string, Float64Array>;

export interface SampleStates {
  /** Embedding output, then every layer's output: tokens x hidden. */
  hidden: Float64Array[];
  /** After the final norm. */
  last: Float64Array;
  pooled: Float64Array;
  /** One a token, 0 for padding. */
  mask: number[];
  /** Row and column of every patch, in order. */
  patches: [number, number][];
}

const ADAPTERS: Record<AdapterMode, number[]> = { none: [], adapter_0: [0], adapter_1: [1], gated: [0, 2] };

class Grid {
  readonly rows: number;
  readonly columns: number;
  readonly filledRows: number;
  readonly filledColumns: number;
  readonly valid: [number, number][] = [];
  readonly hidden: [number, number][] = [];

  /** Nearest-neighbour down-sampling of the pixel mask: cell (i, j) reads pixel (floor(i H / rows), floor(j W / columns)). */
  constructor(shape: ViltShape, batch: ViltBatch, sample: number) {
    const { height, width, pixelMask } = batch;
    this.rows = Math.floor(height / shape.patchSize);
    this.columns = Math.floor(width / shape.patchSize);
    for (let i = 0; i < this.rows; i++) {
      for (let j = 0; j < this.columns; j++) {
        const [y, x] = [Math.floor((i * height) / this.rows), Math.floor((j * width) / this.columns)];
        (pixelMask[(sample * height + y) * width + x] ? this.valid : this.hidden).push([i, j]);
      }
    }
    this.filledRows = this.valid.filter(([, j]) => j === 0).length;
    this.filledColumns = this.valid.filter(([i]) => i === 0).length;
  }
}

/** The position table, a g x g map behind its class row, resized to the filled region (aligned corners); 0 outside. */
function patchPosition(
  shape: ViltShape,
  table: Numbers,
  grid: Grid,
  row: number,
  column: number,
): Float64Array {
  const d = shape.hiddenSize;
  const g = shape.imageSize / shape.patchSize;
  const y = new Float64Array(d);
  if (row >= grid.filledRows || column >= grid.filledColumns) return y;
  const axis = (index: number, count: number): [number, number][] => {
    const source = count > 1 ? (index * (g - 1)) / (count - 1) : 0;
    const low = Math.min(Math.floor(source), g - 1);
    return [
      [low, 1 - (source - low)],
      [Math.min(low + 1, g - 1), source - low],
    ];
  };
  for (const [i, a] of axis(row, grid.filledRows))
    for (const [j, b] of axis(column, grid.filledColumns))
      for (let k = 0; k < d; k++) y[k]! += a * b * table[(1 + i * g + j) * d + k]!;
  return y;
}

function embedSample(
  shape: ViltShape,
  p: Parameters,
  batch: ViltBatch,
  sample: number,
  patches: [number, number][],
  grid: Grid,
) {
  const d = shape.hiddenSize;
  const { textLength, height, width, pixelValues } = batch;
  const row = (table: string, index: number) => p[table]!.subarray(index * d, (index + 1) * d);
  const text = 'embeddings.text_embeddings.';
  const tokens: Float64Array[] = [];
  for (let t = 0; t < textLength; t++) {
    const at = sample * textLength + t;
    const sum = plus(
      plus(
        row(`${text}word_embeddings.weight`, batch.inputIds[at]!),
        row(`${text}position_embeddings.weight`, t),
      ),
      row(`${text}token_type_embeddings.weight`, batch.tokenTypeIds[at]!),
    );
    const normed = layerNorm(
      sum,
      p[`${text}LayerNorm.weight`]!,
      p[`${text}LayerNorm.bias`]!,
      shape.layerNormEps,
    );
    tokens.push(plus(normed, row('embeddings.token_type_embeddings.weight', 0)));
  }
  const positions = p['embeddings.position_embeddings']!;
  const modality = row('embeddings.token_type_embeddings.weight', 1);
  tokens.push(plus(plus(p['embeddings.cls_token']!, positions.subarray(0, d)), modality));
  const size = shape.patchSize;
  for (const [i, j] of patches) {
    const pixels: number[] = [];
    for (let c = 0; c < shape.channels; c++)
      for (let y = i * size; y < (i + 1) * size; y++)
        for (let x = j * size; x < (j + 1) * size; x++)
          pixels.push(pixelValues[((sample * shape.channels + c) * height + y) * width + x]!);
    const projection = 'embeddings.patch_embeddings.projection.';
    const patch = linear(pixels, p[`${projection}weight`]!, pixels.length, p[`${projection}bias`]);
    tokens.push(plus(plus(patch, patchPosition(shape, positions, grid, i, j)), modality));
  }
  return Float64Array.from(tokens.flatMap((token) => [...token]));
}

function adapterWeights(p: Parameters, layer: number, adapter: number): AdapterWeights {
  const name = `encoder.layer.${layer}.output.adapter.adapter_${adapter}`;
  return {
    down: p[`${name}_down.weight`]!,
    downBias: p[`${name}_down.bias`]!,
    up: p[`${name}_up.weight`]!,
    upBias: p[`${name}_up.bias`]!,
  };
}

function block(
  shape: ViltShape,
  p: Parameters,
  i: number,
  x: Float64Array,
  mask: number[],
  mode: AdapterMode,
) {
  const d = shape.hiddenSize;
  const l = `encoder.layer.${i}.`;
  const dense = (name: string, input: Numbers, inputs: number) =>
    linear(input, p[`${l}${name}.weight`]!, inputs, p[`${l}${name}.bias`]);
  const norm = (name: string, input: Numbers) =>
    layerNorm(input, p[`${l}${name}.weight`]!, p[`${l}${name}.bias`]!, shape.layerNormEps);
  const before = norm('layernorm_before', x);
  const tokens = mask.length;
  const attended = attention({
    q: dense('attention.attention.query', before, d),
    k: dense('attention.attention.key', before, d),
    v: dense('attention.attention.value', before, d),
    width: d,
    heads: shape.heads,
    spans: [[0, tokens, 0, tokens]],
    keyMask: mask,
  });
  const h = plus(dense('attention.output.dense', attended, d), x);
  const wide = activate(dense('intermediate.dense', norm('layernorm_after', h), d), 'gelu');
  const y = plus(dense('output.dense', wide, shape.intermediateSize), h);
  const adapters = ADAPTERS[mode].map((adapter) => adapterWeights(p, i, adapter));
  return adapters.length > 0 ? meanOfAdapters(y, y, adapters) : y;
}

/** Every sample of a batch through the encoder. */
export function vilt(shape: ViltShape, p: Parameters, batch: ViltBatch, mode: AdapterMode): SampleStates[] {
  const grids = Array.from({ length: batch.batch }, (_, sample) => new Grid(shape, batch, sample));
  const most = Math.max(...grids.map((grid) => grid.valid.length));
  return grids.map((grid, sample) => {
    const extra = grid.hidden.slice(0, most - grid.valid.length);
    const patches = [...grid.valid, ...extra];
    const text = batch.attentionMask.subarray(sample * batch.textLength, (sample + 1) * batch.textLength);
    const mask = [...text, 1, ...grid.valid.map(() => 1), ...extra.map(() => 0)];
    const hidden: Float64Array[] = [embedSample(shape, p, batch, sample, patches, grid)];
    for (let i = 0; i < shape.layers; i++) hidden.push(block(shape, p, i, hidden[i]!, mask, mode));
    const last = layerNorm(hidden.at(-1)!, p['layernorm.weight']!, p['layernorm.bias']!, shape.layerNormEps);
    const first = last.subarray(0, shape.hiddenSize);
    const pooled = activate(
      linear(first, p['pooler.dense.weight']!, shape.hiddenSize, p['pooler.dense.bias']),
      'tanh',
    );
    return { hidden, last, pooled, mask, patches };
  });
}

/** FedDAT's head: dense to twice the width, layer norm, gelu, dense to the classes. */
export function head(p: Parameters, task: string, pooled: Numbers, width: number): Float64Array {
  const name = `task_layer.${task}.`;
  const first = linear(pooled, p[`${name}clf_fc0.weight`]!, width, p[`${name}clf_fc0.bias`]);
  const normed = layerNorm(first, p[`${name}clf_norm0.weight`]!, p[`${name}clf_norm0.bias`]!, 1e-5);
  return linear(activate(normed, 'gelu'), p[`${name}clf_fc1.weight`]!, 2 * width, p[`${name}clf_fc1.bias`]);
}

/** Logits of a batch, samples one after the other. */
export function logitsOf(
  shape: ViltShape,
  p: Parameters,
  batch: ViltBatch,
  task: string,
  mode: AdapterMode,
): Float64Array {
  return Float64Array.from(
    vilt(shape, p, batch, mode).flatMap(({ pooled }) => [...head(p, task, pooled, shape.hiddenSize)]),
  );
}
