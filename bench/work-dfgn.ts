// The work of one training step or one generated clip of the frame generation network (DFGN), counted from its shapes: 2
// FLOP per multiplication and addition of the matrix products, convolutions and attention products. Norms, softmax, SiLU,
// the optimizer and resampling are left out, so time spent on them shows as distance from the floor.
//
// A product of R rows, K inputs, O outputs: 2 R K O; a 3x3 convolution is one with K = 9 times the channels. Attention of Q
// queries and K keys over heads of together D columns: 4 Q K D. Backward costs a product twice its forward (gradients of the
// data and of the weights; only the latter where nothing before it is trained) and attention four products for two (five
// where scores are computed again, as PyTorch's kernel does and its counter counts).
//
// `published`: text states, time embedding and their projections are repeated for every frame; guidance runs the whole network
// for both texts in every step. It equals what PyTorch's `FlopCounterMode` counts in the peer.
// `ours`: projections of time and keys and values of the text once a clip; sampling: keys and values of the text and the
// T5 projection once per generation, and one pass for both texts up to the first cross attention; a block's last layer and
// a narrower projection behind it as one. Convolutions count as they are written, however few products they take.

export interface ClipShape {
  clips: number;
  height: number;
  width: number;
  textTokens: number;
  t5Tokens: number;
  // As in the network's config.json:
  in_channels: number;
  num_frames: number;
  block_out_channels: number[];
  layers_per_block: number;
  norm_num_groups: number;
  attention_head_dim: number;
  cross_attention_dim: number;
  t5_dim: number;
}

const latents = { in_channels: 4, num_frames: 8, layers_per_block: 2, height: 16, width: 16 };

export const clipSizes = {
  small: {
    ...latents,
    ...{ block_out_channels: [64, 128, 192, 256], norm_num_groups: 32, attention_head_dim: 32 },
    ...{ cross_attention_dim: 256, t5_dim: 256, textTokens: 32, t5Tokens: 32, clips: 2 },
  },
  full: {
    ...latents,
    ...{ block_out_channels: [320, 640, 1024, 1280], norm_num_groups: 32, attention_head_dim: 64 },
    ...{ cross_attention_dim: 1024, t5_dim: 768, textTokens: 77, t5Tokens: 77, clips: 1 },
  },
  tiny: {
    ...latents,
    ...{ block_out_channels: [8, 16, 24, 32], norm_num_groups: 4, attention_head_dim: 8 },
    ...{ cross_attention_dim: 32, t5_dim: 24, textTokens: 6, t5Tokens: 5, clips: 2 },
  },
} satisfies Record<string, ClipShape>;

export type WorkOrder = 'published' | 'ours';

export interface ClipWork {
  /** FLOP of the kinds of layers. */
  parts: Record<string, number>;
  total: number;
  /** The products that make up most of it, with their share of those. */
  products: { m: number; n: number; k: number; share: number }[];
}

/** Where gradients go: to the data and the weights, to the weights alone, nowhere. */
type Backward = 'both' | 'weights' | 'none';

/** How often and by whom a layer's work is done. */
interface Repeats {
  times: number;
  backward: Backward;
}

class Counter {
  readonly parts: Record<string, number> = {};
  readonly #shapes = new Map<string, { m: number; n: number; k: number; flop: number }>();

  constructor(readonly order: WorkOrder) {}

  product(part: string, m: number, k: number, n: number, { times, backward }: Repeats): void {
    const factor = { both: 3, weights: 2, none: 1 }[backward];
    const flop = 2 * m * k * n * times * factor;
    this.parts[part] = (this.parts[part] ?? 0) + flop;
    const shape = `${m} ${n} ${k}`;
    const known = this.#shapes.get(shape);
    this.#shapes.set(shape, { m, n, k, flop: flop + (known?.flop ?? 0) });
  }

  /** `sequences` times attention of `queries` queries with `keys` keys. */
  attention(
    part: string,
    shape: [sequences: number, queries: number, keys: number, columns: number],
    { times, backward }: Repeats,
  ): void {
    const product = 2 * shape.reduce((a, b) => a * b, 1) * times;
    const products = 2 + (backward === 'none' ? 0 : this.order === 'published' ? 5 : 4);
    this.parts[part] = (this.parts[part] ?? 0) + products * product;
  }

  work(): ClipWork {
    const largest = [...this.#shapes.values()].sort((a, b) => b.flop - a.flop).slice(0, 12);
    const sum = largest.reduce((total, { flop }) => total + flop, 0);
    return {
      parts: this.parts,
      total: Object.values(this.parts).reduce((total, part) => total + part, 0),
      products: largest.map(({ m, n, k, flop }) => ({ m, n, k, share: flop / sum })),
    };
  }
}

interface Level {
  height: number;
  width: number;
}

/** A walk through the network; `sampling` has the two texts of guidance and no backward. */
export function workOfClip(s: ClipShape, order: WorkOrder, sampling?: { steps: number }): ClipWork {
  const counter = new Counter(order);
  const ours = order === 'ours';
  const frames = s.num_frames;
  const steps = sampling?.steps ?? 1;
  const backward: Backward = sampling ? 'none' : 'both';
  const weightsOnly: Backward = sampling ? 'none' : 'weights';
  /** Copies of a clip that are in the network: with guidance two, in our order from the first text on. */
  let clips = sampling && !ours ? 2 * s.clips : s.clips;
  const texts = sampling ? 2 * s.clips : s.clips;
  const every = (kind: Backward = backward): Repeats => ({ times: steps, backward: kind });
  /** What depends on the text alone. */
  const perText = (kind: Backward): Repeats => ({ times: sampling && ours ? 1 : steps, backward: kind });
  const timeWidth = 4 * s.block_out_channels[0]!;
  const textRows = (ours ? texts : texts * frames) * (s.textTokens + s.t5Tokens);

  const linear = (part: string, at: Level, k: number, n: number): void =>
    counter.product(part, clips * frames * at.height * at.width, k, n, every());
  const convolution = (part: string, at: Level, k: number, n: number, taps = 9): void =>
    linear(part, at, taps * k, n);

  const residual = (at: Level, k: number, n: number): void => {
    const part = 'residual blocks';
    convolution(part, at, k, n);
    convolution(part, at, n, n);
    if (k !== n) convolution(part, at, k, n, 1);
    // The time is the same for both texts.
    counter.product(part, ours ? s.clips : clips * frames, timeWidth, n, every());
  };
  const interaction = (at: Level, c: number): void => {
    const part = 'interaction layers';
    const half = { height: Math.floor(at.height / 2), width: Math.floor(at.width / 2) };
    const tokens = frames * half.height * half.width;
    for (let i = 0; i < 4; i++) linear(part, half, i < 3 ? c : 256, i < 3 ? 256 : c);
    counter.attention(part, [clips, tokens, tokens, 256], every());
    // Four convolutions over pictures whose channels are the frames.
    const pictures = clips * c * at.height * at.width;
    for (let i = 0; i < 4; i++) counter.product(part, pictures, 9 * frames, frames, every());
  };
  /** And the projection out to c columns. */
  const feedForward = (part: string, at: Level, d: number, c: number): void => {
    const rows = clips * frames * at.height * at.width;
    const merges = ours && rows * (d - c) > c * d;
    linear(part, at, d, 8 * d);
    if (merges) counter.product(part, c, d, 4 * d, every());
    linear(part, at, 4 * d, merges ? c : d);
    linear(part, at, d, c);
  };
  const temporal = (at: Level, c: number, d: number): void => {
    const part = 'temporal transformers';
    linear(part, at, c, d);
    for (let i = 0; i < 8; i++) linear(part, at, d, d);
    for (let i = 0; i < 2; i++)
      counter.attention(part, [clips * at.height * at.width, frames, frames, d], every());
    feedForward(part, at, d, c);
  };
  const spatial = (at: Level, c: number): void => {
    const part = 'spatial transformers';
    const pixels = at.height * at.width;
    for (let i = 0; i < 6; i++) linear(part, at, c, c); // in, attn1, query of attn2
    counter.attention(part, [clips * frames, pixels, pixels, c], every());
    clips = texts;
    for (let i = 0; i < 2; i++) counter.product(part, textRows, s.cross_attention_dim, c, perText(backward));
    counter.attention(part, [clips * frames, pixels, s.textTokens + s.t5Tokens, c], every());
    linear(part, at, c, c); // out of attn2
    feedForward(part, at, c, c);
  };
  const transformers = (at: Level, c: number): void => {
    spatial(at, c);
    temporal(at, c, c);
  };

  // Before the U.
  const widths = s.block_out_channels;
  const first = widths[0]!;
  const outer = { height: s.height, width: s.width };
  const ends = 'embeddings and ends';
  counter.product(ends, ours ? s.clips : clips, first, timeWidth, every(weightsOnly));
  counter.product(ends, ours ? s.clips : clips, timeWidth, timeWidth, every());
  counter.product(ends, texts * s.t5Tokens, s.t5_dim, 2 * s.cross_attention_dim, perText(weightsOnly));
  counter.product(
    ends,
    texts * s.t5Tokens,
    2 * s.cross_attention_dim,
    s.cross_attention_dim,
    perText(backward),
  );
  const pixels = clips * frames * outer.height * outer.width;
  const c = s.in_channels;
  counter.product(ends, pixels, 9 * c, 16, every(weightsOnly));
  convolution(ends, outer, 16, 16);
  convolution(ends, outer, 16, c);
  for (let i = 0; i < 4; i++) linear(ends, outer, i < 3 ? c : 2 * c, i < 3 ? 2 * c : c);
  counter.attention(ends, [pixels / frames, frames, frames, 2 * c], every());
  linear(ends, outer, c, 4 * c);
  linear(ends, outer, 4 * c, c);
  convolution(ends, outer, 2 * c, first);
  temporal(outer, first, 8 * s.attention_head_dim);

  // Down, with what the way up will join.
  let at: Level = outer;
  let stream = first;
  const deepest = widths.length - 1;
  const skips: { channels: number; at: Level }[] = [{ channels: first, at }];
  const resampling = 'down- and upsampling';
  for (const [level, channels] of widths.entries()) {
    for (let i = 0; i < s.layers_per_block; i++) {
      residual(at, stream, channels);
      interaction(at, channels);
      if (level < deepest) transformers(at, channels);
      stream = channels;
      skips.push({ channels, at });
    }
    if (level === deepest) break;
    at = { height: Math.ceil(at.height / 2), width: Math.ceil(at.width / 2) };
    convolution(resampling, at, channels, channels);
    skips.push({ channels, at });
  }
  residual(at, stream, stream);
  interaction(at, stream);
  transformers(at, stream);
  residual(at, stream, stream);
  interaction(at, stream);
  for (const [level, channels] of [...widths].reverse().entries()) {
    for (let i = 0; i <= s.layers_per_block; i++) {
      residual(at, stream + skips.pop()!.channels, channels);
      interaction(at, channels);
      if (level > 0) transformers(at, channels);
      stream = channels;
    }
    if (level === deepest) break;
    at = skips.at(-1)!.at;
    convolution(resampling, at, channels, channels);
  }
  convolution(ends, at, first, c);
  return counter.work();
}
