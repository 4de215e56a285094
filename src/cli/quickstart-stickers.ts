/** The sticker part of the quickstart: draws animations, trains a tiny network on them and lets it move a first frame. */

import { join } from 'node:path';
import type { ProgressLine } from '../run/progress.js';
import { StaticCurriculum, type ThreeWeights } from '../stickers/curriculum/static.js';
import { StickerPipeline } from '../stickers/pipeline.js';
import { DRAWINGS, type Drawing } from '../stickers/synthetic/drawings.js';
import { drawSticker, generateStickers } from '../stickers/synthetic/generate.js';
import type { RuntimeFlags } from './options.js';
import { trainStickers } from './stickers-train.js';

export interface StickerQuickstart extends RuntimeFlags {
  run: string;
  steps: number;
  seed: number;
}

const SIDE = 32;
const ENLARGED = 256;
const DOZEN = DRAWINGS.slice(0, 12);
const SHOWN = 'cat';

/**
 * A network this small learns one thing in a minute: to move a given first frame as its caption says. Interpolation, the
 * easiest task, helps it on the way.
 */
function fewTasks(steps: number): StaticCurriculum {
  const never: ThreeWeights = [0, 0, 0];
  return new StaticCurriculum(Math.max(steps, 2), {
    i2v: never,
    t2v: never,
    it2v: [0.5, 0.8, 1],
    interpolation: [0.5, 0.2, 0],
    pre_frame_prediction: never,
    post_frame_prediction: never,
  });
}

/** @returns the file that was written */
export async function quickstartSticker(
  { run, steps, seed, device, threads }: StickerQuickstart,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<string> {
  const [data, training, file] = [join(run, 'stickers'), join(run, 'sticker-run'), join(run, 'sticker.gif')];
  await generateStickers(data, { drawings: DOZEN, signal });
  await trainStickers(
    data,
    {
      run: training,
      resume: true,
      steps,
      batchSize: 2,
      accumulation: 1,
      lr: 2e-3,
      schedule: 'cosine',
      warmup: 0.02,
      weightDecay: 0.01,
      maxGradNorm: 1,
      ema: 0.98,
      seed,
      size: 'tiny',
      channels: [32, 32],
      sti: 'interaction',
      maskPadding: false,
      checkpointing: false,
      pixels: SIDE,
      patch: 2,
      frames: 8,
      alpha: false,
      keyFrames: 'equal',
      shortClips: 'pad',
      heldOut: 0,
      splitSeed: 1,
      wordDrop: 0,
      curriculum: fewTasks(steps),
      lossMask: true,
      lossOverKept: false,
      prediction: 'sample',
      checkpointEvery: 100,
      reportEvery: 100,
      keep: 1,
      device,
      compute: 'fp32',
      threads,
    },
    progress,
    signal,
  );
  using pipeline = await StickerPipeline.load(training, { device, threads });
  const drawing = DOZEN.find(({ name }) => name === SHOWN) as Drawing;
  const sticker = await pipeline.generate({
    prompt: drawing.caption,
    keep: { 0: await drawSticker(drawing, { size: SIDE, frames: 1 }) },
    steps: 10,
    guidance: 1,
    seed,
    signal,
  });
  await sticker.save(file, { size: ENLARGED });
  return file;
}
