/** The discrete frame generation network (DFGN) of RDTF. */

import { join } from 'node:path';
import { z } from 'zod';
import { requireList, requireText } from '../arguments.js';
import { computeSchema, type Device, type DeviceName, deviceSchema, resolveDevice } from '../device.js';
import { DuetError } from '../errors.js';
import type { ComputeType, TensorData, Tensors } from '../native/core.js';
import type {
  DenoisingBatch,
  DenoisingOptions,
  DenoisingResult,
  DfgnPart,
  MemoryPlan,
  NativeDfgn,
  PlannedStep,
  PredictionBatch,
} from '../native/stickers.js';
import { guarded, native } from '../native.js';
import { makeFolder } from '../run/files.js';
import { validated } from '../validation.js';
import {
  type DfgnConfig,
  type DfgnConfigInput,
  dfgnConfig,
  dfgnShape,
  readDfgnConfig,
  writeDfgnConfig,
} from './dfgn-config.js';
import { fileFingerprint, settingsFingerprint } from './folder.js';

const WEIGHTS = 'model.safetensors';

const optionsSchema = z.strictObject({
  seed: z.int().min(0).default(0),
  device: deviceSchema,
  compute: computeSchema,
  threads: z.int().min(0).default(0),
});

/** How a network is opened. */
export interface DfgnOptions {
  /** Where it computes. Default `cpu`. */
  device?: DeviceName;
  /**
   * Large products in fp32 (default), tf32 (GPUs alone) or bf16, which needs a processor with AVX-512; weights, norms, softmax and
   * losses are fp32 in all.
   */
  compute?: ComputeType;
  /** Threads of the native queue; 0 (default) takes one per physical processor. */
  threads?: number;
  /** Of the initial weights. Default 0. */
  seed?: number;
}

/** Bytes by what they are for. */
export interface DfgnMemory {
  /** Weights and their packed copies. */
  parameterBytes: number;
  /** Moments of the optimizer, moving averages; grows with the first step. */
  trainingBytes: number;
  /** Activations and gradients of the largest pass so far. */
  arenaPeakBytes: number;
}

/**
 * The discrete frame generation network (DFGN) of RDTF (arXiv 2503.17735): predicts the noise in all frames of a clip
 * at once, given a text and some known frames.
 *
 * A network owns native memory: call `dispose()`, or declare it with `using`. Parameters have the published names and
 * shapes, so checkpoints exchange with the published program.
 */
export class Dfgn {
  /** Sizes, as in config.json. */
  readonly config: DfgnConfig;
  /** Where it computes. */
  readonly device: Device;
  /** Type of the large products. */
  readonly compute: ComputeType;
  /** Of the initial weights. */
  readonly seed: number;
  #native: NativeDfgn | undefined;
  readonly #origin: () => Promise<string>;
  #shapes: Map<string, number[]> | undefined;

  private constructor(
    config: DfgnConfig,
    options: z.output<typeof optionsSchema>,
    origin?: () => Promise<string>,
  ) {
    this.config = config;
    this.device = resolveDevice(options.device);
    this.compute = options.compute;
    this.seed = options.seed;
    this.#origin = origin ?? (async () => settingsFingerprint({ config, seed: options.seed }));
    const { seed, compute, threads } = options;
    const initialise = origin === undefined;
    this.#native = guarded(
      () => new native.Dfgn(dfgnShape(config), { seed, initialise, threads, compute, device: this.device }),
    );
  }

  /**
   * A new network with PyTorch's initial values, drawn from `options.seed`.
   * @throws DuetError INVALID_ARGUMENT for sizes or options that cannot work
   */
  static create(config: DfgnConfigInput, options: DfgnOptions = {}): Dfgn {
    return new Dfgn(dfgnConfig(config), validated(optionsSchema, options, 'Dfgn.create'));
  }

  /**
   * Opens a network folder: the published config.json and model.safetensors.
   * @throws DuetError NOT_FOUND, CORRUPT, UNSUPPORTED, INVALID_ARGUMENT (tensors that do not fit the config; their
   *   names are listed)
   */
  static async fromPretrained(folder: string, options: DfgnOptions = {}): Promise<Dfgn> {
    const config = await readDfgnConfig(folder);
    const weights = join(folder, WEIGHTS);
    const network = new Dfgn(config, validated(optionsSchema, options, 'Dfgn.fromPretrained'), () =>
      fileFingerprint(weights),
    );
    try {
      await network.load(weights);
      return network;
    } catch (error) {
      network.dispose();
      throw error;
    }
  }

  /** Writes a folder that `fromPretrained` reads; the weights last, so that a folder with weights is complete. */
  async save(folder: string, part: DfgnPart = 'weights'): Promise<void> {
    await makeFolder(requireText(folder, 'folder'), `make the network folder ${folder}`);
    await writeDfgnConfig(folder, this.config);
    await this.saveFile(join(folder, WEIGHTS), part);
  }

  /** One safetensors file with the published names: weights, their moving averages, or a moment of the optimizer. */
  saveFile(path: string, part: DfgnPart = 'weights'): Promise<void> {
    return this.#call((network) => network.save(path, part));
  }

  /**
   * Reads what `saveFile` wrote. Nothing changes when the names or shapes do not fit.
   * @throws DuetError NOT_FOUND, IO, CORRUPT, INVALID_ARGUMENT (names or shapes, which are listed)
   */
  load(path: string, part: DfgnPart = 'weights'): Promise<void> {
    return this.#call((network) => network.load(path, part));
  }

  /** Every parameter with its published shape. */
  get shapes(): ReadonlyMap<string, readonly number[]> {
    this.#shapes ??= new Map(
      this.#call((network) => network.parameters()).map(({ name, shape }) => [name, shape]),
    );
    return this.#shapes;
  }

  /** Number of trained numbers. */
  get parameterCount(): number {
    let count = 0;
    for (const shape of this.shapes.values()) count += shape.reduce((product, size) => product * size, 1);
    return count;
  }

  /** Copies of parameters, by name. @throws DuetError NOT_FOUND for an unknown name */
  read(names: readonly string[] = [...this.shapes.keys()]): Promise<Tensors> {
    return this.#call((network) => network.read([...requireList(names, 'names')]));
  }

  /**
   * Overwrites parameters; all of them or, when a name or a size is wrong, none.
   * @throws DuetError NOT_FOUND for an unknown name, INVALID_ARGUMENT for a wrong size
   */
  write(values: Tensors): Promise<void> {
    return this.#call((network) => network.write(values));
  }

  /** Begins a training: a new optimizer, schedule and moving average. */
  startTraining(options: DenoisingOptions): Promise<void> {
    return this.#call((network) => network.startTraining(options));
  }

  /** One update from one batch, or from the mean gradient of several. @throws DuetError NOT_FINITE, weights unchanged */
  step(batch: DenoisingBatch | readonly DenoisingBatch[]): Promise<DenoisingResult> {
    const batches = Array.isArray(batch) ? [...batch] : [batch as DenoisingBatch];
    return this.#call((network) => network.step(batches));
  }

  /**
   * The loss of a batch without learning; noise and times are those that step `drawStep` would draw.
   * @throws DuetError INVALID_ARGUMENT for a batch that does not fit, or before `startTraining`
   */
  evaluate(batch: DenoisingBatch, drawStep = 0): Promise<DenoisingResult> {
    return this.#call((network) => network.evaluate(batch, drawStep));
  }

  /** Of the last step with `keepGradients`, before clipping, or of `differentiate`. */
  gradients(): Promise<Tensors> {
    return this.#call((network) => network.gradients());
  }

  /**
   * Moments of AdamW, moving averages and the number of updates: `<parameter>.exp_avg`, `.exp_avg_sq`, `.ema`,
   * `step`.
   */
  optimizerState(): Promise<Tensors> {
    return this.#call((network) => network.optimizerState());
  }

  /** Takes what `optimizerState` gave: all of it or, when something does not fit, nothing. */
  setOptimizerState(state: Tensors): Promise<void> {
    return this.#call((network) => network.setOptimizerState(state));
  }

  /** Updates so far. */
  steps(): Promise<number> {
    return this.#call((network) => network.steps());
  }

  /** For resuming after `load` of the moments: learning rate, noise and bias correction go on from here. */
  setSteps(steps: number): Promise<void> {
    return this.#call((network) => network.setSteps(steps));
  }

  /** Exchanges the weights and their moving averages; a second call brings the weights back. */
  swapAverages(): Promise<void> {
    return this.#call((network) => network.swapAverages());
  }

  /**
   * The network's output, [clips, channels, frames, height, width], without learning. `text` (and `t5`) may hold n
   * texts for every clip, all first ones before all second ones; the output then has n * clips clips.
   * @param guidance n is 2 and the result is e1 + guidance * (e2 - e1) for `clips` clips (arXiv 2207.12598)
   * @throws DuetError INVALID_ARGUMENT for arrays that do not fit
   */
  predict(batch: PredictionBatch, guidance?: number): Promise<Float32Array> {
    return this.#call((network) => network.predict(batch, guidance));
  }

  /** The outputs of the network's modules, by published name. */
  trace(batch: PredictionBatch): Promise<Record<string, TensorData>> {
    return this.#call((network) => network.trace(batch));
  }

  /**
   * Masked squared error against a target, and its gradients; nothing is updated.
   * @param target like the output
   * @param checkpoint keep only every layer's inputs, see `DenoisingOptions`
   */
  differentiate(batch: PredictionBatch, target: Float32Array, checkpoint = false) {
    return this.#call((network) => network.differentiate(batch, target, checkpoint));
  }

  /** Bytes taken now. */
  memory(): DfgnMemory {
    return this.#call((network) => network.memory());
  }

  /**
   * What training will take, before it begins.
   * @throws DuetError INVALID_ARGUMENT for pictures too small for the network's levels
   */
  memoryPlan(step: PlannedStep): Promise<MemoryPlan> {
    return this.#call((network) => network.memoryPlan(step));
  }

  /** Names the initial weights: the SHA-256 of their file, or of config and seed. */
  fingerprint(): Promise<string> {
    return this.#origin();
  }

  /** Calls that have not settled reject with CANCELLED; a running step stops between ops and changes nothing. */
  cancel(): void {
    this.#native?.cancel();
  }

  /** Frees the native memory. Calls afterwards throw; a second dispose does nothing. */
  dispose(): void {
    this.#native?.dispose();
    this.#native = undefined;
  }

  /** True once `dispose` was called. */
  get disposed(): boolean {
    return this.#native === undefined;
  }

  /** As `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #call<T>(work: (network: NativeDfgn) => T): T {
    const network = this.#native;
    if (!network)
      throw new DuetError('INVALID_ARGUMENT', 'Expected a live network but this one has been disposed of');
    return guarded(() => work(network));
  }
}
