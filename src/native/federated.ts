/** The native ViLT with adapters: what it is given and what it gives. */

import type { ComputeType, OptimizerOptions, ScheduleOptions, TensorData, Tensors } from './core.js';

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
  /**
   * With keepGradients: 'update_1.<param>' and 'update_0.<param>' (`feddat`) or 'update.<param>' of the last step; also
   * 'after_update_1.<param>', the values of what is trained between the two updates.
   */
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
  device?: string;
}
