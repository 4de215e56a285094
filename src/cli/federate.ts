/** duet federate: federated fine-tuning of a model folder on a data folder, one or several strategies and seeds. */

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { ioError } from '../errors.js';
import { STRATEGY_NAMES, type StrategyName } from '../federated/strategies/by-name.js';
import { accuracyTable, questionTypeTable, type RunResult, type TableFormat } from '../report/accuracy.js';
import { ProgressLine } from '../run/progress.js';
import {
  dataOptions,
  type ModelFlags,
  machineOptions,
  openModel,
  placeOptions,
  type StrategyFlags,
  strategyOf,
  strategyOptions,
  type TrainingFlags,
  trainingOf,
  trainingOptions,
} from './federated-options.js';
import { type DataFlags, loadFederation } from './federation-data.js';
import { runFederations } from './federation-runs.js';
import { differentIntegers, integer, listOf, share } from './options.js';
import { resumeCommand, untilStopped } from './stopping.js';

interface FederateFlags extends DataFlags, TrainingFlags, StrategyFlags, ModelFlags {
  strategy: StrategyName[];
  rounds: number;
  seed: number[];
  run?: string;
  resume: boolean;
  fraction: number;
  minClients: number;
  quorum: number;
  evaluateEvery: number;
  evaluateFirst: boolean;
  keep: number;
  format: TableFormat;
  byType: boolean;
}

export function federateCommand(): Command {
  const command = new Command('federate').description(
    'Fine-tunes a model with clients that keep their data, and prints a table of accuracies.',
  );
  placeOptions(command)
    .addOption(
      new Option('--strategy <names>', `one or several of ${STRATEGY_NAMES.join(', ')}`)
        .argParser(listOf(STRATEGY_NAMES))
        .default(['feddat'], 'feddat'),
    )
    .option('--rounds <count>', 'rounds', integer(1), 30);
  trainingOptions(command)
    .addOption(
      new Option('--seed <seeds>', 'one or several integers')
        .argParser(differentIntegers(0))
        .default([0], '0'),
    )
    .option(
      '--run <dir>',
      'run folder: config, metrics, checkpoints (one folder a strategy and seed inside it)',
    )
    .option('--resume', 'continue what is in the run folder', false);
  dataOptions(command, { clients: true });
  strategyOptions(command, { server: true });
  command
    .option('--fraction <share>', 'share of the clients that take part in a round', share, 1)
    .option('--min-clients <count>', 'but at least so many', integer(1), 1)
    .option('--quorum <share>', "share of a round's clients that must succeed (0: one is enough)", share, 0)
    .optionsGroup('Evaluation and output:')
    .option('--evaluate-every <rounds>', 'evaluate every so many rounds and after the last', integer(1), 1)
    .option('--evaluate-first', 'evaluate before the first round, too', false)
    .option('--by-type', 'print accuracies by question type, too', false)
    .addOption(
      new Option('--format <format>', 'of the tables').choices(['plain', 'markdown']).default('plain'),
    )
    .option('--keep <count>', 'checkpoints kept besides the best one', integer(1), 2);
  return machineOptions(command).action(federate);
}

async function federate(data: string, flags: FederateFlags): Promise<void> {
  const progress = new ProgressLine();
  const kept = () => (flags.run === undefined ? undefined : `Continue with: ${resumeCommand()}`);
  await untilStopped(progress, kept, async (signal) => {
    const { clients, answers } = await loadFederation(data, flags.model, flags);
    const results = await runFederations({
      strategies: flags.strategy.map((name) => () => strategyOf(name, flags)),
      seeds: flags.seed,
      openModel: (seed) => openModel(flags, answers, seed),
      clients,
      settings: {
        ...trainingOf(flags),
        rounds: flags.rounds,
        sampling: { fraction: flags.fraction, minimum: flags.minClients },
        quorum: flags.quorum,
        evaluation: { every: flags.evaluateEvery, before: flags.evaluateFirst },
        resume: flags.resume,
        keepCheckpoints: flags.keep,
      },
      runDir: flags.run,
      progress,
      signal,
    });
    await report(results, flags);
  });
}

async function report(results: RunResult[], flags: FederateFlags): Promise<void> {
  process.stdout.write(`\n${accuracyTable(results, flags.format)}\n`);
  const kinds = 'accuracy in percent after the last round';
  const seeds =
    flags.seed.length > 1 ? `, mean ± standard deviation over seeds ${flags.seed.join(', ')}` : '';
  process.stdout.write(`${kinds}${seeds}\n`);
  if (flags.byType) process.stdout.write(`\n${questionTypeTable(results, flags.format)}\n`);
  if (flags.run === undefined) return;
  const path = join(flags.run, 'summary.json');
  try {
    await writeFile(path, `${JSON.stringify({ command: process.argv.slice(2), results }, null, 1)}\n`);
  } catch (error) {
    throw ioError(error, `write ${path}`);
  }
  process.stdout.write(`run folder: ${flags.run}\n`);
}
