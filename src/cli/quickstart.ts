/**
 * duet quickstart: everything in a few minutes, without a download. Draws a set of picture questions, trains a small ViLT on
 * its neutral style, fine-tunes it for the other styles with four strategies, and prints a table; then trains a small sticker
 * network and writes sticker.gif. Run again, it does nothing twice; stopped, it continues.
 */

import { join } from 'node:path';
import { Command } from 'commander';
import type { SyntheticOptions } from '../data/synthetic/generate.js';
import { NEUTRAL_STYLE } from '../data/synthetic/styles.js';
import { strategyByName } from '../federated/strategies/by-name.js';
import { Vilt } from '../models/vilt.js';
import { accuracyTable } from '../report/accuracy.js';
import { duration } from '../report/words.js';
import { ProgressLine } from '../run/progress.js';
import { drawSet } from './data.js';
import { loadFederation } from './federation-data.js';
import { runFederations } from './federation-runs.js';
import { deviceOption, integer, type RuntimeFlags, threadsOption } from './options.js';
import { type PretrainFlags, pretrain } from './pretrain.js';
import { quickstartSticker } from './quickstart-stickers.js';
import { againCommand, untilStopped } from './stopping.js';

interface QuickstartFlags extends RuntimeFlags {
  run: string;
  pictures: number;
  rounds: number;
  epochs: number;
  stickerSteps: number;
  seed: number;
}

/**
 * The neutral style has twenty times as many pictures as a client: the backbone should see, the clients only adapt. The style
 * neon is left out: alone in the dark, it shares little with the others.
 */
function dataOf(pictures: number): SyntheticOptions {
  return {
    seed: 1,
    styles: ['poster', 'outline', 'clay', 'sketch', 'pixel'],
    pictures: { train: pictures, val: pictures },
    neutralPictures: { train: 20 * pictures, val: pictures },
  };
}

const STRATEGIES = ['centralised', 'local', 'fedavg', 'feddat'];

export function quickstartCommand(): Command {
  return new Command('quickstart')
    .description(
      'Draws data, trains a small model, compares FedDAT with its baselines, and makes a sticker: a few minutes on two cores.',
    )
    .option('--run <dir>', 'folder for data, model and runs', 'runs/quickstart')
    .option('--pictures <count>', 'training pictures of each client', integer(4), 100)
    .option('--rounds <count>', 'rounds of each strategy', integer(1), 4)
    .option('--epochs <count>', 'epochs of the small model on the neutral style', integer(1), 14)
    .option('--sticker-steps <count>', 'steps of the sticker network', integer(1), 300)
    .option('--seed <integer>', 'of the runs', integer(0), 1)
    .addOption(deviceOption())
    .addOption(threadsOption())
    .action(async (flags: QuickstartFlags) => {
      const progress = new ProgressLine();
      await untilStopped(
        progress,
        () => `Continue with: ${againCommand()}`,
        (signal) => quickstart(flags, progress, signal),
      );
    });
}

async function quickstart(
  flags: QuickstartFlags,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<void> {
  const start = performance.now();
  const [data, model] = [join(flags.run, 'data'), join(flags.run, 'model')];
  progress.note(`1/4  drawing picture questions into ${data}`);
  await drawSet(data, dataOf(flags.pictures), progress, signal);
  progress.note(`2/4  training a small ViLT on the style "${NEUTRAL_STYLE}" into ${model}`);
  await pretrainSmall(data, model, flags, progress, signal);
  progress.note(`3/4  fine-tuning it for the other styles: ${STRATEGIES.join(', ')}`);
  const { clients, answers } = await loadFederation(data, model, {
    view: 'style',
    trainSplit: 'train',
    evalSplit: 'val',
    topAnswers: 3129,
  });
  const { device, threads } = flags;
  const results = await runFederations({
    strategies: STRATEGIES.map((name) => () => strategyByName(name)),
    seeds: [flags.seed],
    openModel: (seed) =>
      Vilt.fromPretrained(model, {
        answers,
        heads: 'fresh',
        adapters: { reduction: 6 },
        seed,
        device,
        threads,
      }),
    clients,
    settings: {
      rounds: flags.rounds,
      batchSize: 32,
      learningRate: 3e-3,
      schedule: { kind: 'constant', warmup: 0 },
      evaluation: { every: 2, before: true },
      resume: true,
    },
    runDir: flags.run,
    nested: true,
    progress,
    signal,
  });
  const accuracies = [
    `\n${accuracyTable(results)}`,
    `accuracy in percent on validation questions after ${flags.rounds} rounds`,
    'feddat makes two updates a batch and takes about twice the time: docs/results.md compares at equal updates\n',
  ].join('\n');
  process.stdout.write(accuracies);
  progress.note('4/4  training a small sticker network on drawn animations');
  const sticker = await quickstartSticker({ ...flags, steps: flags.stickerSteps }, progress, signal);
  process.stdout.write(accuracies); // again: the first has scrolled away
  process.stdout.write(`a sticker the network moved from its first frame: ${sticker}\n`);
  process.stdout.write(`run folder: ${flags.run}   (${duration((performance.now() - start) / 1000)})\n`);
}

async function pretrainSmall(
  data: string,
  out: string,
  flags: QuickstartFlags,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<void> {
  const { device, threads, epochs, seed } = flags;
  const settings: PretrainFlags = {
    style: NEUTRAL_STYLE,
    size: 'small',
    hidden: 96,
    layers: 3,
    patchSize: 16, // things are large in these pictures: they are learned faster than with the 8 of the preset
    epochs,
    batchSize: 16,
    lr: 2e-3,
    warmup: 0.1,
    weightDecay: 0.01,
    evaluateEvery: 4,
    trainSplit: 'train',
    evalSplit: 'val',
    maxText: 24,
    topAnswers: 3129,
    seed,
    out,
    resume: true,
    device,
    threads,
    compute: 'fp32',
  };
  await pretrain(data, settings, progress, signal);
}
