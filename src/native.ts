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
import type {
  DeviceInfo,
  NativePicture,
  NativePictureSpec,
  NativePreparedPictures,
  SystemInfo,
  TensorData,
} from './native/core.js';
import type { NativeVilt, NativeViltOptions, ViltShape } from './native/federated.js';
import type {
  AutoencoderShape,
  DfgnShape,
  NativeAutoencoderKl,
  NativeDfgn,
  NativeFrozenOptions,
  NativeTextEncoder,
  TextEncoderShape,
} from './native/stickers.js';

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
  /** sum[i] += values[i] * weight, in place; `sum` is not to be touched before the promise settles. */
  accumulate(sum: Float32Array, values: Float32Array, weight: number): Promise<void>;
  /** Euclidean distance; not finite when an element of either is not. */
  distance(a: Float32Array, b: Float32Array): Promise<number>;
  /**
   * received + factor * (value - received); with a grid (a power of two) also cut off towards zero to its steps, and with
   * Gaussian noise of `deviation` steps, rounded to steps. 16 random bytes for every two values, none without a grid.
   */
  noisyUpdate(
    values: Float32Array,
    received: Float32Array,
    random: Uint8Array,
    factor: number,
    grid: number,
    deviation: number,
  ): Promise<Float32Array>;
  /** Of value - received: steps + 128, and a scale for every 256 of them. Rounds to nearest, with draws stochastically. */
  encodeInt8(
    values: Float32Array,
    received: Float32Array,
    draws?: { seed: number; stream: number; counter: number },
  ): { values: Uint8Array; scales: Float32Array };
  /** The values that were encoded, nearly. */
  decodeInt8(values: Uint8Array, scales: Float32Array, received: Float32Array): Float32Array;
  /** value - received as a bf16 vector. */
  encodeBf16(values: Float32Array, received: Float32Array): TensorData;
  /** The values that were encoded, nearly. */
  decodeBf16(values: TensorData, received: Float32Array): Float32Array;
  /** Whether no value is NaN or infinite. */
  allFinite(values: Float32Array): boolean;
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
    device?: string,
  ): Promise<Record<string, TensorData>>;
  /** The names runOp knows. */
  opNames(): string[];
  /** Best rate of the packed matrix product M x N x K in GFLOP/s. */
  productRate(m: number, n: number, k: number, dtype: 'f32' | 'bf16', threads?: number): Promise<number>;
  systemInfo(): SystemInfo;
  /** @throws DuetError UNSUPPORTED with the reason when devices of this kind cannot be used */
  describeDevices(kind: 'cuda' | 'emulated'): DeviceInfo[];
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
  accumulate: (...given) => guarded(() => load().accumulate(...given)),
  distance: (...given) => guarded(() => load().distance(...given)),
  noisyUpdate: (...given) => guarded(() => load().noisyUpdate(...given)),
  encodeInt8: (...given) => guarded(() => load().encodeInt8(...given)),
  decodeInt8: (...given) => guarded(() => load().decodeInt8(...given)),
  encodeBf16: (...given) => guarded(() => load().encodeBf16(...given)),
  decodeBf16: (...given) => guarded(() => load().decodeBf16(...given)),
  allFinite: (values) => guarded(() => load().allFinite(values)),
  runOp: (name, inputs, attributes, gradOutput, device) =>
    guarded(() => load().runOp(name, inputs, attributes, gradOutput, device)),
  opNames: () => guarded(() => load().opNames()),
  productRate: (m, n, k, dtype, threads) => guarded(() => load().productRate(m, n, k, dtype, threads)),
  systemInfo: () => guarded(() => load().systemInfo()),
  describeDevices: (kind) => guarded(() => load().describeDevices(kind)),
  setThreads: (count) => guarded(() => load().setThreads(count)),
};
