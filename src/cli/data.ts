/** duet data synthetic: a set of drawn pictures with questions, for trying things without a download. */

import { Command, Option } from 'commander';
import { generateSynthetic, type SyntheticOptions, syntheticSettings } from '../data/synthetic/generate.js';
import { STYLE_NAMES } from '../data/synthetic/styles.js';
import { ProgressLine } from '../run/progress.js';
import { integer, listOf, share } from './options.js';
import { untilStopped } from './stopping.js';

interface SyntheticFlags {
  seed: number;
  size: number;
  styles: string[];
  train: number;
  val: number;
  neutralTrain: number;
  neutralVal: number;
  questions: number;
  heterogeneity: number;
}

export function dataCommand(): Command {
  const defaults = syntheticSettings();
  const synthetic = new Command('synthetic')
    .description('Draws pictures in several styles with questions about them, as files in VQA v2 format.')
    .argument('<dir>', 'folder to write; one that already holds exactly this set is left as it is')
    .option('--seed <integer>', 'of everything that is left to chance', integer(0), defaults.seed)
    .option('--size <pixels>', 'side of a picture', integer(16), defaults.size)
    .addOption(
      new Option('--styles <names>', 'styles of the clients')
        .argParser(listOf(STYLE_NAMES))
        .default(defaults.styles, defaults.styles.join(',')),
    )
    .option('--train <pictures>', 'training pictures of each client', integer(1), defaults.pictures.train)
    .option('--val <pictures>', 'validation pictures of each client', integer(1), defaults.pictures.val)
    .option(
      '--neutral-train <pictures>',
      'training pictures of the neutral style',
      integer(1),
      defaults.neutralPictures.train,
    )
    .option(
      '--neutral-val <pictures>',
      'validation pictures of the neutral style',
      integer(1),
      defaults.neutralPictures.val,
    )
    .option(
      '--questions <count>',
      'questions about each picture (1 to 5)',
      integer(1),
      defaults.questionsPerPicture,
    )
    .option(
      '--heterogeneity <share>',
      'how much clients differ in what is asked and shown',
      share,
      defaults.heterogeneity,
    )
    .action(async (folder: string, flags: SyntheticFlags) => {
      const progress = new ProgressLine();
      await untilStopped(
        progress,
        () => 'The set is not complete; the same command draws it again.',
        (signal) => drawSet(folder, settingsOf(flags), progress, signal),
      );
      process.stdout.write(`data folder: ${folder}\n`);
    });
  return new Command('data').description('Makes data sets.').addCommand(synthetic);
}

/** Draws a set with progress; also a part of the quickstart. */
export async function drawSet(
  folder: string,
  options: SyntheticOptions,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<void> {
  await generateSynthetic(folder, options, {
    signal,
    onProgress: (done, total) => progress.update(`drawing pictures  ${done}/${total}`),
  });
  progress.clear();
}

function settingsOf(flags: SyntheticFlags): SyntheticOptions {
  return {
    seed: flags.seed,
    size: flags.size,
    styles: flags.styles as SyntheticOptions['styles'],
    pictures: { train: flags.train, val: flags.val },
    neutralPictures: { train: flags.neutralTrain, val: flags.neutralVal },
    questionsPerPicture: flags.questions,
    heterogeneity: flags.heterogeneity,
  };
}
