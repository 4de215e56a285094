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

export type DType = 'f32' | 'bf16' | 'f16' | 'i64' | 'i32' | 'u8';

/** A dense row-major tensor. bf16 and f16 travel as their bits in a Uint16Array. */
export interface TensorData {
  dtype: DType;
  shape: number[];
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
  batch: number;
  textLength: number;
  height: number;
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

export type ComputeType = 'fp32' | 'bf16';

export interface OptimizerOptions {
  learningRate: number;
  betas: [number, number];
  epsilon: number;
  /** Decoupled; not applied to parameters whose name contains `bias` or `LayerNorm.weight`. */
  weightDecay: number;
}

export interface ScheduleOptions {
  kind: 'linear' | 'constant' | 'cosine';
  warmupSteps: number;
  maxSteps: number;
}

export interface TrainingOptions {
  /** The dual-adapter step, one adapter and the head, or everything but adapters (pretraining). */
  method: 'feddat' | 'single' | 'full';
  task: string;
  /** For `single`; default adapter_1. */
  adapter?: 'adapter_0' | 'adapter_1' | 'none';
  optimizer: OptimizerOptions;
  schedule: ScheduleOptions;
  temperature?: number;
  order?: 'merged' | 'published';
  clearGradients?: 'none' | 'zero';
  maxGradNorm?: number;
  /** Of dropout. */
  seed?: number;
  /** `gradients()` returns those of the last step. */
  keepGradients?: boolean;
  /** Steps return their logits and pooled vectors. */
  keepOutputs?: boolean;
}

export interface StepResult {
  /** What was minimised; for `feddat` L_1. */
  loss: number;
  /** Of each update, in order. */
  learningRates: number[];
  feddat?: { bce1: number; kl1: number; loss1: number; bce0: number; kl0: number; loss0: number };
  bce?: number;
  gradNorm?: number;
  /** Sum over the batch of the target score at the highest logit before the update (`feddat`: gated logits). */
  correct: number;
  // With keepOutputs: logits are [B * classes], pooled vectors [B * hiddenSize].
  logitsAll?: Float32Array;
  logits1?: Float32Array;
  logits0?: Float32Array;
  pooledAll?: Float32Array;
  pooled1?: Float32Array;
  pooled0?: Float32Array;
}

export interface HiddenStates {
  /** Embedding output, then the output of every layer: [B, T, hiddenSize]. */
  hiddenStates: TensorData[];
  lastHiddenState: TensorData;
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

export interface SystemInfo {
  /** 'avx512', 'avx2' or 'generic' */
  isa: string;
  onednn: string;
  threads: number;
}

export interface NativeAddon {
  Vilt: new (shape: ViltShape, options: NativeViltOptions) => NativeVilt;
  readSafetensors(
    path: string,
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
  readSafetensors: (path) => guarded(() => load().readSafetensors(path)),
  writeSafetensors: (path, tensors, metadata) =>
    guarded(() => load().writeSafetensors(path, tensors, metadata)),
  resizePicture: (rgb, width, height, outWidth, outHeight) =>
    guarded(() => load().resizePicture(rgb, width, height, outWidth, outHeight)),
  preparePictures: (pictures, spec) => guarded(() => load().preparePictures(pictures, spec)),
  resizeRgba: (...given) => guarded(() => load().resizeRgba(...given)),
  compositeOnWhite: (rgba, keepAlpha) => guarded(() => load().compositeOnWhite(rgba, keepAlpha)),
  stackClips: (...given) => guarded(() => load().stackClips(...given)),
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
