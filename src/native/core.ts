/** What both halves hand to the native addon and get back: tensors, pictures, how a training steps. */

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

export const computeTypes = ['fp32', 'tf32', 'bf16'] as const;

/** Type of the large matrix products; everything else is fp32. tf32: GPUs only. */
export type ComputeType = 'fp32' | 'tf32' | 'bf16';

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

/** A GPU. */
export interface DeviceInfo {
  /** E.g. `NVIDIA H200`. */
  name: string;
  /** E.g. `sm_90`. */
  architecture: string;
  memoryBytes: number;
  freeBytes: number;
  /** CUDA versions of the driver and of this package. */
  driver: string;
  runtime: string;
  /** Which way products of bf16 go: with Hopper's own instructions or with those every GPU has, and then why. */
  products: string;
}

/** What the native core runs on. */
export interface SystemInfo {
  /** 'avx512', 'avx2' or 'generic' */
  isa: string;
  onednn: string;
  threads: number;
}
