/** duet stickers train: a frame generation network from scratch on a folder of animated stickers. */

import { join } from 'node:path';
import { Command, Option } from 'commander';
import { StickerDataset } from '../data/stickers/dataset.js';
import { PretrainedTokenizer } from '../data/text-tokenizer.js';
import { DuetError } from '../errors.js';
import { readAutoencoderShape } from '../models/autoencoder.js';
import { DFGN_PRESETS, type DfgnConfig, type DfgnPreset, dfgnPreset } from '../models/dfgn-config.js';
import { readTextEncoderConfig } from '../models/text-encoder-config.js';
import { stickerLine } from '../report/stickers.js';
import { duration } from '../report/words.js';
import { ProgressLine } from '../run/progress.js';
import { checkRunFolder } from '../run/run-folder.js';
import { CURRICULUM_NAMES, type CurriculumName } from '../stickers/curriculum/by-name.js';
import type { Curriculum } from '../stickers/curriculum/curriculum.js';
import { KEY_FRAME_METHODS, type KeyFrameMethod } from '../stickers/key-frames.js';
import { memoryTable } from '../stickers/memory-plan.js';
import { PREDICTIONS, type Prediction } from '../stickers/prediction.js';
import type { StickerTrainerOptions } from '../stickers/settings.js';
import type { Space } from '../stickers/space.js';
import { StickerTrainer } from '../stickers/trainer.js';
import {
  type ComputeFlags,
  computeOption,
  deviceOption,
  integer,
  integerList,
  learningRate,
  positive,
  share,
  threadsOption,
} from './options.js';
import { decoded } from './stickers-data.js';
import { resumeCommand, untilStopped } from './stopping.js';

export interface StickersTrainFlags extends ComputeFlags {
  run: string;
  resume: boolean;
  steps: number;
  batchSize: number;
  accumulation: number;
  lr: number;
  warmup: number;
  schedule: 'constant' | 'linear' | 'cosine';
  weightDecay: number;
  maxGradNorm: number;
  ema: number;
  seed: number;
  size: DfgnPreset;
  channels?: number[];
  layers?: number;
  sti: 'interaction' | 'semantic' | 'detail';
  maskPadding: boolean;
  checkpointing: boolean;
  pixels: number;
  patch?: number;
  frames: number;
  alpha: boolean;
  keyFrames: KeyFrameMethod;
  shortClips: 'pad' | 'bounce';
  heldOut: number;
  splitSeed: number;
  captionField?: string;
  cache?: string;
  wordDrop: number;
  curriculum: CurriculumName | Curriculum;
  lossMask: boolean;
  lossOverKept: boolean;
  autoencoder?: string;
  textEncoder?: string;
  t5Encoder?: string;
  prediction: Prediction;
  checkpointEvery: number;
  reportEvery: number;
  keep: number;
}

export function stickersTrainCommand(): Command {
  return new Command('train')
    .description('Trains a frame generation network from scratch on animated stickers with captions.')
    .argument(
      '<data>',
      'folder of GIF, animated WebP, APNG or PNG sequences with captions.jsonl or <name>.txt',
    )
    .requiredOption('--run <dir>', 'run folder: config, metrics, checkpoints')
    .option('--resume', 'continue the run in the folder', false)
    .option('--steps <count>', 'optimiser steps', integer(1), 20_000)
    .option('--batch-size <clips>', 'clips of a micro-batch', integer(1), 8)
    .option('--accumulation <count>', 'micro-batches of a step', integer(1), 1)
    .option('--lr <rate>', 'highest learning rate', learningRate, 3e-4)
    .addOption(
      new Option('--schedule <kind>', 'of the learning rate after the warm-up')
        .choices(['constant', 'linear', 'cosine'])
        .default('constant'),
    )
    .option('--warmup <share>', 'share of the steps that warm up', share, 0.02)
    .option('--weight-decay <factor>', 'of AdamW', share, 0.01)
    .option('--max-grad-norm <norm>', 'longer gradients are scaled down to it', positive, 1)
    .option('--ema <decay>', 'of the moving averages of the weights', share, 0.999)
    .option('--seed <integer>', 'of weights, order, tasks and noise', integer(0), 0)
    .optionsGroup('Network:')
    .addOption(
      new Option('--size <name>', 'sizes to start from').choices(Object.keys(DFGN_PRESETS)).default('small'),
    )
    .option('--channels <widths>', 'widths of the levels, e.g. 32,64,96', integerList(1))
    .option('--layers <count>', 'layers of a level', integer(1))
    .addOption(
      new Option('--sti <variant>', 'branches of the spatio-temporal interaction layers')
        .choices(['interaction', 'semantic', 'detail'])
        .default('interaction'),
    )
    .option('--mask-padding', 'hide padded frames from attention too', false)
    .option('--checkpointing', 'keep less for the way back: less memory, more time', false)
    .option('--autoencoder <dir>', 'AutoencoderKL for latents; without it the network sees pixels')
    .option('--text-encoder <dir>', 'frozen CLIP, BERT or T5; without it a small one is trained along')
    .option('--t5-encoder <dir>', 'second frozen text encoder, whose states the network projects')
    .addOption(
      new Option('--prediction <kind>', 'what the network predicts').choices(PREDICTIONS).default('epsilon'),
    )
    .optionsGroup('Data:')
    .option('--pixels <side>', 'side of a clip', integer(4), 64)
    .option(
      '--patch <side>',
      'squares of so many pixels a side become channels (less work; default: 2, with an autoencoder 1)',
      integer(1, 4),
    )
    .option('--frames <count>', 'frames of a clip', integer(1), 8)
    .option('--alpha', 'learn transparency too (pixels only)', false)
    .addOption(
      new Option('--key-frames <method>', 'how frames are chosen from longer animations')
        .choices([...KEY_FRAME_METHODS])
        .default('equal'),
    )
    .addOption(
      new Option('--short-clips <how>', 'shorter animations: masked padding, or forth and back')
        .choices(['pad', 'bounce'])
        .default('pad'),
    )
    .option('--held-out <share>', 'share of the stickers that is not trained on, chosen by name', share, 0.1)
    .option('--split-seed <integer>', 'another choice of the stickers held out', integer(0), 1)
    .option('--caption-field <name>', 'field of captions.jsonl (default: caption, caption_en or text)')
    .option('--word-drop <share>', 'chance of each caption word to become #', share, 21 / 101)
    .option('--cache <dir>', 'folder for decoded clips and latents (default: in the run folder)')
    .optionsGroup('Tasks:')
    .addOption(
      new Option('--curriculum <name>', 'how tasks are weighed over the training')
        .choices([...CURRICULUM_NAMES])
        .default('difficulty-adaptive'),
    )
    .option('--no-loss-mask', 'let padded frames count in the loss, for comparison')
    .option('--loss-over-kept', 'divide the loss by the elements of real frames only', false)
    .optionsGroup('Run folder:')
    .option('--checkpoint-every <steps>', 'steps between checkpoints', integer(1), 500)
    .option('--report-every <steps>', 'steps of one line of metrics', integer(1), 50)
    .option('--keep <count>', 'checkpoints kept', integer(1), 2)
    .optionsGroup('Machine:')
    .addOption(deviceOption())
    .addOption(computeOption())
    .addOption(threadsOption())
    .action(async (data: string, flags: StickersTrainFlags) => {
      const progress = new ProgressLine();
      await untilStopped(
        progress,
        () => `Continue with: ${resumeCommand()}`,
        (signal) => trainStickers(data, flags, progress, signal),
      );
      process.stdout.write(`run folder: ${flags.run}\n`);
    });
}

/** Trains into the run folder; also a part of the quickstart. */
export async function trainStickers(
  folder: string,
  flags: StickersTrainFlags,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<void> {
  if (flags.t5Encoder !== undefined && flags.textEncoder === undefined) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      'Expected --text-encoder with --t5-encoder, which is the second one, but received none',
    );
  }
  await checkRunFolder(flags.run, flags.resume);
  const all = await StickerDataset.fromFolder(folder, {
    frames: flags.frames,
    size: flags.pixels,
    channels: flags.alpha ? 4 : 3,
    keyFrames: flags.keyFrames,
    shortClips: flags.shortClips,
    cache: flags.cache ?? join(flags.run, 'clips'),
    ...(flags.captionField !== undefined && { captionField: flags.captionField }),
  });
  const settings = await trainerOptions(flags);
  new StickerTrainer({ ...settings, data: all }); // refuses what cannot work before anything is decoded
  const usable = await decoded(all, progress, signal);
  const data =
    flags.heldOut > 0 ? usable.split({ heldOut: flags.heldOut, seed: flags.splitSeed }).training : usable;
  progress.note(`training on ${data.size} of ${usable.size} usable stickers`);
  const trainer = new StickerTrainer({ ...settings, data });
  let begun = performance.now();
  let from = 0;
  let space: Space | undefined;
  const steps = trainer.run({
    signal,
    onReady: (start) => {
      for (const lost of trainer.damaged) progress.note(`not readable, left out: ${lost}`);
      progress.note(memoryTable(start.plan));
      space = start.parts.space;
      [begun, from] = [performance.now(), start.from];
      if (from > 0) progress.note(`continuing after step ${from}`);
    },
  });
  for await (const step of steps) {
    const seconds = (performance.now() - begun) / 1000 / (step.number - from);
    const left = duration(seconds * (step.steps - step.number));
    progress.update(
      `step ${step.number}/${step.steps}  loss ${step.loss.toFixed(4)}  ${step.tasks.map(({ task }) => task).join(' ')}  ${seconds.toFixed(2)} s a step  about ${left} left`,
    );
    if (step.metrics) progress.note(stickerLine(step.metrics, step.steps));
    if (space?.cacheProblem !== undefined) {
      progress.note(space.cacheProblem);
      space = undefined;
    }
  }
}

/** What the flags ask of the trainer, but for the data. */
async function trainerOptions(flags: StickersTrainFlags): Promise<Omit<StickerTrainerOptions, 'data'>> {
  return {
    network: await networkOf(flags),
    patch: patchOf(flags),
    space: flags.autoencoder === undefined ? 'pixels' : { autoencoder: flags.autoencoder },
    text:
      flags.textEncoder === undefined
        ? 'captions'
        : { encoder: flags.textEncoder, ...(flags.t5Encoder !== undefined && { second: flags.t5Encoder }) },
    curriculum: flags.curriculum,
    steps: flags.steps,
    batchSize: flags.batchSize,
    accumulation: flags.accumulation,
    learningRate: flags.lr,
    schedule: { kind: flags.schedule, warmup: flags.warmup },
    optimizer: { weightDecay: flags.weightDecay },
    maxGradNorm: flags.maxGradNorm,
    emaDecay: flags.ema > 0 ? flags.ema : null,
    prediction: flags.prediction,
    lossMask: flags.lossMask,
    lossOverKept: flags.lossOverKept,
    gradientCheckpointing: flags.checkpointing,
    wordDrop: flags.wordDrop,
    seed: flags.seed,
    device: flags.device,
    compute: flags.compute,
    threads: flags.threads,
    runDir: flags.run,
    resume: flags.resume,
    keepCheckpoints: flags.keep,
    checkpointEvery: flags.checkpointEvery,
    reportEvery: flags.reportEvery,
  };
}

/** Every pixel its own token takes more memory than most machines have. */
function patchOf({ patch, autoencoder }: StickersTrainFlags): number {
  return patch ?? (autoencoder === undefined ? 2 : 1);
}

/** The preset with what was asked for; what meets frozen parts has their widths. */
async function networkOf(flags: StickersTrainFlags): Promise<DfgnConfig> {
  const { size, channels, layers, sti, maskPadding, frames, alpha, autoencoder } = flags;
  const widthOf = async (folder: string) => {
    const { kind, shape } = await readTextEncoderConfig(folder);
    await PretrainedTokenizer.open(folder, kind); // without one, before anything is decoded
    return shape.width;
  };
  const { textEncoder: first, t5Encoder: second } = flags;
  return dfgnPreset(size, {
    in_channels:
      autoencoder === undefined
        ? (alpha ? 4 : 3) * patchOf(flags) ** 2
        : (await readAutoencoderShape(autoencoder)).latentChannels,
    num_frames: frames,
    sti,
    mask_padding: maskPadding,
    ...(channels && { block_out_channels: channels }),
    ...(layers !== undefined && { layers_per_block: layers }),
    ...(first !== undefined && { cross_attention_dim: await widthOf(first) }),
    t5_dim: second === undefined ? null : await widthOf(second),
  });
}
