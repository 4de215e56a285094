/** duet stickers evaluate: frames filled in by a trained network against the true ones, on stickers it has not seen. */

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { z } from 'zod';
import { StickerDataset } from '../data/stickers/dataset.js';
import { DuetError, ioError } from '../errors.js';
import { evaluationTables } from '../report/stickers.js';
import { checkFolderOf, parseJson, writeAtomic } from '../run/files.js';
import { ProgressLine } from '../run/progress.js';
import { SAMPLERS, type SamplerName } from '../stickers/denoising.js';
import { evaluateStickers, type StickerEvaluation } from '../stickers/evaluate.js';
import { CLIP_LAYOUTS, type ClipLayout, OnnxFeatures } from '../stickers/evaluation/onnx-features.js';
import { evaluationSheet } from '../stickers/evaluation-sheet.js';
import { KEY_FRAME_METHODS } from '../stickers/key-frames.js';
import { StickerPipeline } from '../stickers/pipeline.js';
import { validated } from '../validation.js';
import {
  type ComputeFlags,
  computeOption,
  deviceOption,
  integer,
  positive,
  threadsOption,
} from './options.js';
import { decoded } from './stickers-data.js';
import { untilStopped } from './stopping.js';

interface StickersEvaluateFlags extends ComputeFlags {
  all: boolean;
  sampler: SamplerName;
  steps?: number;
  guidance: number;
  seed: number;
  batchSize: number;
  most?: number;
  features?: string;
  featuresLayout: ClipLayout;
  sheet?: string;
  sheetClips: number;
  sheetMadeOnly: boolean;
  captionField?: string;
  json?: string;
}

const configSchema = z.looseObject({
  settings: z.looseObject({
    data: z.looseObject({
      stickers: z.array(z.string()),
      frames: z.int(),
      size: z.int(),
      channels: z.union([z.literal(3), z.literal(4)]),
      keyFrames: z.enum(KEY_FRAME_METHODS),
      shortClips: z.enum(['pad', 'bounce']),
    }),
  }),
});

export function stickersEvaluateCommand(): Command {
  return new Command('evaluate')
    .description('Measures interpolation, prediction and denoising on stickers that were not trained on.')
    .argument('<run>', 'run folder of duet stickers train')
    .argument('<data>', 'folder of stickers; those the run was trained on are left out')
    .option('--all', 'take the stickers that were trained on too', false)
    .option('--most <clips>', 'at most so many clips', integer(1))
    .addOption(
      new Option('--sampler <name>', 'how noise is removed').choices([...SAMPLERS]).default('dpm-solver'),
    )
    .option('--steps <count>', 'evaluations of the network (default: 25, ddim: 50)', integer(1))
    .option('--guidance <scale>', 'strength of the text; 1 for none', positive, 1)
    .option('--seed <integer>', 'of the initial noise', integer(0), 0)
    .option('--batch-size <clips>', 'clips at once', integer(1), 8)
    .option('--features <onnx>', 'feature extractor for the Frechet distance (needs onnxruntime-node)')
    .addOption(
      new Option('--features-layout <axes>', 'axes of its input: batch, channels, frames, height, width')
        .choices(CLIP_LAYOUTS)
        .default('BCFHW'),
    )
    .option('--sheet <file>', 'contact sheet to write, a PNG')
    .option('--sheet-clips <count>', 'clips on the contact sheet', integer(1), 6)
    .option('--sheet-made-only', 'show nothing of the data: only frames the network made', false)
    .option('--caption-field <name>', 'field of captions.jsonl')
    .option('--json <file>', 'file for all numbers')
    .optionsGroup('Machine:')
    .addOption(deviceOption())
    .addOption(computeOption())
    .addOption(threadsOption())
    .action(async (run: string, folder: string, flags: StickersEvaluateFlags) => {
      const progress = new ProgressLine();
      const evaluation = await untilStopped(
        progress,
        () => undefined,
        (signal) => evaluate(run, folder, flags, progress, signal),
      );
      progress.clear();
      process.stdout.write(evaluationTables(evaluation));
    });
}

async function evaluate(
  run: string,
  folder: string,
  flags: StickersEvaluateFlags,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<StickerEvaluation> {
  const { device, compute, threads, sampler, steps, guidance, seed, batchSize } = flags;
  for (const file of [flags.sheet, flags.json]) if (file !== undefined) await checkFolderOf(file);
  const path = join(run, 'config.json');
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    throw ioError(error, `read ${path}`, 'duet stickers train makes such a folder');
  });
  const { data: trained } = validated(configSchema, parseJson(text, path), path, 'CORRUPT').settings;
  const { frames, size, channels, keyFrames, shortClips } = trained;
  const all = await StickerDataset.fromFolder(folder, {
    frames,
    size,
    channels,
    keyFrames,
    shortClips,
    ...(flags.captionField !== undefined && { captionField: flags.captionField }),
  });
  const seen = new Set(trained.stickers);
  if (!flags.all && all.samples.every(({ name }) => seen.has(name))) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected stickers in ${folder} that the run was not trained on but found none; give others, or --all to take these`,
    );
  }
  const unseen = all.where(({ name }) => flags.all || !seen.has(name), `${all.name} (not trained on)`);
  const usable = await decoded(unseen, progress, signal);
  const chosen = new Set(usable.samples.slice(0, flags.most));
  const data = usable.where((sample) => chosen.has(sample));
  using pipeline = await StickerPipeline.load(run, { device, compute, threads });
  const features =
    flags.features === undefined
      ? undefined
      : await OnnxFeatures.load(flags.features, { layout: flags.featuresLayout });
  const sheet = evaluationSheet(
    { channels, frames, height: size, width: size },
    flags.sheetClips,
    flags.sheetMadeOnly,
  );
  const evaluation = await evaluateStickers(pipeline, data, {
    sampling: { sampler, guidance, seed, ...(steps !== undefined && { steps }) },
    batchSize,
    ...(features && { features }),
    signal,
    onClip: (clip) => sheet.add(clip),
    onProgress: (done, total) => progress.update(`evaluating ${done}/${total}`),
  });
  if (flags.sheet !== undefined) await sheet.save(flags.sheet);
  if (flags.json !== undefined) await writeAtomic(flags.json, `${JSON.stringify(evaluation, null, 2)}\n`);
  return evaluation;
}
