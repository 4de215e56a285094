/** Training a small ViLT from scratch on picture questions. */

import { z } from 'zod';
import { requireFunction, requireInstance, requireObject } from '../arguments.js';
import { Random } from '../data/random.js';
import { DuetError, throwIfAborted } from '../errors.js';
import { type BatchSource, requireSource } from '../federated/batch-source.js';
import { type FederatedClient, trainLocally } from '../federated/client.js';
import { type DataReport, reportsOf } from '../federated/data-report.js';
import { type Accuracies, evaluateClient, type Scored } from '../federated/evaluation.js';
import { laidOut, scheduleSchema } from '../federated/schedule.js';
import { streamOf } from '../federated/streams.js';
import { isAdapter } from '../models/names.js';
import { DEFAULT_TASK, Vilt } from '../models/vilt.js';
import type { Tensors } from '../native/core.js';
import { RunFolder, requireRunDir } from '../run/run-folder.js';
import { validated } from '../validation.js';
import { packPretraining, unpackPretraining } from './checkpoint.js';

/** Everything a pretraining can be told. */
export interface PretrainingOptions {
  /** With the head `vqa`. A run claims it and leaves its weights trained. */
  model: Vilt;
  /** What it is trained on, e.g. a `VqaSource`. */
  train: BatchSource;
  /** What it is evaluated on; absent: it is not evaluated. */
  evaluation?: BatchSource;
  /** Passes over the data. */
  epochs: number;
  /** Samples in a batch. Default 32. */
  batchSize?: number;
  /** Highest learning rate of the schedule. Default 5e-4. */
  learningRate?: number;
  /** Gradients are scaled down to this global norm. Default 1. */
  maxGradNorm?: number;
  /** Of AdamW. Default 0.01. */
  weightDecay?: number;
  /** Share of the steps that warm up. Default 0.1. */
  warmup?: number;
  /** Evaluate every so many epochs and after the last. Default 1. */
  evaluateEvery?: number;
  /** Of the order of samples and of dropout. Default 0. */
  seed?: number;
  /** Folder for config, metrics and checkpoints. Default: nothing is written. */
  runDir?: string;
  /** Continue what is in `runDir`; an empty folder starts a new run. Default false. */
  resume?: boolean;
  /** Told after every batch. */
  onProgress?: (progress: PretrainingProgress) => void;
}

/** What is going on, for a progress line. */
export interface PretrainingProgress {
  phase: 'training' | 'evaluation';
  epoch: number;
  epochs: number;
  /** From 1. */
  batch: number;
  batches: number;
  loss?: number;
}

/** One epoch: a line of metrics.jsonl. */
export interface EpochReport {
  /** From 1. */
  number: number;
  /** Mean loss over batches; accuracies 0 to 1, on the training batches as they came and on the evaluation data. */
  metrics: { loss: number; trainAccuracy: number; accuracy?: number };
  /** Of the evaluation, where samples have types. */
  questionTypes?: Record<string, Scored>;
  /** Of the last update. */
  learningRate: number;
  /** Wall clock; everything else is the same for the same seed. */
  timing: { seconds: number; trainSeconds: number; evaluateSeconds: number };
}

const schema = z.strictObject({
  epochs: z
    .int()
    .min(1)
    .max(2 ** 20 - 1),
  batchSize: z.int().min(1).default(32),
  learningRate: z.number().gt(0).max(1).default(5e-4),
  maxGradNorm: z.number().gt(0).default(1),
  weightDecay: z.number().min(0).default(0.01),
  warmup: z.number().min(0).max(1).default(0.1),
  evaluateEvery: z.int().min(1).default(1),
  seed: z.int().min(0).default(0),
  runDir: z.string().min(1).optional(),
  resume: z.boolean().default(false),
});

/**
 * Training a small ViLT from scratch on picture questions: the frozen backbone that a federation then fine-tunes.
 * Everything but adapters is trained, with one optimizer over all epochs, binary cross entropy on soft targets,
 * warm-up and linear decay.
 *
 * ```ts
 * const pretraining = new Pretraining({ model, train, evaluation, epochs: 20, batchSize: 32, learningRate: 5e-4, runDir });
 * for await (const epoch of pretraining.run({ signal })) console.log(epoch.number, epoch.metrics);
 * await model.save(dir);
 * ```
 */
export class Pretraining {
  /** The options with all defaults. */
  readonly settings: z.output<typeof schema>;
  /** The model that is trained. */
  readonly model: Vilt;
  /** Epochs of this run that were recorded before it was resumed. */
  readonly history: EpochReport[] = [];
  readonly #data: FederatedClient;
  readonly #onProgress: (progress: PretrainingProgress) => void;
  #done = 0;
  #opened = false;
  #optimizer: Tensors | undefined;

  /** @throws DuetError INVALID_ARGUMENT for settings that cannot work */
  constructor(options: PretrainingOptions) {
    const { model, train, evaluation, onProgress, ...settings } = requireObject(
      options,
      'pretraining options',
    );
    requireInstance(model, Vilt, 'model', 'make one with Vilt.create');
    requireSource(train, 'train');
    if (evaluation !== undefined) requireSource(evaluation, 'evaluation');
    if (onProgress !== undefined) requireFunction(onProgress, 'onProgress');
    this.settings = validated(schema, settings, 'pretraining options');
    requireRunDir(this.settings);
    if (!model.heads.has(DEFAULT_TASK)) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected a model with the head ${DEFAULT_TASK}; create it with { answers }`,
      );
    }
    this.model = model;
    this.#data = { name: 'pretraining', train, ...(evaluation && { evaluation }) };
    this.#onProgress = onProgress ?? (() => {});
  }

  /**
   * Runs the epochs that are left and reports each; the model then has the weights of the last. After a stop or an error it has
   * those of the last whole epoch, and `run` can be called again.
   * @throws DuetError CANCELLED, NOT_FINITE, DISK_FULL or IO as a federation does
   */
  async *run(options: { signal?: AbortSignal } = {}): AsyncGenerator<EpochReport, void, undefined> {
    const { runDir, epochs } = this.settings;
    const { signal } = requireObject(options, 'options');
    throwIfAborted(signal, 'The pretraining');
    const release = this.model.claim('a pretraining');
    let folder: RunFolder<EpochReport> | undefined;
    try {
      folder = runDir === undefined ? undefined : await this.#openFolder(runDir);
      while (this.#done < epochs) yield await this.#recorded(folder, signal);
    } finally {
      release();
      await folder?.close();
    }
  }

  /** What is trained and evaluated on and what is left out, with the bad pictures met so far. */
  get data(): DataReport {
    const { train, evaluation } = this.#data;
    return { train: reportsOf([train]), evaluation: reportsOf([evaluation]) };
  }

  async #openFolder(path: string): Promise<RunFolder<EpochReport>> {
    const { runDir: _, resume, ...settings } = this.settings;
    const { model } = this;
    const { train, evaluation } = this.#data;
    const folder = await RunFolder.open<EpochReport>(path, {
      kind: 'pretraining',
      settings: {
        ...settings,
        model: {
          fingerprint: await model.fingerprint(),
          inputs: model.inputsFingerprint(),
          compute: model.compute,
          classes: model.heads.get(DEFAULT_TASK),
        },
        data: { samples: train.size, fingerprint: train.fingerprint, evaluation: evaluation?.fingerprint },
      },
      resume: resume || this.#opened,
      keep: 1,
    });
    this.#opened = true;
    try {
      const checkpoint = await folder.latest();
      if (checkpoint) {
        const { epoch, weights, optimizer } = unpackPretraining(checkpoint);
        await model.write(weights);
        this.#done = epoch;
        this.#optimizer = optimizer;
      }
      this.history.splice(0, this.history.length, ...(await folder.metrics.read()));
      if (this.history.length === 0) await folder.describeData(this.data);
      return folder;
    } catch (error) {
      await folder.close();
      throw error;
    }
  }

  /** One epoch and its record; when it does not come to its end, the model gets back the weights it had before. */
  async #recorded(folder: RunFolder<EpochReport> | undefined, signal?: AbortSignal): Promise<EpochReport> {
    const { model } = this;
    const weights = await model.read(model.names((name) => !isAdapter(name)));
    const optimizer = this.#optimizer;
    try {
      const report = await this.#epoch(signal);
      await folder?.describeData(this.data);
      await folder?.record(report, await packPretraining(model, report.number, this.#optimizer ?? {}));
      this.#done = report.number;
      return report;
    } catch (error) {
      this.#optimizer = optimizer;
      if (!model.disposed) await model.write(weights);
      throw error;
    }
  }

  async #epoch(signal: AbortSignal | undefined): Promise<EpochReport> {
    const { epochs, batchSize, learningRate, weightDecay, maxGradNorm, warmup, evaluateEvery, seed } =
      this.settings;
    const start = performance.now();
    const number = this.#done + 1;
    const batches = this.#data.train.batchCount(batchSize);
    const progress = (phase: PretrainingProgress['phase'], batch: number, planned: number, loss?: number) =>
      this.#onProgress({
        phase,
        epoch: number,
        epochs,
        batch,
        batches: planned,
        ...(loss !== undefined && { loss }),
      });
    const local = await trainLocally(this.model, {
      client: this.#data,
      round: number,
      epochs: 1,
      batchSize,
      options: {
        method: 'full',
        task: DEFAULT_TASK,
        optimizer: { learningRate, betas: [0.9, 0.98], epsilon: 1e-8, weightDecay },
        schedule: laidOut(epochs * batches, scheduleSchema.parse({ warmup })),
        maxGradNorm,
        seed: new Random(seed, streamOf('dropout', number)).word(),
      },
      optimizerState: this.#optimizer,
      order: () => ({ seed, stream: streamOf('order', number) }),
      signal,
      onBatch: (batch, planned, loss) => progress('training', batch, planned, loss),
    });
    this.#optimizer = await this.model.optimizerState();
    const trained = performance.now();
    const report: EpochReport = {
      number,
      metrics: { loss: local.loss, trainAccuracy: local.trainAccuracy },
      learningRate: local.learningRate,
      timing: { seconds: 0, trainSeconds: (trained - start) / 1000, evaluateSeconds: 0 },
    };
    if (this.#data.evaluation && (number === epochs || number % evaluateEvery === 0)) {
      const planned = this.#data.evaluation.batchCount(batchSize);
      const result = await evaluateClient(this.model, this.#data, [{ name: 'shared', mode: 'none' }], {
        batchSize,
        signal,
        onBatch: (batch) => progress('evaluation', batch, planned),
      });
      const accuracy: Accuracies = result?.accuracy ?? {};
      if (accuracy.shared !== undefined) report.metrics.accuracy = accuracy.shared;
      if (result?.questionTypes) report.questionTypes = result.questionTypes;
    }
    const end = performance.now();
    report.timing.seconds = (end - start) / 1000;
    report.timing.evaluateSeconds = (end - trained) / 1000;
    return report;
  }
}
