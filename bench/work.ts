// How much arithmetic one FedDAT step is, counted from its shapes: the floor below which no program can go at a given
// rate of matrix products. Only products count (a multiplication and an addition are two FLOP); norms, softmax, gelu and
// the optimizer are left out, so time spent on them shows as distance from the floor.
//
// B pictures with questions; T = L + 1 + P tokens each (text, class token, patches); D wide, F in the feed-forward, N
// layers, r in the bottleneck of an adapter, C answers. A product of R rows, K inputs, O outputs: 2 R K O.
//
//   layer, forward    2T(4 D D + 2 D F) + 4 T T D      projections and feed-forward; scores and context
//   layer, backward   2T(4 D D + 2 D F) + 8 T T D      gradients of the data alone: the weights are frozen
//   adapter u         4 T D r                          down and up, for one bottleneck
//
// `merged`, the schedule of this package: the gated stream (teacher and pass 3 in one) and the stream of adapter_1 share
// everything before the first adapter, which is the embedding and the first layer; they go on as two streams; the last
// layer needs keys and values of every token and all else of the pooled token only; backward ends at the first adapter.
// `published`: three whole forwards and two backwards, in which the last layer is computed for every token. This count
// equals what PyTorch's `FlopCounterMode` counts in the peer.

export interface ModelSize {
  vocabulary: number;
  imageSize: number;
  patchSize: number;
  channels: number;
  width: number;
  heads: number;
  intermediate: number;
  layers: number;
  /** Width of an adapter's bottleneck is the model's width divided by this. */
  reduction: number;
}

export interface StepShape extends ModelSize {
  batch: number;
  textTokens: number;
  answers: number;
}

export type PassOrder = 'merged' | 'published';

export interface StepWork {
  /** FLOP of the parts, for the whole batch. */
  parts: Record<string, number>;
  total: number;
  /** One forward of all layers and the patch projection over the batch, without adapters and head. */
  forward: number;
  /** The matrix products that the frozen layers consist of, with their share of the whole. */
  products: { m: number; n: number; k: number; share: number }[];
}

export const modelSizes: Record<'b32' | 'tiny', ModelSize> = {
  b32: {
    vocabulary: 30522,
    imageSize: 384,
    patchSize: 32,
    channels: 3,
    width: 768,
    heads: 12,
    intermediate: 3072,
    layers: 12,
    reduction: 16,
  },
  tiny: {
    vocabulary: 200,
    imageSize: 96,
    patchSize: 16,
    channels: 3,
    width: 64,
    heads: 4,
    intermediate: 128,
    layers: 3,
    reduction: 4,
  },
};

export function tokensPerSample(s: StepShape): number {
  return s.textTokens + 1 + (s.imageSize / s.patchSize) ** 2;
}

const product = (rows: number, inputs: number, outputs: number): number => 2 * rows * inputs * outputs;

export function workOfStep(s: StepShape, order: PassOrder): StepWork {
  const T = tokensPerSample(s);
  const { width: D, intermediate: F, layers: N, answers: C } = s;
  const r = D / s.reduction;
  const patches = product((s.imageSize / s.patchSize) ** 2, s.channels * s.patchSize ** 2, D);
  const square = product(T, D, D);
  const wide = product(T, D, F);
  const forward = 4 * square + 2 * wide + 4 * T * T * D;
  const backward = 4 * square + 2 * wide + 8 * T * T * D;
  const pooledOnly = 2 * product(1, D, D) + 2 * product(1, D, F);
  const lastForward = 2 * square + 4 * T * D + pooledOnly;
  const lastBackward = 2 * square + 8 * T * D + pooledOnly;
  const unit = 2 * product(T, D, r);
  const pooledUnit = 2 * product(1, D, r);
  const pooler = product(1, D, D);
  const head = product(1, D, 2 * D) + product(1, 2 * D, C);

  // Adapters. Forward: two bottlenecks gated, one single. Backward: the gradients of the weights of the two that are
  // trained, and of the data through all three; no gradient leaves the first layer, where the frozen one needs none.
  const parts: Record<string, number> =
    order === 'merged'
      ? {
          'embedding and first layer, once': patches + forward,
          'middle layers, forward, gated and with adapter 1': 2 * (N - 2) * forward,
          'middle layers, backward of both': 2 * (N - 2) * backward,
          'last layer, forward and backward': 2 * (lastForward + lastBackward),
          adapters: (3 + 3) * unit + (N - 2) * (3 + 5) * unit + (3 + 5) * pooledUnit,
          'pooler and head': 4 * pooler + 3 * head + 4 * head,
        }
      : {
          'embedding, three times': 3 * patches,
          'layers, three forwards': 3 * N * forward,
          'layers, two backwards': 2 * (N - 1) * backward,
          adapters: (5 + 3) * unit + (N - 1) * (5 + 5) * unit,
          'pooler and head': 5 * pooler + 3 * head + 4 * head,
        };
  for (const name of Object.keys(parts)) parts[name] = parts[name]! * s.batch;
  const m = 2 * s.batch * T;
  const linear = 4 * square + 2 * wide;
  return {
    parts,
    total: Object.values(parts).reduce((sum, part) => sum + part, 0),
    forward: s.batch * (patches + N * forward),
    products: [
      { m, n: D, k: D, share: (4 * square) / linear },
      { m, n: F, k: D, share: wide / linear },
      { m, n: D, k: F, share: wide / linear },
    ],
  };
}

/** The rate of a mix of products with the given shares and rates: total work over total time. */
export function mixedRate(rates: readonly { share: number; gflops: number }[]): number {
  return 1 / rates.reduce((time, { share, gflops }) => time + share / gflops, 0);
}
