/** Trains a frame generation network from scratch on animated stickers. */

import { requireFunction, requireKnown } from '../arguments.js';
import type { StickerDataset } from '../data/stickers/dataset.js';
import { DuetError, throwIfAborted } from '../errors.js';
import type { Dfgn } from '../models/dfgn.js';
import type { DenoisingResult, MemoryPlan } from '../native/stickers.js';
import { RunFolder, unrecorded } from '../run/run-folder.js';
import { StickerCheckpoints, type TrainerState } from './checkpoints.js';
import { type Conditioned, conditioned } from './conditioning.js';
import { curriculumOf } from './curriculum/by-name.js';
import { type Curriculum, type CurriculumState, plainState } from './curriculum/curriculum.js';
import { requireMemory } from './memory-plan.js';
import { PendingMetrics, type StickerMetrics, type StickerStep } from './metrics.js';
import { openParts, type Parts, type PipelineSettings, writePipeline } from './parts.js';
import {
  rememberedSettings,
  type StickerTrainerOptions,
  type TrainerSettings,
  trainerSettings,
} from './settings.js';
import { TASKS, type Task } from './tasks.js';
import { trainedFingerprints } from './trained-stickers.js';

/**
 * Trains a frame generation network from scratch on animated stickers (RDTF, arXiv 2503.17735): a task drawn by the
 * curriculum for every micro-batch, its condition mask, the loss mask of short clips, one denoising step, and the
 * loss told to the curriculum.
 *
 * With a run folder nothing is lost: the run continues after kill -9 from its last checkpoint with the same numbers,
 * and a stop writes a checkpoint first. Only frozen encoders and the data lie outside of the folder.
 */
export class StickerTrainer {
  /** The options with all defaults. */
  readonly settings: TrainerSettings;
  /** What it is trained on. */
  readonly data: StickerDataset;
  /** Weighs the tasks. */
  readonly curriculum: Curriculum;
  /** Lines of metrics of this run, also of those before it was resumed. */
  readonly history: StickerMetrics[] = [];
  /** Files that could not be read when the run was resumed: checkpoints that are left out, data.json, which is written again. */
  readonly damaged: string[] = [];
  #pending = new PendingMetrics();
  /** Of clips this run was trained on before it was resumed. */
  #fingerprints: Record<string, string> = {};
  readonly #start: CurriculumState;
  /** Step of the newest checkpoint; 0 for none. */
  #saved = 0;
  #running = false;

  /** @throws DuetError INVALID_ARGUMENT for settings that cannot work */
  constructor(options: StickerTrainerOptions) {
    this.settings = trainerSettings(options);
    this.data = options.data;
    // The schedules of a curriculum have a middle, so they need two steps.
    this.curriculum = curriculumOf(
      options.curriculum ?? 'difficulty-adaptive',
      Math.max(this.settings.steps, 2),
    );
    this.#start = plainState(this.curriculum);
  }

  /**
   * Does the steps that are left and reports each. At the end, and when it is stopped, a checkpoint is written.
   * @param options.onReady told once before the first step: the open network, its plan of memory, the steps done before
   * @throws DuetError CANCELLED when the signal is aborted; NOT_FINITE when a loss is not; DISK_FULL and IO when the run cannot
   *   be recorded
   */
  async *run(
    options: {
      signal?: AbortSignal | undefined;
      onReady?: (start: { parts: Parts; plan: MemoryPlan; from: number }) => void | Promise<void>;
    } = {},
  ): AsyncGenerator<StickerStep, void, undefined> {
    const { signal, onReady } = requireKnown(options, 'options', { signal: true, onReady: true });
    throwIfAborted(signal, 'The training');
    if (onReady !== undefined) requireFunction(onReady, 'onReady');
    if (this.#running) throw new DuetError('INVALID_ARGUMENT', 'Expected one run of a trainer at a time');
    this.#running = true;
    const { settings, data } = this;
    const captions = data.samples.map(({ caption }) => caption);
    let parts: Parts | undefined;
    let folder: RunFolder<StickerMetrics> | undefined;
    try {
      parts = await openParts({
        ...this.#pipeline(),
        captions,
        seed: settings.seed,
        cache: data.cacheFolder,
      });
      const { network } = parts;
      this.#checkFit(parts);
      const plan = await this.memoryPlan(parts); // refuses sizes the network cannot take
      requireMemory(plan, { ...settings, size: data.spec.size });
      folder = await this.#openFolder(parts, signal);
      await this.#startTraining(network);
      const keeper = folder && new StickerCheckpoints(folder.path, settings.emaDecay !== null);
      let state = await this.#resume(folder, keeper, parts);
      await onReady?.({ parts, plan, from: state.step });
      this.#saved = state.step;
      const recorded = async (work: Promise<void> | undefined) => {
        try {
          await work;
        } catch (error) {
          const last = this.#saved > 0 ? `step ${this.#saved}` : undefined;
          throw unrecorded(error, settings.runDir ?? '', `Step ${state.step}`, last);
        }
      };
      const save = async () => {
        if (this.#saved === state.step || !keeper) return;
        await recorded(folder?.describeData(this.#described()));
        await recorded(keeper.save(network, state, settings.keepCheckpoints));
        this.#saved = state.step;
      };
      let failed = false;
      try {
        for await (const { step, next } of this.#steps(parts, state, signal)) {
          state = next;
          if (step.metrics) {
            this.history.push(step.metrics);
            await recorded(folder?.metrics.append(step.metrics));
          }
          if (state.step % settings.checkpointEvery === 0 || state.step === settings.steps) await save();
          yield step;
        }
      } catch (error) {
        failed = !(error instanceof DuetError && error.code === 'CANCELLED');
        throw error;
      } finally {
        if (!failed) await save(); // also when the caller leaves its loop
      }
    } finally {
      this.#running = false;
      parts?.dispose();
      await folder?.close();
    }
  }

  /** What the training will take of the memory, predicted before the first step. */
  memoryPlan({ network, space, text }: Parts): Promise<MemoryPlan> {
    const { accumulation, batchSize, gradientCheckpointing, emaDecay } = this.settings;
    const side = this.data.spec.size / space.reduction;
    return network.memoryPlan({
      clips: batchSize,
      height: side,
      width: side,
      textTokens: text.tokens.text,
      ...(text.tokens.t5 > 0 && { t5Tokens: text.tokens.t5 }),
      checkpoint: gradientCheckpointing,
      ema: emaDecay !== null,
      accumulate: accumulation > 1,
    });
  }

  async *#steps(
    parts: Parts,
    from: TrainerState,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<{ step: StickerStep; next: TrainerState }> {
    const { settings, data, curriculum } = this;
    const { accumulation, batchSize, seed, steps } = settings;
    const batches = data.batches({ batchSize, seed, first: from.nextBatch, signal });
    let { nextBatch } = from;
    try {
      for (let index = from.step; index < steps; index++) {
        throwIfAborted(signal, 'The training');
        const start = performance.now();
        const weights = curriculum.weights(index);
        const micro: Conditioned[] = [];
        while (micro.length < accumulation) {
          const { value: batch, done } = await batches.next();
          if (done) throw new DuetError('INTERNAL', 'The batches of an endless order came to an end');
          nextBatch = batch.number + 1;
          micro.push(await conditioned(data, batch, weights, { ...settings, ...parts, signal }));
        }
        const result = await this.#step(parts.network, micro, index);
        curriculum.observe(result.loss, micro.length === 1 ? micro[0]?.task : undefined);
        const step = describe(micro, result, weights, { number: index + 1, steps });
        this.#pending.add(step, (performance.now() - start) / 1000);
        if (step.number % settings.reportEvery === 0 || step.number === steps)
          step.metrics = this.#pending.close(step);
        const next = {
          step: step.number,
          nextBatch,
          curriculum: plainState(curriculum),
          pending: this.#pending.state(),
        };
        yield { step, next };
      }
    } finally {
      await batches.return();
    }
  }

  async #step(network: Dfgn, micro: readonly Conditioned[], index: number): Promise<DenoisingResult> {
    try {
      return await network.step(micro.map(({ batch }) => batch));
    } catch (error) {
      if (!(error instanceof DuetError) || error.code !== 'NOT_FINITE') throw error;
      const batch = micro.map(({ task, names }) => `${task} of ${names.join(', ')}`).join('; ');
      const kept = this.#saved > 0 ? `; the checkpoint of step ${this.#saved} is kept` : '';
      throw new DuetError(
        'NOT_FINITE',
        `Expected a finite loss and finite gradients but those of step ${index + 1} are not (${batch}); lower the learning rate or look at these stickers${kept}`,
        { cause: error },
      );
    }
  }

  #checkFit({ network, space }: Parts): void {
    const { size } = this.data.spec;
    if (network.config.in_channels !== space.channels) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected in_channels ${space.channels} (of the space) for the network but received ${network.config.in_channels}`,
      );
    }
    if (size % space.reduction !== 0) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected a size divisible by ${space.reduction} (${this.settings.space === 'pixels' ? 'the patch' : "the autoencoder's reduction"}) for the data but received ${size}`,
      );
    }
  }

  #pipeline(): PipelineSettings {
    const { network, space, patch, text, compute, threads, device, prediction } = this.settings;
    const { size, channels } = this.data.spec;
    return { network, space, patch, text, compute, threads, device, prediction, size, channels };
  }

  async #startTraining(network: Dfgn): Promise<void> {
    const { settings } = this;
    const { learningRate, optimizer, schedule, steps, maxGradNorm, emaDecay } = settings;
    await network.startTraining({
      optimizer: { learningRate, ...optimizer },
      schedule: {
        kind: schedule.kind,
        warmupSteps: Math.round(schedule.warmup * steps),
        maxSteps: steps,
      },
      prediction: settings.prediction,
      ...(maxGradNorm !== null && { maxGradNorm }),
      ...(emaDecay !== null && { emaDecay }),
      lossOverKept: settings.lossOverKept,
      checkpoint: settings.gradientCheckpointing,
      seed: settings.seed,
    });
  }

  async #openFolder(
    parts: Parts,
    signal: AbortSignal | undefined,
  ): Promise<RunFolder<StickerMetrics> | undefined> {
    const { settings, data, curriculum } = this;
    if (settings.runDir === undefined) return undefined;
    const folder = await RunFolder.open<StickerMetrics>(settings.runDir, {
      kind: 'stickers',
      settings: {
        ...rememberedSettings(settings),
        curriculum: curriculum.name,
        data: { name: data.name, stickers: data.samples.map(({ name }) => name), ...data.spec },
        encoders: await parts.fingerprint(),
      },
      resume: settings.resume,
      keep: settings.keepCheckpoints,
    });
    try {
      await writePipeline(folder.path, this.#pipeline(), parts);
      this.#fingerprints = await this.#notedFingerprints(folder.path, signal);
      await folder.describeData(this.#described());
      return folder;
    } catch (error) {
      await folder.close();
      throw error;
    }
  }

  /** Where they cannot be read any more every sticker is decoded, so that none is missing in what is written instead. */
  async #notedFingerprints(runDir: string, signal: AbortSignal | undefined): Promise<Record<string, string>> {
    try {
      return (await trainedFingerprints(runDir)) ?? {};
    } catch (error) {
      if (!(error instanceof DuetError) || error.code !== 'CORRUPT') throw error;
      this.damaged.push(`${error.message}; it is written again`);
      await this.data.prepare({ signal });
      return {};
    }
  }

  #described(): unknown {
    const { report, fingerprints } = this.data;
    return { ...report, fingerprints: { ...this.#fingerprints, ...fingerprints } };
  }

  async #resume(
    folder: RunFolder<StickerMetrics> | undefined,
    keeper: StickerCheckpoints | undefined,
    { network }: Parts,
  ): Promise<TrainerState> {
    const state = await keeper?.load(network);
    this.damaged.push(...(keeper?.damaged ?? []));
    await folder?.metrics.cutAfter(state?.step ?? -1);
    this.history.splice(0, this.history.length, ...((await folder?.metrics.read()) ?? []));
    this.#pending = new PendingMetrics();
    this.curriculum.restore(structuredClone(state?.curriculum ?? this.#start));
    if (!state) return { step: 0, nextBatch: 0, curriculum: {}, pending: {} };
    this.#pending.restore(state.pending);
    return state;
  }
}

function describe(
  micro: readonly Conditioned[],
  result: DenoisingResult,
  weights: readonly number[],
  { number, steps }: { number: number; steps: number },
): StickerStep {
  let first = 0;
  const tasks = micro.map(({ task, batch }) => {
    const clipLosses = result.clipLosses.slice(first, first + batch.clips);
    first += batch.clips;
    return { task, clipLosses };
  });
  return {
    number,
    steps,
    loss: result.loss,
    gradNorm: result.gradNorm,
    learningRate: result.learningRate,
    tasks,
    weights: Object.fromEntries(TASKS.map((task, index) => [task, weights[index]])) as Record<Task, number>,
  };
}
