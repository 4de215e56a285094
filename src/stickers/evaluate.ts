/** How good a trained network is on stickers it has not seen. */

import {
  requireFunction,
  requireInstance,
  requireInteger,
  requireKnown,
  requireList,
  requireObject,
} from '../arguments.js';
import { type StickerBatch, StickerDataset } from '../data/stickers/dataset.js';
import { DuetError, throwIfAborted } from '../errors.js';
import { conditioned } from './conditioning.js';
import { SAMPLING_OPTIONS, type SamplingOptions } from './denoising.js';
import { baseline } from './evaluation/baselines.js';
import { featureStatistics, frechetDistance } from './evaluation/frechet.js';
import { type ClipShape, frameDifferenceError, psnr, ssim } from './evaluation/metrics.js';
import type { FeatureExtractor } from './evaluation/onnx-features.js';
import { StickerPipeline } from './pipeline.js';
import { TASKS, type Task } from './tasks.js';

/** Tasks with known frames whose true answer exists. */
export const FILLING_TASKS = ['interpolation', 'pre_frame_prediction', 'post_frame_prediction'] as const;
/** A task with known frames whose true answer exists. */
export type FillingTask = (typeof FILLING_TASKS)[number];
/** Who filled the frames in. */
export const FILLERS = ['network', 'nearest', 'blend'] as const;
/** Who filled the frames in: the network, or one of two baselines. */
export type Filler = (typeof FILLERS)[number];

/** Means over clips and over the frames that were not known. */
export interface Quality {
  /** dB, higher is better. */
  psnr: number;
  /** Up to 1, higher is better. */
  ssim: number;
  /** Error of the differences between neighbouring frames, lower is better. */
  temporal: number;
}

/** What an evaluation found. */
export interface StickerEvaluation {
  /** Clips that were filled in. */
  clips: number;
  /** Quality of the filled frames, by task and by who filled them in. */
  filling: Record<FillingTask, Record<Filler, Quality> & { clips: number }>;
  /** Masked denoising loss; rows are tasks. */
  denoising: Record<Task, { mean: number; byLevel: { timestep: number; loss: number }[] }>;
  /** Frechet distance of features of generated clips to those of true ones, where an extractor and at least two clips are given. */
  frechet?: Partial<Record<FillingTask, number>>;
}

/** How stickers are evaluated. */
export interface EvaluateOptions {
  /** How frames are filled in. */
  sampling?: SamplingOptions;
  /** Clips at once. Default 8. */
  batchSize?: number;
  /** Noise levels of the denoising loss. Default 100, 300, 500, 700, 900. */
  timesteps?: readonly number[];
  /** For the Frechet distance; absent: it is left out. */
  features?: FeatureExtractor;
  /** Ends with CANCELLED. */
  signal?: AbortSignal | undefined;
  /** Told after every batch of a task. */
  onProgress?: (done: number, total: number) => void;
  /** Told every filled clip, e.g. for contact sheets. */
  onClip?: (clip: {
    name: string;
    task: FillingTask;
    truth: Float32Array;
    filled: Record<Filler, Float32Array>;
    /** Frames that were not given. */
    made: readonly number[];
  }) => void;
}

const EVALUATE_OPTIONS = {
  sampling: true,
  batchSize: true,
  timesteps: true,
  features: true,
  signal: true,
  onProgress: true,
  onClip: true,
} as const satisfies Record<keyof EvaluateOptions, true>;

/** Which of `real` frames are known: every second one, the later half, the earlier half. */
export function knownMask(task: FillingTask, real: number, frames: number): Uint8Array {
  const half = Math.ceil(real / 2);
  const known = (frame: number): boolean =>
    task === 'interpolation'
      ? frame % 2 === 0
      : task === 'pre_frame_prediction'
        ? frame >= Math.floor(real / 2)
        : frame < half;
  return Uint8Array.from({ length: frames }, (_, frame) => (frame < real && known(frame) ? 1 : 0));
}

/**
 * How good a trained network is on stickers it has not seen: frames it fills in against the true ones and two obvious
 * baselines (the nearest known frame, a blend of the two around), and its denoising loss by task and by noise level.
 * @param data held-out stickers, of the pipeline's size and number of frames
 * @throws DuetError INVALID_ARGUMENT for data that do not fit, CORRUPT when none of the stickers can be used, CANCELLED
 */
export async function evaluateStickers(
  pipeline: StickerPipeline,
  data: StickerDataset,
  options: EvaluateOptions = {},
): Promise<StickerEvaluation> {
  requireInstance(pipeline, StickerPipeline, 'pipeline', 'open one with StickerPipeline.load');
  requireInstance(data, StickerDataset, 'data', 'open it with StickerDataset.fromFolder');
  const {
    batchSize = 8,
    timesteps = [100, 300, 500, 700, 900],
    signal,
    onProgress,
    onClip,
  } = requireKnown(options, 'options', EVALUATE_OPTIONS);
  if (options.sampling !== undefined) requireKnown(options.sampling, 'sampling', SAMPLING_OPTIONS);
  requireInteger(batchSize, 'batchSize', 1);
  requireList(timesteps, 'timesteps', (timestep, name) => requireInteger(timestep, name, 0));
  for (const [name, call] of Object.entries({ onProgress, onClip }))
    if (call !== undefined) requireFunction(call, name);
  if (options.features !== undefined)
    requireFunction(requireObject(options.features, 'features').extract, 'extract of features');
  checkFit(pipeline, data);
  const { channels, frames, size } = data.spec;
  options.features?.check?.({ channels, frames, height: size, width: size });
  const total = data.size * (FILLING_TASKS.length + 1);
  let done = 0;
  const sums = Object.fromEntries(FILLING_TASKS.map((task) => [task, new TaskSums()])) as Record<
    FillingTask,
    TaskSums
  >;
  const losses = new Map<Task, Map<number, number[]>>();
  // Losses are those of a training; nothing is trained.
  await pipeline.parts.network.startTraining({
    optimizer: { learningRate: 0, betas: [0.9, 0.999], epsilon: 1e-8, weightDecay: 0 },
    schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 1 },
    prediction: pipeline.settings.prediction,
  });
  for (let first = 0; first < data.size; first += batchSize) {
    throwIfAborted(signal, 'The evaluation');
    const batch = await data.batch(data.samples.slice(first, first + batchSize), first);
    if (!batch) continue;
    for (const task of FILLING_TASKS) {
      await fill(pipeline, data, batch, task, sums[task], options);
      done += batch.samples.length;
      onProgress?.(done, total);
    }
    await denoisingLosses(pipeline, data, batch, timesteps, losses, signal);
    done += batch.samples.length;
    onProgress?.(done, total);
  }
  if (losses.size === 0) {
    throw new DuetError(
      'CORRUPT',
      `Expected at least 1 usable sticker in ${data.name} but found none: ${data.skipped}; for example ${data.skipped.examples[0]}`,
    );
  }
  if (sums.interpolation.clips === 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected clips of at least 2 usable frames in ${data.name} but found none${data.skipped.size > 0 ? `: ${data.skipped}` : ''}`,
    );
  }
  const frechet = Object.fromEntries(
    FILLING_TASKS.filter((task) => sums[task].features.generated.length >= 2).map((task) => {
      const { generated, real } = sums[task].features;
      return [task, frechetDistance(featureStatistics(generated), featureStatistics(real))];
    }),
  );
  return {
    clips: sums.interpolation.clips,
    filling: Object.fromEntries(FILLING_TASKS.map((task) => [task, sums[task].means()])) as never,
    denoising: Object.fromEntries(TASKS.map((task) => [task, levels(losses.get(task))])) as never,
    ...(options.features && { frechet }),
  };
}

function checkFit({ settings, frames }: StickerPipeline, { spec }: StickerDataset): void {
  const expected = { frames, size: settings.size, channels: settings.channels };
  for (const [name, value] of Object.entries(expected)) {
    const received = spec[name as keyof typeof expected];
    if (received === value) continue;
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected data of ${name} ${value}, as the network was trained on, but received ${received}`,
    );
  }
}

class TaskSums {
  clips = 0;
  readonly features = { generated: [] as Float32Array[], real: [] as Float32Array[] };
  readonly #sums = Object.fromEntries(
    FILLERS.map((filler) => [filler, { psnr: 0, ssim: 0, temporal: 0 }]),
  ) as Record<Filler, Quality>;

  add(qualities: Record<Filler, Quality>): void {
    this.clips++;
    for (const filler of FILLERS) {
      const sum = this.#sums[filler];
      sum.psnr += qualities[filler].psnr;
      sum.ssim += qualities[filler].ssim;
      sum.temporal += qualities[filler].temporal;
    }
  }

  means(): Record<Filler, Quality> & { clips: number } {
    const mean = ({ psnr, ssim, temporal }: Quality): Quality => ({
      psnr: psnr / this.clips,
      ssim: ssim / this.clips,
      temporal: temporal / this.clips,
    });
    const means = Object.fromEntries(FILLERS.map((filler) => [filler, mean(this.#sums[filler])]));
    return { ...(means as Record<Filler, Quality>), clips: this.clips };
  }
}

/** Fills the unknown frames of a batch and judges them. */
async function fill(
  pipeline: StickerPipeline,
  data: StickerDataset,
  batch: StickerBatch,
  task: FillingTask,
  sums: TaskSums,
  { sampling, signal, onClip, features }: EvaluateOptions,
): Promise<void> {
  const { frames, size, channels } = data.spec;
  const shape: ClipShape = { channels, frames, height: size, width: size };
  const each = channels * frames * size * size;
  const clips = batch.samples.map((sample, index) => {
    const real = batch.frameMask
      .subarray(index * frames, (index + 1) * frames)
      .reduce((sum, one) => sum + one, 0);
    const truth = batch.values.subarray(index * each, (index + 1) * each);
    const mask = knownMask(task, real, frames);
    return { sample, real, truth, known: { mask, values: onlyKnown(truth, mask, shape) } };
  });
  const made = await pipeline.denoise(
    {
      known: clips.map(({ known }) => known),
      frames: clips.map(({ real }) => real),
      prompts: clips.map(({ sample }) => sample.caption),
    },
    sampling,
    { signal },
  );
  const pictures = await pipeline.parts.space.leave(
    made,
    { clips: clips.length, frames, height: size, width: size },
    signal,
  );
  const generated: Float32Array[] = [];
  for (const [index, { sample, real, truth, known }] of clips.entries()) {
    const own = pictures
      .slice(index * each, (index + 1) * each)
      .map((value) => Math.min(Math.max(value, -1), 1));
    copyFrames(known.values, own, shape, (frame) => known.mask[frame] === 1);
    generated.push(own);
    const filled: Record<Filler, Float32Array> = {
      network: own,
      nearest: baseline('nearest', truth, shape, known.mask),
      blend: baseline('blend', truth, shape, known.mask),
    };
    const judged = Array.from({ length: real }, (_, frame) => frame).filter((frame) => !known.mask[frame]);
    if (judged.length === 0) continue;
    for (const values of Object.values(filled)) copyFrames(truth, values, shape, (frame) => frame >= real);
    const quality = (filler: Filler): Quality => ({
      psnr: psnr(filled[filler], truth, shape, judged),
      ssim: ssim(filled[filler], truth, shape, judged),
      temporal: frameDifferenceError(
        filled[filler],
        truth,
        shape,
        Array.from({ length: real }, (_, frame) => frame),
      ),
    });
    sums.add({ network: quality('network'), nearest: quality('nearest'), blend: quality('blend') });
    onClip?.({ name: sample.name, task, truth, filled, made: judged });
  }
  if (features) {
    sums.features.generated.push(...(await features.extract(generated, shape)));
    sums.features.real.push(
      ...(await features.extract(
        clips.map(({ truth }) => truth),
        shape,
      )),
    );
  }
}

async function denoisingLosses(
  pipeline: StickerPipeline,
  data: StickerDataset,
  batch: StickerBatch,
  timesteps: readonly number[],
  losses: Map<Task, Map<number, number[]>>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { parts } = pipeline;
  const options = { ...parts, seed: 0, wordDrop: 0, lossMask: true, signal };
  for (const task of TASKS) {
    const { batch: given } = await conditioned(data, batch, task, options);
    for (const timestep of timesteps) {
      const at = { ...given, timesteps: new Int32Array(given.clips).fill(timestep) };
      const { clipLosses } = await parts.network.evaluate(at, batch.number);
      const byLevel = losses.get(task) ?? new Map<number, number[]>();
      byLevel.set(timestep, [...(byLevel.get(timestep) ?? []), ...clipLosses]);
      losses.set(task, byLevel);
    }
  }
}

function levels(byLevel: Map<number, number[]> | undefined): {
  mean: number;
  byLevel: { timestep: number; loss: number }[];
} {
  const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const rows = [...(byLevel ?? [])].map(([timestep, values]) => ({ timestep, loss: mean(values) }));
  return { mean: mean(rows.map(({ loss }) => loss)), byLevel: rows };
}

function onlyKnown(truth: Float32Array, mask: Uint8Array, shape: ClipShape): Float32Array {
  const out = new Float32Array(truth.length);
  copyFrames(truth, out, shape, (frame) => mask[frame] === 1);
  return out;
}

/** Copies the chosen frames of [channels, frames, height, width]. */
function copyFrames(
  from: Float32Array,
  to: Float32Array,
  { frames, height, width }: ClipShape,
  chosen: (frame: number) => boolean,
): void {
  const plane = height * width;
  for (let row = 0; row < to.length / plane; row++)
    if (chosen(row % frames)) to.set(from.subarray(row * plane, (row + 1) * plane), row * plane);
}
