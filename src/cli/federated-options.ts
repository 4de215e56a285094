/** Options that `duet federate` and `duet client` share: a federation's data, model, strategy and training. */

import { type Command, Option } from 'commander';
import type { AnswerVocabulary } from '../data/answers.js';
import type { ClientTrainingOptions } from '../federated/options.js';
import { type StrategyName, strategyByName } from '../federated/strategies/by-name.js';
import type { Strategy } from '../federated/strategies/strategy.js';
import { Vilt } from '../models/vilt.js';
import {
  type ComputeFlags,
  computeOption,
  deviceOption,
  integer,
  learningRate,
  list,
  positive,
  share,
  threadsOption,
} from './options.js';

export interface TrainingFlags {
  localEpochs: number;
  batchSize: number;
  lr: number;
  schedule: 'linear' | 'constant' | 'cosine';
  nominalEpochs: number;
  warmup: number;
  weightDecay: number;
  maxGradNorm?: number;
}

export interface StrategyFlags {
  temperature: number;
  /** Of a server. */
  weights?: 'samples' | 'uniform';
  gatedWith: 'received' | 'aggregate';
  sharedHead: boolean;
  passes: 'merged' | 'published';
  clearGradients: 'none' | 'zero';
}

export interface ModelFlags extends ComputeFlags {
  model: string;
  adapterReduction: number;
  heads: 'saved' | 'fresh';
}

/** Where the questions lie, and the model. */
export function placeOptions(command: Command): Command {
  return command
    .argument(
      '<data>',
      'folder of picture questions: questions_*, annotations_*, clients_<view>_*.json, images/',
    )
    .requiredOption('--model <dir>', 'model folder: config.json, model.safetensors, vocab.txt');
}

/** Of a local training. */
export function trainingOptions(command: Command): Command {
  return command
    .option('--local-epochs <count>', "passes over a client's data a round", integer(1), 1)
    .option('--batch-size <samples>', 'samples in a batch', integer(1), 32)
    .option('--lr <rate>', 'highest learning rate of the schedule', learningRate, 1e-4);
}

/** @param clients which of the folder's clients there are can be told */
export function dataOptions(command: Command, { clients }: { clients: boolean }): void {
  command
    .optionsGroup('Data:')
    .option('--view <name>', 'how questions are divided among clients: clients_<view>_<split>.json', 'style');
  if (clients) {
    command
      .option('--clients <names>', 'only these clients', list)
      .option('--except <parts>', 'leave out these parts, e.g. the style of the backbone', list);
  }
  command
    .option('--train-split <name>', 'split to train on', 'train')
    .option('--eval-split <name>', 'split to evaluate on, or none', 'val')
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

/** @param server what only a server decides can be told, too */
export function strategyOptions(command: Command, { server }: { server: boolean }): void {
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
    .option('--temperature <T>', 'FedDAT: of the distillation', positive, 3);
  if (server) {
    command.addOption(
      new Option('--weights <kind>', "a client's share of the average")
        .choices(['samples', 'uniform'])
        .default('samples'),
    );
  }
  command
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
    .option('--max-grad-norm <norm>', 'scale gradients down to this norm (default: no)', positive);
}

export function machineOptions(command: Command): Command {
  return command
    .optionsGroup('Machine:')
    .addOption(deviceOption())
    .addOption(computeOption())
    .addOption(threadsOption());
}

export function strategyOf(name: StrategyName, flags: StrategyFlags): Strategy {
  const { temperature, weights = 'samples', gatedWith, passes: order, clearGradients, sharedHead } = flags;
  return strategyByName(name, {
    feddat: { temperature, weights, gatedWith, order, clearGradients },
    fedavg: { weights, sharedHead },
  });
}

export function trainingOf(flags: TrainingFlags): ClientTrainingOptions {
  return {
    localEpochs: flags.localEpochs,
    batchSize: flags.batchSize,
    learningRate: flags.lr,
    optimizer: { weightDecay: flags.weightDecay },
    schedule: { kind: flags.schedule, nominalEpochs: flags.nominalEpochs, warmup: flags.warmup },
    ...(flags.maxGradNorm !== undefined && { maxGradNorm: flags.maxGradNorm }),
  };
}

/** A model with adapters and a head for the answers. */
export function openModel(flags: ModelFlags, answers: AnswerVocabulary, seed: number): Promise<Vilt> {
  const { compute, threads, device, heads } = flags;
  return Vilt.fromPretrained(flags.model, {
    answers,
    heads,
    adapters: { reduction: flags.adapterReduction },
    seed,
    compute,
    threads,
    device,
  });
}
