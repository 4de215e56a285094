/** duet stickers generate: an animated sticker from a prompt, a picture, or given frames. */

import { Command, InvalidArgumentError, Option } from 'commander';
import { requireInteger } from '../arguments.js';
import { DuetError } from '../errors.js';
import { bytes } from '../report/words.js';
import { ProgressLine } from '../run/progress.js';
import { SAMPLERS, type SamplerName } from '../stickers/denoising.js';
import { checkSaving, LARGEST_SIDE } from '../stickers/export.js';
import { StickerPipeline } from '../stickers/pipeline.js';
import {
  type ComputeFlags,
  computeOption,
  deviceOption,
  integer,
  positive,
  share,
  threadsOption,
} from './options.js';
import { untilStopped } from './stopping.js';

interface StickersGenerateFlags extends ComputeFlags {
  prompt?: string;
  negative?: string;
  image?: string;
  keep: Record<number, string>;
  frames?: number;
  out: string[];
  sampler: SamplerName;
  steps?: number;
  eta: number;
  guidance: number;
  seed: number;
  delay: number;
  loop: number;
  maxBytes?: number;
  enlarge: number;
  lossless: boolean;
  preview?: string;
  restore: boolean;
}

const DEFAULT_OUT = 'sticker.webp';

export function stickersGenerateCommand(): Command {
  return new Command('generate')
    .description('Makes an animated sticker with a trained network.')
    .argument('<run>', 'run folder of duet stickers train')
    .option('--prompt <text>', 'what the sticker shows; without it the text is dropped')
    .option('--negative <text>', 'what it should not show')
    .option('--image <file>', 'its first frame, the same as --keep 0=<file>')
    .addOption(
      new Option('--keep <place=file>', 'a given frame, e.g. 0=first.png; may be repeated')
        .argParser(keepFrame)
        .default({}, 'none'),
    )
    .option('--frames <count>', "frames of the sticker (default: the network's)", integer(1))
    .option('--no-restore', 'do not put given frames back exactly')
    .addOption(
      new Option('--out <file>', 'file to write: .gif, .webp or .png (a strip); may be repeated')
        .argParser(addFile)
        .default([], DEFAULT_OUT),
    )
    .option('--preview <file>', 'file that shows the sticker while it is made', stickerFile)
    .optionsGroup('Sampling:')
    .addOption(
      new Option('--sampler <name>', 'how noise is removed').choices([...SAMPLERS]).default('dpm-solver'),
    )
    .option('--steps <count>', 'evaluations of the network (default: 25, ddim: 50)', integer(1))
    .option('--eta <share>', "ddim's share of fresh noise", share, 0)
    .option('--guidance <scale>', 'strength of the text; 1 for none', positive, 4)
    .option('--seed <integer>', 'of the initial noise', integer(0), 0)
    .optionsGroup('File:')
    .option('--delay <ms>', 'milliseconds a frame', integer(10, 655_350), 100)
    .option('--loop <count>', 'times it is played; 0 for ever', integer(0, 65_535), 0)
    .option('--enlarge <factor>', 'enlarges the picture', integer(1), 1)
    .option('--lossless', 'WebP: every pixel as it was made, unless bytes are limited', false)
    .option('--max-bytes <count>', 'bytes the file may have, e.g. 262144', integer(1))
    .optionsGroup('Machine:')
    .addOption(deviceOption())
    .addOption(computeOption())
    .addOption(threadsOption())
    .action(async (run: string, flags: StickersGenerateFlags) => {
      const progress = new ProgressLine();
      await untilStopped(
        progress,
        () => undefined,
        (signal) => generate(run, flags, progress, signal),
      );
    });
}

async function generate(
  run: string,
  flags: StickersGenerateFlags,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<void> {
  const { device, compute, threads, preview } = flags;
  if (flags.image !== undefined && flags.keep[0] !== undefined) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected the first frame once but received ${flags.image} and ${flags.keep[0]}; give --image or --keep 0=<file>`,
    );
  }
  using pipeline = await StickerPipeline.load(run, { device, compute, threads });
  for (const lost of pipeline.damaged) progress.note(`not readable, left out: ${lost}`);
  const keep = flags.image === undefined ? flags.keep : { ...flags.keep, 0: flags.image };
  const size = requireInteger(pipeline.settings.size * flags.enlarge, 'the enlarged side', 1, LARGEST_SIDE);
  const save = {
    size,
    lossless: flags.lossless,
    ...(flags.maxBytes !== undefined && { maxBytes: flags.maxBytes }),
  };
  const out = flags.out.length > 0 ? flags.out : [DEFAULT_OUT];
  for (const path of preview === undefined ? out : [...out, preview]) await checkSaving(path, save);
  const sticker = await pipeline.generate({
    ...(flags.prompt !== undefined && { prompt: flags.prompt }),
    ...(flags.negative !== undefined && { negativePrompt: flags.negative }),
    ...(flags.frames !== undefined && { frames: flags.frames }),
    ...(flags.steps !== undefined && { steps: flags.steps }),
    keep,
    restoreGiven: flags.restore,
    sampler: flags.sampler,
    eta: flags.eta,
    guidance: flags.guidance,
    seed: flags.seed,
    delay: flags.delay,
    loop: flags.loop,
    signal,
    onStep: (step, steps) => progress.update(`step ${step}/${steps}`),
    ...(preview !== undefined && {
      onPreview: async (shown) => {
        await shown.save(preview, { size });
      },
    }),
  });
  progress.clear();
  for (const path of out) {
    const saved = await sticker.save(path, save);
    const given = saved.how.length > 0 ? `  (${saved.how.join(', ')})` : '';
    process.stdout.write(
      `${path}  ${saved.frames} frames of ${saved.width}x${saved.height}  ${bytes(saved.bytes)}${given}\n`,
    );
  }
}

function keepFrame(text: string, before: Record<number, string>): Record<number, string> {
  const found = /^(\d+)=(.+)$/.exec(text);
  if (!found) throw new InvalidArgumentError(`Expected place=file, e.g. 0=first.png, but received ${text}.`);
  const place = Number(found[1]);
  if (place in before) throw new InvalidArgumentError(`Expected frame ${place} once.`);
  return { ...before, [place]: found[2] as string };
}

function stickerFile(path: string): string {
  if (!/\.(gif|webp|png)$/i.test(path))
    throw new InvalidArgumentError(`Expected a file ending in .gif, .webp or .png but received ${path}.`);
  return path;
}

function addFile(path: string, before: string[]): string[] {
  return [...before, stickerFile(path)];
}
