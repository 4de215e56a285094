/**
 * The native addon: every function it has, typed, and the one place where it is loaded.
 *
 * The addon is looked for with node-gyp-build: `build/Release` of a checkout first, then `prebuilds/<platform>-<arch>/` of the
 * installed package. `DUET_ADDON=<file>` in the environment overrides both. It is loaded at the first use, not at import,
 * so that a machine it does not run on can still read configs and gets one clear error from the first call that needs it.
 *
 * Every promise runs on one native compute queue, in order; pictures and files run on libuv's threads.
 */

import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { asDuetError, DuetError, messageOf } from './errors.js';

/** Element types of tensors. */
export type DType = 'f32' | 'bf16' | 'f16' | 'i64' | 'i32' | 'u8';

/** A dense row-major tensor. bf16 and f16 travel as their bits in a Uint16Array. */
export interface TensorData {
  /** Type of the elements. */
  dtype: DType;
  /** Row-major; its product is the length of `data`. */
  shape: number[];
  /** The elements. */
  data: Float32Array | Uint16Array | BigInt64Array | Int32Array | Uint8Array;
}

/** Parameter values by name. */
export type Tensors = Record<string, Float32Array>;

/** The sizes of a ViLT model (see `ViltConfig` for the names of Hugging Face's config.json). */
export interface ViltShape {
  vocabSize: number;
  typeVocabSize: number;
  maxPositionEmbeddings: number;
  hiddenSize: number;
  layers: number;
  heads: number;
  intermediateSize: number;
  /** Pixels. */
  imageSize: number;
  /** Pixels. */
  patchSize: number;
  channels: number;
  /** Rows of the modality table: 2 in published files, 3 once widened. */
  modalityTypes: number;
  layerNormEps: number;
  hiddenDropout: number;
  attentionDropout: number;
  qkvBias: boolean;
}

/** One encoded batch: B texts padded at the right to L tokens, B pictures padded right and bottom to H x W pixels. */
export interface ViltBatch {
  /** B, samples. */
  batch: number;
  /** L, tokens of each text, padding included. */
  textLength: number;
  /** H, pixels. */
  height: number;
  /** W, pixels. */
  width: number;
  /** [B * L] */
  inputIds: Int32Array;
  /** [B * L] */
  tokenTypeIds: Int32Array;
  /** [B * L], 1 on tokens */
  attentionMask: Uint8Array;
  /** [B * C * H * W] */
  pixelValues: Float32Array;
  /** [B * H * W], 1 on real pixels */
  pixelMask: Uint8Array;
  /** [B * classes] soft scores; may be left out when only evaluated */
  targets?: Float32Array;
}

/** Which adapters a pass uses; `gated` is the mean of adapter_0 and adapter_2. */
export type AdapterMode = 'gated' | 'adapter_0' | 'adapter_1' | 'none';

/** Type of the large matrix products; everything else is fp32. */
export type ComputeType = 'fp32' | 'bf16';

/** AdamW with decoupled weight decay (arXiv 1711.05101); parameters without a gradient are skipped. */
export interface OptimizerOptions {
  /** Highest of the schedule. */
  learningRate: number;
  /** Decay of the first and second moment. */
  betas: [number, number];
  /** Added to the root of the second moment. */
  epsilon: number;
  /** Decoupled; not applied to parameters whose name contains `bias` or `LayerNorm.weight`. */
  weightDecay: number;
}

/** Learning rate by update: a linear warm-up from 0, then constant, linear or cosine decay to 0 at maxSteps. */
export interface ScheduleOptions {
  /** After the warm-up. */
  kind: 'linear' | 'constant' | 'cosine';
  /** Updates from 0 to the highest rate. */
  warmupSteps: number;
  /** Updates after which linear and cosine stay at 0. */
  maxSteps: number;
}

/** One local training of a ViLT. */
export interface TrainingOptions {
  /** The dual-adapter step, one adapter and the head, or everything but adapters (pretraining). */
  method: 'feddat' | 'single' | 'full';
  /** Head that is trained. */
  task: string;
  /** For `single`; default adapter_1. */
  adapter?: 'adapter_0' | 'adapter_1' | 'none';
  /** AdamW. */
  optimizer: OptimizerOptions;
  /** Of the learning rate; advances once an update, so twice a batch with `feddat`. */
  schedule: ScheduleOptions;
  /** `feddat`: T of the distillation, whose KL counts T squared. Default 3. */
  temperature?: number;
  /** `feddat`: passes merged (same numbers, less work; default) or as published. */
  order?: 'merged' | 'published';
  /** `zero`: parameters without a gradient are still moved by momentum. Default `none`. */
  clearGradients?: 'none' | 'zero';
  /** Gradients are scaled down to this global norm. Default: they are not. */
  maxGradNorm?: number;
  /** Of dropout. */
  seed?: number;
  /** `gradients()` returns those of the last step. */
  keepGradients?: boolean;
  /** Steps return their logits and pooled vectors. */
  keepOutputs?: boolean;
}

/** What one local step reports. */
export interface StepResult {
  /** What was minimised; for `feddat` L_1. */
  loss: number;
  /** Of each update, in order. */
  learningRates: number[];
  /**
   * Losses of a `feddat` step: BCE times classes, KL times T squared, their mean; of adapter_1 (1) and adapter_0 (0).
   */
  feddat?: { bce1: number; kl1: number; loss1: number; bce0: number; kl0: number; loss0: number };
  /** Otherwise: binary cross entropy times classes. */
  bce?: number;
  /** Before clipping, where `maxGradNorm` is set. */
  gradNorm?: number;
  /** Sum over the batch of the target score at the highest logit before the update (`feddat`: gated logits). */
  correct: number;
  /** With `keepOutputs`, [B * classes]: of the teacher. */
  logitsAll?: Float32Array;
  /** With `keepOutputs`, [B * classes]: of adapter_1, or of the one pass there is. */
  logits1?: Float32Array;
  /** With `keepOutputs`, [B * classes]: of the gated pass. */
  logits0?: Float32Array;
  /** With `keepOutputs`, [B * hiddenSize]: of the teacher. */
  pooledAll?: Float32Array;
  /** With `keepOutputs`, [B * hiddenSize]: of adapter_1, or of the one pass there is. */
  pooled1?: Float32Array;
  /** With `keepOutputs`, [B * hiddenSize]: of the gated pass. */
  pooled0?: Float32Array;
}

/** Every hidden state of a pass. */
export interface HiddenStates {
  /** Embedding output, then the output of every layer: [B, T, hiddenSize]. */
  hiddenStates: TensorData[];
  /** [B, T, hiddenSize], after the last norm. */
  lastHiddenState: TensorData;
  /** [B, hiddenSize] */
  poolerOutput: TensorData;
  /** [B, T] i64 */
  attentionMask: TensorData;
  /** [B, patches, 2] i64: row and column */
  patchIndex: TensorData;
}

/** One ViLT with adapters and heads, and the local training of one client on it. */
export interface NativeVilt {
  /** Hugging Face ViltModel names, then adapters and heads. */
  parameters(): { name: string; shape: number[] }[];
  load(path: string): Promise<void>;
  /** encoder.layer.{i}.output.adapter.adapter_{0,1,2}_{down,up}.{weight,bias} */
  addAdapters(reduction: number, seed: number): void;
  /** task_layer.{task}.{clf_fc0,clf_norm0,clf_fc1}.{weight,bias} */
  addHead(task: string, classes: number, seed: number): void;
  read(names: string[]): Promise<Tensors>;
  write(values: Tensors): Promise<void>;
  /** A new optimizer and schedule; `feddat` first copies adapter_1 over adapter_2. */
  startTraining(options: TrainingOptions): Promise<void>;
  step(batch: ViltBatch): Promise<StepResult>;
  /** With keepGradients: 'update_1.<param>' and 'update_0.<param>' (`feddat`) or 'update.<param>' of the last step. */
  gradients(): Promise<Tensors>;
  /** '<param>.exp_avg', '<param>.exp_avg_sq', '<param>.step', 'schedule.step', 'schedule.batch' */
  optimizerState(): Promise<Tensors>;
  setOptimizerState(state: Tensors): Promise<void>;
  /** Logits, [B * classes]. */
  evaluate(batch: ViltBatch, task: string, mode: AdapterMode): Promise<Float32Array>;
  hiddenStates(batch: ViltBatch, mode: AdapterMode): Promise<HiddenStates>;
  memory(): { parameterBytes: number; arenaPeakBytes: number };
  /** Every call of this model that has not settled rejects with CANCELLED; a running step stops between ops. */
  cancel(): void;
  dispose(): void;
}

export interface NativeViltOptions {
  seed?: number;
  /** false leaves zeros, for weights that are loaded next. Default true. */
  initialise?: boolean;
  /** 0 asks for the number of physical processors. */
  threads?: number;
  compute?: ComputeType;
  device?: 'cpu';
}

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

export interface NativePicture {
  /** Interleaved, width * height * 3 bytes. */
  rgb: Uint8Array;
  width: number;
  height: number;
}

export interface NativePictureSpec {
  shortestEdge: number;
  longestEdge: number;
  sizeDivisor: number;
  /** false: pictures are at their final size already. */
  resize: boolean;
  rescaleFactor: number;
  mean: number[];
  std: number[];
}

export interface NativePreparedPictures {
  batch: number;
  height: number;
  width: number;
  /** [batch, 3, height, width] */
  pixelValues: Float32Array;
  /** [batch, height, width] */
  pixelMask: Uint8Array;
  sizes: { width: number; height: number; raised: boolean }[];
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
  compute?: ComputeType;
  /** 0 asks for the number of physical processors. */
  threads?: number;
}

/** What the native core runs on. */
export interface SystemInfo {
  /** 'avx512', 'avx2' or 'generic' */
  isa: string;
  onednn: string;
  threads: number;
}

export interface NativeAddon {
  Vilt: new (shape: ViltShape, options: NativeViltOptions) => NativeVilt;
  TextEncoder: new (
    kind: 'clip' | 'bert' | 't5',
    shape: TextEncoderShape,
    options: NativeFrozenOptions,
  ) => NativeTextEncoder;
  AutoencoderKl: new (shape: AutoencoderShape, options: NativeFrozenOptions) => NativeAutoencoderKl;
  /** Of an autoencoder's moments: [pictures, channels, h, w] each. */
  gaussianOfMoments(moments: Float32Array, pictures: number): { mean: Float32Array; deviation: Float32Array };
  Dfgn: new (shape: DfgnShape, options: NativeViltOptions) => NativeDfgn;
  /** @param narrow F64 comes rounded to f32 instead of being refused */
  readSafetensors(
    path: string,
    narrow?: boolean,
  ): Promise<{ metadata: Record<string, string>; tensors: Record<string, TensorData> }>;
  /** Atomic: a file beside, flushed to the disk, renamed. */
  writeSafetensors(
    path: string,
    tensors: Record<string, TensorData>,
    metadata: Record<string, string>,
  ): Promise<void>;
  /** Pillow's bicubic on 8-bit RGB. */
  resizePicture(
    rgb: Uint8Array,
    width: number,
    height: number,
    outWidth: number,
    outHeight: number,
  ): Promise<Uint8Array>;
  preparePictures(pictures: NativePicture[], spec: NativePictureSpec): Promise<NativePreparedPictures>;
  /** Pillow's bicubic on `frames` RGBA pictures below each other, colours multiplied by alpha meanwhile. */
  resizeRgba(
    rgba: Uint8Array,
    frames: number,
    width: number,
    height: number,
    outWidth: number,
    outHeight: number,
  ): Promise<Uint8Array>;
  /** RGBA on white: RGB, or RGB on white followed by alpha. */
  compositeOnWhite(rgba: Uint8Array, keepAlpha: boolean): Promise<Uint8Array>;
  /** Bytes [frames, height, width, channels] to values [B, channels, frames, height, width] in [-1, 1]; frames a clip lacks are 0. */
  stackClips(
    clips: { strip: Uint8Array; frames: number }[],
    frames: number,
    height: number,
    width: number,
    channels: number,
  ): Promise<Float32Array>;
  /** Bilinear, on planes of values [..., height, width]; as PyTorch's interpolate without antialiasing. */
  resizeValues(
    values: Float32Array,
    height: number,
    width: number,
    outHeight: number,
    outWidth: number,
  ): Promise<Float32Array>;
  /** k-means of vectors [frames, length]: the cluster of each. */
  clusterLabels(features: Float64Array, frames: number, clusters: number): Promise<Int32Array>;
  /** Values [channels, frames, height, width] of one clip to RGBA bytes [frames, height, width, 4]. */
  framesFromValues(
    values: Float32Array,
    frames: number,
    height: number,
    width: number,
    channels: number,
  ): Promise<Uint8Array>;
  /**
   * An animated GIF of frames that have at most 255 opaque colours, merged to `colors`; delays in 1/100 s; plays 0 = for
   * ever.
   */
  encodeGif(
    rgba: Uint8Array,
    width: number,
    height: number,
    delays: number[],
    plays: number,
    colors: number,
  ): Promise<Uint8Array>;
  /** fp32: acc += value * weight, set after set, from 0. */
  weightedAverage(sets: Float32Array[], weights: number[]): Promise<Float32Array>;
  /**
   * One op by name, for tests and reference numbers: 'out' and, when a gradient of it is given, 'grad.<input>'.
   *
   * - `adapter`: inputs x, residual (calls `separate` and `bert`), `<name>_down.weight` and so on; with `bert` also
   *   layerNorm.weight and layerNorm.bias. Attributes mode 'single' | 'gated', first, second (names of adapters), call
   *   'vilt' | 'separate' | 'bert', epsilon.
   * - `distillation_loss`: inputs output, target, labels. Attributes temperature, axis, part 'kl' | 'bce' | 'combined'.
   *   Returns loss and grad.output.
   */
  runOp(
    name: string,
    inputs: Record<string, TensorData>,
    attributes: Record<string, number | string | boolean>,
    gradOutput?: TensorData,
  ): Promise<Record<string, TensorData>>;
  /** The names runOp knows. */
  opNames(): string[];
  /** Best rate of the packed matrix product M x N x K in GFLOP/s. */
  productRate(m: number, n: number, k: number, dtype: 'f32' | 'bf16', threads?: number): Promise<number>;
  systemInfo(): SystemInfo;
  setThreads(count: number): void;
}

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
let loaded: NativeAddon | undefined;

/** Where the addon is taken from, without loading it. */
export function addonPath(): string {
  const chosen = process.env.DUET_ADDON;
  if (chosen) return chosen;
  const build = require('node-gyp-build') as { resolve(dir: string): string };
  return build.resolve(root);
}

function load(): NativeAddon {
  if (loaded) return loaded;
  let path: string | undefined;
  try {
    path = addonPath();
    shortenSpinning();
    loaded = require(path) as NativeAddon;
    return loaded;
  } catch (error) {
    throw loadError(error, path);
  }
}

/**
 * OpenMP threads that wait for each other spin for milliseconds by default. On a machine whose processors are all busy
 * (pictures are decoded beside training) that takes the processor from the thread they wait for. The runtime reads
 * this once, when it is loaded; what the user has set wins.
 */
function shortenSpinning(): void {
  if (process.env.OMP_WAIT_POLICY === undefined) process.env.GOMP_SPINCOUNT ??= '1000';
}

/** Why the addon does not load, and what to do, in one message. */
function loadError(error: unknown, path: string | undefined): DuetError {
  const machine = `${process.platform}-${process.arch} with Node ${process.versions.node}`;
  const words = messageOf(error).split('\n')[0] ?? '';
  const missing = /(\S+\.so[.\d]*): cannot open shared object/.exec(words)?.[1];
  let reason: string;
  let hint = 'reinstall duet-train, or build it in a checkout with `npm run build`';
  if (path === undefined) {
    reason = `there is no build for ${machine} in ${root}`;
  } else if (missing) {
    reason = `${path} needs the library ${missing}, which this machine does not have`;
    hint = `install it, or ${hint}`;
  } else if (/GLIBC|GLIBCXX|CXXABI/.test(words)) {
    reason = `${path} was built for a newer system library (${words})`;
    hint = 'build it on this machine with `npm run build` in a checkout';
  } else {
    reason = `${path}: ${words}`;
  }
  return new DuetError('UNSUPPORTED', `Cannot load the native part of duet-train: ${reason}; ${hint}`, {
    cause: error,
  });
}

/** Runs a call into the addon; its errors come out as DuetErrors. */
export function guarded<T>(call: () => T): T {
  let result: T;
  try {
    result = call();
  } catch (error) {
    throw asDuetError(error);
  }
  if (!(result instanceof Promise)) return result;
  return result.catch((error: unknown) => {
    throw asDuetError(error);
  }) as T;
}

/** The addon, loaded at the first use. */
export const native: NativeAddon = {
  get Vilt() {
    return load().Vilt;
  },
  get TextEncoder() {
    return load().TextEncoder;
  },
  get AutoencoderKl() {
    return load().AutoencoderKl;
  },
  gaussianOfMoments: (moments, pictures) => guarded(() => load().gaussianOfMoments(moments, pictures)),
  get Dfgn() {
    return load().Dfgn;
  },
  readSafetensors: (path, narrow) => guarded(() => load().readSafetensors(path, narrow)),
  writeSafetensors: (path, tensors, metadata) =>
    guarded(() => load().writeSafetensors(path, tensors, metadata)),
  resizePicture: (rgb, width, height, outWidth, outHeight) =>
    guarded(() => load().resizePicture(rgb, width, height, outWidth, outHeight)),
  preparePictures: (pictures, spec) => guarded(() => load().preparePictures(pictures, spec)),
  resizeRgba: (...given) => guarded(() => load().resizeRgba(...given)),
  compositeOnWhite: (rgba, keepAlpha) => guarded(() => load().compositeOnWhite(rgba, keepAlpha)),
  stackClips: (...given) => guarded(() => load().stackClips(...given)),
  resizeValues: (...given) => guarded(() => load().resizeValues(...given)),
  clusterLabels: (...given) => guarded(() => load().clusterLabels(...given)),
  framesFromValues: (...given) => guarded(() => load().framesFromValues(...given)),
  encodeGif: (...given) => guarded(() => load().encodeGif(...given)),
  weightedAverage: (sets, weights) => guarded(() => load().weightedAverage(sets, weights)),
  runOp: (name, inputs, attributes, gradOutput) =>
    guarded(() => load().runOp(name, inputs, attributes, gradOutput)),
  opNames: () => guarded(() => load().opNames()),
  productRate: (m, n, k, dtype, threads) => guarded(() => load().productRate(m, n, k, dtype, threads)),
  systemInfo: () => guarded(() => load().systemInfo()),
  setThreads: (count) => guarded(() => load().setThreads(count)),
};
