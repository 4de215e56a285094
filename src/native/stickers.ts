/** The native networks of the sticker half: what they are given and what they give. */

import type { ComputeType, OptimizerOptions, ScheduleOptions, TensorData, Tensors } from './core.js';

/** The sizes of a frame generation network (see `DfgnConfig` for the names of config.json). */
export interface DfgnShape {
  /** Of latents (4) or pixels (3 or 4). */
  channels: number;
  /** Width of every level, the finest first. */
  blockChannels: number[];
  layersPerBlock: number;
  normGroups: number;
  /** Width of the text states that cross attention reads. */
  textWidth: number;
  /** Width of the states of a second text encoder, projected to textWidth; 0 for none. */
  t5Width: number;
  headSize: number;
  frames: number;
  /** Both branches of the spatio-temporal interaction layer, or one alone. */
  sti: 'interaction' | 'semantic' | 'detail';
  /** Hides padded frames everywhere, so that their content influences nothing. */
  maskPadding: boolean;
  /** A text encoder of the network's own, trained with it; its states have textWidth columns. */
  captionEncoder?: { vocabSize: number; maxLength: number; layers: number; heads: number };
}

/** What every pass of a frame generation network is given. */
interface DfgnBatch {
  /** Clips. */
  clips: number;
  /** Of the network's space: latents or pixels. */
  height: number;
  /** As height. */
  width: number;
  /** States or ids of one text. */
  textTokens: number;
  /** [clips * textTokens * textWidth], states of an encoder outside of the network */
  text?: Float32Array;
  /** [clips * textTokens], instead of `text`: ids for the network's own caption encoder; 0 is padding */
  tokens?: Int32Array;
  /** States of one text of the second encoder. */
  t5Tokens?: number;
  /** [clips * t5Tokens * t5Width]; needed by networks with a t5Width */
  t5?: Float32Array;
  /** [clips], 1 where zeros take the place of the text after its encoder; of predictions one for every text */
  dropText?: Uint8Array;
  /** [clips * frames], 1 on real frames; absent: all are. */
  frameMask?: Uint8Array;
}

/** Clean clips to learn from. */
export interface DenoisingBatch extends DfgnBatch {
  /** [clips, channels, frames, height, width], scaled as the network sees them. */
  latents: Float32Array;
  /** Of the latents' shape; absent: drawn from the seed and the step. */
  noise?: Float32Array;
  /** [clips]; absent: drawn. */
  timesteps?: Int32Array;
  /** [frames] or [clips * frames], 1 on frames given as a condition; absent: none. */
  infoMask?: Uint8Array;
}

/** Clips for one pass without learning. */
export interface PredictionBatch extends DfgnBatch {
  /** [clips, channels, frames, height, width] */
  noisyLatents: Float32Array;
  /** The same shape: given frames, zeros elsewhere. */
  imageLatents: Float32Array;
  /** [clips] */
  timesteps: Float32Array;
}

/** One training of a frame generation network. */
export interface DenoisingOptions {
  /** Decays every parameter, norms and biases too. */
  optimizer: OptimizerOptions;
  /** Of the learning rate; advances once an update. */
  schedule: ScheduleOptions;
  /** Default: 1000 steps, 0.00085 to 0.012, scaled linear. */
  noise?: { steps: number; betaStart: number; betaEnd: number };
  /** What the network predicts: the noise (default), the velocity, or the clip. */
  prediction?: 'epsilon' | 'velocity' | 'sample';
  /** Absent: no clipping. */
  maxGradNorm?: number;
  /** Absent: no moving average. */
  emaDecay?: number;
  /** Divide the loss by the elements of real frames instead of all (published: all). */
  lossOverKept?: boolean;
  /** Keep only every layer's inputs and compute the rest again on the way back: less memory, about a third more time. */
  checkpoint?: boolean;
  /** Of noise and timesteps. */
  seed?: number;
  /** `gradients()` returns those of the last step, before clipping. */
  keepGradients?: boolean;
  /** Steps return what went into and came out of the network. */
  keepOutputs?: boolean;
}

/** What one update or evaluation reports. */
export interface DenoisingResult {
  /** Mean over the micro-batches. */
  loss: number;
  /** Of every clip of all micro-batches. */
  clipLosses: number[];
  /** Of every clip of all micro-batches. */
  timesteps: number[];
  /** Before clipping; 0 when evaluating. */
  gradNorm: number;
  /** Of this update. */
  learningRate: number;
  /** Updates so far. */
  step: number;
  /** With `keepOutputs`, of the last micro-batch: [clips, channels, frames, height, width]. */
  prediction?: Float32Array;
  /** As `prediction`. */
  noisyLatents?: Float32Array;
  /** As `prediction`. */
  imageLatents?: Float32Array;
}

/** The largest (micro-)batch of a training and what of its options matters to its memory. */
export interface PlannedStep {
  /** Of one micro-batch. */
  clips: number;
  /** Of the network's space: latents or pixels. */
  height: number;
  /** As height. */
  width: number;
  /** States or ids of one text. */
  textTokens: number;
  /** Of networks with a t5Width. */
  t5Tokens?: number;
  /** Keep only every layer's inputs, see `DenoisingOptions`. */
  checkpoint?: boolean;
  /** Whether there is a moving average. */
  ema?: boolean;
  /** Whether several micro-batches make a step. */
  accumulate?: boolean;
}

/** Bytes that training will take, without the data and a few megabytes a thread for single kernels. */
export interface MemoryPlan {
  parameters: number;
  /** Of the weights. */
  gradients: number;
  /** Of the optimizer. */
  moments: number;
  /** Moving averages of the weights. */
  averages: number;
  /** What a step takes at most beside the gradients, which lie where activations lay before. */
  activations: number;
}

/** Which values that belong to the parameters a file holds. */
export type DfgnPart = 'weights' | 'average' | 'firstMoment' | 'secondMoment';

/** One frame generation network and its training. */
export interface NativeDfgn {
  /** Published names and shapes. */
  parameters(): { name: string; shape: number[] }[];
  /** Exactly the published names and shapes, or nothing changes. */
  load(path: string, part?: DfgnPart): Promise<void>;
  save(path: string, part?: DfgnPart): Promise<void>;
  read(names: string[]): Promise<Tensors>;
  write(values: Tensors): Promise<void>;
  startTraining(options: DenoisingOptions): Promise<void>;
  /** One update from the mean gradient of the micro-batches. Rejects with NOT_FINITE, weights unchanged. */
  step(batches: DenoisingBatch[]): Promise<DenoisingResult>;
  /** The loss of a batch, with the noise and times that step `drawStep` would draw. */
  evaluate(batch: DenoisingBatch, drawStep: number): Promise<DenoisingResult>;
  /** Of the last step with keepGradients, or of `differentiate`. */
  gradients(): Promise<Tensors>;
  /** '<param>.exp_avg', '<param>.exp_avg_sq', '<param>.ema', 'step' */
  optimizerState(): Promise<Tensors>;
  setOptimizerState(state: Tensors): Promise<void>;
  steps(): Promise<number>;
  /** For resuming after `load` of the moments: learning rate, noise and bias correction go on from here. */
  setSteps(steps: number): Promise<void>;
  /** Exchanges the weights and their moving averages. */
  swapAverages(): Promise<void>;
  /**
   * The network's output, [clips, channels, frames, height, width]. `text` (and `t5`) may hold n texts for every clip, all first
   * ones before all second ones; the output then has n * clips clips. With `guidance` n is 2 and the result is
   * e1 + guidance * (e2 - e1) for `clips` clips. Keys and values of the text are kept while the same texts come again.
   */
  predict(batch: PredictionBatch, guidance?: number): Promise<Float32Array>;
  /** The outputs of the network's modules by name. */
  trace(batch: PredictionBatch): Promise<Record<string, TensorData>>;
  /** Masked squared error against a target, and the gradients of it; nothing is updated. */
  differentiate(
    batch: PredictionBatch,
    target: Float32Array,
    checkpoint?: boolean,
  ): Promise<{ loss: number; clipLosses: number[]; output: Float32Array; inputGradients: Tensors }>;
  memory(): { parameterBytes: number; trainingBytes: number; arenaPeakBytes: number };
  /** Found by a dry run: nothing is computed and the memory is not touched. */
  memoryPlan(step: PlannedStep): Promise<MemoryPlan>;
  /** Every call of this network that has not settled rejects with CANCELLED; a running step stops between ops. */
  cancel(): void;
  dispose(): void;
}

/** The sizes of a frozen text encoder; see `models/text-encoder-config` for the names of its config.json. */
export interface TextEncoderShape {
  vocabSize: number;
  /** Of the states. */
  width: number;
  intermediateSize: number;
  layers: number;
  heads: number;
  layerNormEps: number;
  /** `quick_gelu` is x * sigmoid(1.702 x), `gelu_tanh` the tanh approximation. */
  activation: 'gelu' | 'quick_gelu' | 'gelu_tanh' | 'relu';
  /** clip, bert */
  maxPositions?: number;
  /** clip: the pooled vector is the state of the first such token; 2 means the largest id */
  eosTokenId?: number;
  /** bert */
  typeVocabSize?: number;
  /** t5: width of one head */
  headSize?: number;
  /** t5: buckets of relative positions, and the distance from which all share the last one */
  buckets?: number;
  maxDistance?: number;
  /** t5: v1.1's act(W0 x) * W1 x in place of act(W x) */
  gated?: boolean;
}

/** B texts of `length` token ids each. Every position is computed, padded or not. */
export interface TokenBatch {
  /** Texts. */
  batch: number;
  /** Tokens of each. */
  length: number;
  /** [B * length] */
  inputIds: Int32Array;
  /** [B * length], 0 hides a token as a key; left out: every token sees every other (clip: those before it) */
  attentionMask?: Uint8Array;
}

/** What a text encoder gives for B texts. */
export interface TextStates {
  /** [B, length, width] */
  lastHiddenState: TensorData;
  /** [B, width]; clip alone */
  poolerOutput?: TensorData;
  /** With `everything`: the embeddings, then the output of every layer before the final norm. */
  hiddenStates?: TensorData[];
  /** With `everything`: [heads, length, length]; t5 alone */
  positionBias?: TensorData;
}

/** What the frozen networks share. Weights are loaded before anything else; several files are one model in parts. */
export interface NativeFrozenModel {
  load(paths: string[]): Promise<void>;
  memory(): { parameterBytes: number; arenaPeakBytes: number };
  /** Every call of this model that has not settled rejects with CANCELLED. */
  cancel(): void;
  dispose(): void;
}

export interface NativeTextEncoder extends NativeFrozenModel {
  encode(batch: TokenBatch, everything?: boolean): Promise<TextStates>;
}

/** The sizes of a frozen autoencoder; see `models/autoencoder` for the names of its config.json. */
export interface AutoencoderShape {
  inChannels: number;
  outChannels: number;
  latentChannels: number;
  /** Of the levels, from the picture down; every level but the last halves the sides. */
  channels: number[];
  layersPerBlock: number;
  /** Of the group norms. */
  groups: number;
  scalingFactor: number;
}

/** How many pictures of what size: `clips * frames` pictures of `height * width` pixels. */
export interface PictureGrid {
  clips: number;
  frames: number;
  height: number;
  width: number;
}

/**
 * Pictures are [clips * frames, channels, height, width] in -1 .. 1, latents [clips, channels, frames, h, w]; `grid` is always that
 * of the pictures.
 */
export interface NativeAutoencoderKl extends NativeFrozenModel {
  /** Mean | log-variance, [clips * frames, 2 * latent channels, h, w]. */
  moments(pictures: Float32Array, grid: PictureGrid): Promise<Float32Array>;
  /** scalingFactor * (mean + deviation * noise), or without noise scalingFactor * mean. */
  encode(pictures: Float32Array, grid: PictureGrid, noise?: Float32Array): Promise<Float32Array>;
  decode(latents: Float32Array, grid: PictureGrid): Promise<Float32Array>;
}

export interface NativeFrozenOptions {
  device?: string;
  compute?: ComputeType;
  /** 0 asks for the number of physical processors. */
  threads?: number;
}
