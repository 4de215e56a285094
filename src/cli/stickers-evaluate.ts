/** duet stickers evaluate: frames filled in by a trained network against the true ones, on stickers it has not seen. */

import { join } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { StickerDataset } from '../data/stickers/dataset.js';
import { DuetError, messageOf } from '../errors.js';
import { evaluationTables } from '../report/stickers.js';
import { checkFolderOf, writeAtomic } from '../run/files.js';
import { ProgressLine } from '../run/progress.js';
import { SAMPLERS, type SamplerName } from '../stickers/denoising.js';
import { evaluateStickers } from '../stickers/evaluate.js';
import { CLIP_LAYOUTS, type ClipLayout, OnnxFeatures } from '../stickers/evaluation/onnx-features.js';
import { evaluationSheet } from '../stickers/evaluation-sheet.js';
import { StickerPipeline } from '../stickers/pipeline.js';
import { trainedStickers } from '../stickers/trained-stickers.js';
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
  featuresLayout?: ClipLayout;
  featuresSize?: number;
  sheet?: string;
  sheetClips?: number;
  sheetMadeOnly: boolean;
  captionField?: string;
  cache?: string;
  json?: string;
}

export function stickersEvaluateCommand(): Command {
  return new Command('evaluate')
    .description('Measures interpolation, prediction and denoising on stickers that were not trained on.')
    .argument('<run>', 'run folder of duet stickers train')
    .argument(
      '<data>',
      'folder of stickers; those the run was trained on are left out, by name and by content',
    )
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
      new Option(
        '--features-layout <axes>',
        'axes of its input: batch, channels, frames, height, width (default: BCFHW)',
      ).choices(CLIP_LAYOUTS),
    )
    .option(
      '--features-size <side>',
      'pixels a side it takes; frames are resized (default: what it declares)',
      integer(1),
    )
    .option('--sheet <file>', 'contact sheet to write, a PNG', pngFile)
    .option('--sheet-clips <count>', 'clips on the contact sheet (default: 6)', integer(1))
    .option('--sheet-made-only', 'show nothing of the data: only frames the network made', false)
    .option('--caption-field <name>', 'field of captions.jsonl')
    .option('--cache <dir>', 'folder for decoded clips and latents (default: in the run folder)')
    .option('--json <file>', 'file for all numbers')
    .optionsGroup('Machine:')
    .addOption(deviceOption())
    .addOption(computeOption())
    .addOption(threadsOption())
    .action(async (run: string, folder: string, flags: StickersEvaluateFlags) => {
      const progress = new ProgressLine();
      await untilStopped(
        progress,
        () => undefined,
        (signal) => evaluate(run, folder, flags, progress, signal),
      );
    });
}

async function evaluate(
  run: string,
  folder: string,
  flags: StickersEvaluateFlags,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<void> {
  const { device, compute, threads, sampler, steps, guidance, seed, batchSize } = flags;
  requireUse(flags);
  for (const file of [flags.sheet, flags.json]) if (file !== undefined) await checkFolderOf(file);
  const trained = await trainedStickers(run);
  const { frames, size, channels } = trained.spec;
  const all = await StickerDataset.fromFolder(folder, {
    ...trained.spec,
    cache: flags.cache ?? join(run, 'clips'),
    ...(flags.captionField !== undefined && { captionField: flags.captionField }),
  });
  using pipeline = await StickerPipeline.load(run, { device, compute, threads });
  for (const lost of pipeline.damaged) progress.note(`not readable, left out: ${lost}`);
  const features =
    flags.features === undefined
      ? undefined
      : await OnnxFeatures.load(flags.features, {
          ...(flags.featuresLayout !== undefined && { layout: flags.featuresLayout }),
          ...(flags.featuresSize !== undefined && { size: flags.featuresSize }),
        });
  const usable = flags.all
    ? await decoded(all, progress, signal)
    : await notTrainedOn(all, trained, progress, signal);
  const chosen = new Set(usable.samples.slice(0, flags.most));
  const data = usable.where((sample) => chosen.has(sample));
  const sheet = evaluationSheet(
    { channels, frames, height: size, width: size },
    flags.sheetClips ?? 6,
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
  progress.clear();
  process.stdout.write(evaluationTables(evaluation));
  const { json, sheet: picture } = flags;
  await everyOne(
    [
      json !== undefined && writeAtomic(json, `${JSON.stringify(evaluation, null, 2)}\n`),
      picture !== undefined && sheet.save(picture),
    ],
    progress,
  );
}

/** Waits for all; of several failures the last is thrown and the others are told. */
async function everyOne(work: readonly unknown[], progress: ProgressLine): Promise<void> {
  const failures = (await Promise.allSettled(work)).filter(({ status }) => status === 'rejected');
  const reasons = failures.map((failure) => (failure as PromiseRejectedResult).reason as unknown);
  for (const reason of reasons.slice(0, -1)) progress.note(messageOf(reason));
  if (reasons.length > 0) throw reasons.at(-1);
}

function pngFile(path: string): string {
  if (!/\.png$/i.test(path))
    throw new InvalidArgumentError(`Expected a file ending in .png but received ${path}.`);
  return path;
}

/** Options that say how, without the one that says what. */
function requireUse(flags: StickersEvaluateFlags): void {
  const { features, featuresLayout, featuresSize, sheet, sheetClips, sheetMadeOnly } = flags;
  const without = (what: string, hows: Record<string, boolean>) => {
    const [how] = Object.keys(hows).filter((name) => hows[name]);
    if (how === undefined) return;
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected ${what} with ${how}, which is about it, but received none`,
    );
  };
  if (features === undefined) {
    without('--features', {
      '--features-layout': featuresLayout !== undefined,
      '--features-size': featuresSize !== undefined,
    });
  }
  if (sheet === undefined)
    without('--sheet', { '--sheet-clips': sheetClips !== undefined, '--sheet-made-only': sheetMadeOnly });
}

/** Stickers whose name and whose content are new to the run. */
async function notTrainedOn(
  all: StickerDataset,
  { names, fingerprints }: Awaited<ReturnType<typeof trainedStickers>>,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<StickerDataset> {
  const seen = new Set(names);
  if (all.samples.every(({ name }) => seen.has(name))) throw nothingNew(all);
  const unseen = all.where(({ name }) => !seen.has(name), `${all.name} (not trained on)`);
  const usable = await decoded(unseen, progress, signal);
  if (!fingerprints) {
    progress.note(
      'this run does not tell what its stickers show: those it was trained on are left out by name alone',
    );
    return usable;
  }
  const contents = new Set(Object.values(fingerprints));
  const content = usable.fingerprints;
  const copies = usable.samples.filter(({ name }) => contents.has(content[name] ?? ''));
  if (copies.length === 0) return usable;
  if (copies.length === usable.size) throw nothingNew(all);
  progress.note(
    `${copies.length} of ${usable.size} stickers left out: the run was trained on the same clip under another name, e.g. ${copies[0]?.name}`,
  );
  return usable.where(({ name }) => !contents.has(content[name] ?? ''));
}

function nothingNew({ name }: StickerDataset): DuetError {
  return new DuetError(
    'INVALID_ARGUMENT',
    `Expected stickers in ${name} that the run was not trained on but found none; give others, or --all to take these`,
  );
}
