/** duet federate: federated fine-tuning of a model folder on a data folder, one or several strategies and seeds. */

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { ioError } from '../errors.js';
import { STRATEGY_NAMES, strategyByName } from '../federated/strategies/by-name.js';
import { Vilt } from '../models/vilt.js';
import { accuracyTable, questionTypeTable, type RunResult, type TableFormat } from '../report/accuracy.js';
import { ProgressLine } from '../run/progress.js';
import { type DataFlags, loadFederation } from './federation-data.js';
import { runFederations } from './federation-runs.js';
import {
  type ComputeFlags,
  computeOption,
  deviceOption,
  differentIntegers,
  integer,
  learningRate,
  list,
  listOf,
  positive,
  share,
  threadsOption,
} from './options.js';
import { resumeCommand, untilStopped } from './stopping.js';

interface FederateFlags extends DataFlags, ComputeFlags {
  model: string;
  strategy: string[];
  rounds: number;
  localEpochs: number;
  batchSize: number;
  lr: number;
  seed: number[];
  run?: string;
  resume: boolean;
  adapterReduction: number;
  heads: 'saved' | 'fresh';
  temperature: number;
  weights: 'samples' | 'uniform';
  gatedWith: 'received' | 'aggregate';
  sharedHead: boolean;
  passes: 'merged' | 'published';
  clearGradients: 'none' | 'zero';
  schedule: 'linear' | 'constant' | 'cosine';
  nominalEpochs: number;
  warmup: number;
  weightDecay: number;
  maxGradNorm?: number;
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
  const command = new Command('federate')
    .description('Fine-tunes a model with clients that keep their data, and prints a table of accuracies.')
    .argument(
      '<data>',
      'folder of picture questions: questions_*, annotations_*, clients_<view>_*.json, images/',
    )
    .requiredOption('--model <dir>', 'model folder: config.json, model.safetensors, vocab.txt')
    .addOption(
      new Option('--strategy <names>', `one or several of ${STRATEGY_NAMES.join(', ')}`)
        .argParser(listOf(STRATEGY_NAMES))
        .default(['feddat'], 'feddat'),
    )
    .option('--rounds <count>', 'rounds', integer(1), 30)
    .option('--local-epochs <count>', "passes over a client's data a round", integer(1), 1)
    .option('--batch-size <samples>', 'samples in a batch', integer(1), 32)
    .option('--lr <rate>', 'highest learning rate of the schedule', learningRate, 1e-4)
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
  dataOptions(command);
  strategyOptions(command);
  return command
    .optionsGroup('Evaluation and output:')
    .option('--evaluate-every <rounds>', 'evaluate every so many rounds and after the last', integer(1), 1)
    .option('--evaluate-first', 'evaluate before the first round, too', false)
    .option('--by-type', 'print accuracies by question type, too', false)
    .addOption(
      new Option('--format <format>', 'of the tables').choices(['plain', 'markdown']).default('plain'),
    )
    .option('--keep <count>', 'checkpoints kept besides the best one', integer(1), 2)
    .optionsGroup('Machine:')
    .addOption(deviceOption())
    .addOption(computeOption())
    .addOption(threadsOption())
    .action(federate);
}

function dataOptions(command: Command): void {
  command
    .optionsGroup('Data:')
    .option('--view <name>', 'how questions are divided among clients: clients_<view>_<split>.json', 'style')
    .option('--clients <names>', 'only these clients', list)
    .option('--except <parts>', 'leave out these parts, e.g. the style of the backbone', list)
    .option('--train-split <name>', 'split to train on', 'train')
    .option('--eval-split <name>', 'split to evaluate on', 'val')
    .option(
      '--answers <file>',
      "answer vocabulary (default: the data folder's answers.json, else the model's)",
    )
    .option(
      '--top-answers <count>',
      'size of the vocabulary where no answers.json is found',
      integer(1),
      3129,
    );
}

function strategyOptions(command: Command): void {
  command
    .optionsGroup('Model and strategy:')
    .option('--adapter-reduction <factor>', 'width of the model / width of its adapters', integer(1), 16)
    .addOption(
      new Option(
        '--heads <kind>',
        "use the model folder's head or a new one; a head for other answers is always new",
      )
        .choices(['saved', 'fresh'])
        .default('saved'),
    )
    .option('--temperature <T>', 'FedDAT: of the distillation', positive, 3)
    .addOption(
      new Option('--weights <kind>', "a client's share of the average")
        .choices(['samples', 'uniform'])
        .default('samples'),
    )
    .addOption(
      new Option('--gated-with <adapter>', 'FedDAT: shared adapter of a gated evaluation')
        .choices(['received', 'aggregate'])
        .default('received'),
    )
    .option('--shared-head', 'FedAvg: the head travels, too', false)
    .addOption(
      new Option('--passes <order>', 'FedDAT: order of passes in a step')
        .choices(['merged', 'published'])
        .default('merged'),
    )
    .addOption(
      new Option(
        '--clear-gradients <how>',
        'FedDAT: skip parameters without a gradient, or move them by momentum',
      )
        .choices(['none', 'zero'])
        .default('none'),
    )
    .addOption(
      new Option('--schedule <kind>', 'of the learning rate')
        .choices(['linear', 'constant', 'cosine'])
        .default('linear'),
    )
    .option('--nominal-epochs <count>', "epochs a round's schedule is laid out for", positive, 15)
    .option('--warmup <share>', 'share of the schedule that warms up', share, 0.1)
    .option('--weight-decay <factor>', 'of AdamW', share, 0.01)
    .option('--max-grad-norm <norm>', 'scale gradients down to this norm (default: no)', positive)
    .option('--fraction <share>', 'share of the clients that take part in a round', share, 1)
    .option('--min-clients <count>', 'but at least so many', integer(1), 1)
    .option('--quorum <share>', "share of a round's clients that must succeed (0: one is enough)", share, 0);
}

async function federate(data: string, flags: FederateFlags): Promise<void> {
  const progress = new ProgressLine();
  const kept = () => (flags.run === undefined ? undefined : `Continue with: ${resumeCommand()}`);
  await untilStopped(progress, kept, async (signal) => {
    const { clients, answers } = await loadFederation(data, flags.model, flags);
    const { temperature, weights, gatedWith, passes: order, clearGradients, sharedHead } = flags;
    const { compute, threads, device } = flags;
    const options = {
      feddat: { temperature, weights, gatedWith, order, clearGradients },
      fedavg: { weights, sharedHead },
    };
    const results = await runFederations({
      strategies: flags.strategy.map((name) => () => strategyByName(name, options)),
      seeds: flags.seed,
      openModel: (seed) =>
        Vilt.fromPretrained(flags.model, {
          answers,
          heads: flags.heads,
          adapters: { reduction: flags.adapterReduction },
          seed,
          compute,
          threads,
          device,
        }),
      clients,
      settings: {
        rounds: flags.rounds,
        localEpochs: flags.localEpochs,
        batchSize: flags.batchSize,
        learningRate: flags.lr,
        optimizer: { weightDecay: flags.weightDecay },
        schedule: { kind: flags.schedule, nominalEpochs: flags.nominalEpochs, warmup: flags.warmup },
        ...(flags.maxGradNorm !== undefined && { maxGradNorm: flags.maxGradNorm }),
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
