/** duet pretrain: a small ViLT from scratch on one part of a data folder, the backbone of a federation. */

import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { AnswerVocabulary } from '../data/answers.js';
import { loadPart } from '../data/clients.js';
import { Tokenizer } from '../data/tokenizer.js';
import type { VqaDataset } from '../data/vqa.js';
import { encodersOf, VqaSource } from '../federated/vqa-source.js';
import { VILT_PRESETS, type ViltPreset, viltPreset } from '../models/config.js';
import { Vilt } from '../models/vilt.js';
import { Pretraining } from '../pretraining/pretraining.js';
import { dataLines, duration, epochLine } from '../report/words.js';
import { ProgressLine } from '../run/progress.js';
import {
  type ComputeFlags,
  computeOption,
  deviceOption,
  integer,
  learningRate,
  share,
  threadsOption,
} from './options.js';
import { resumeCommand, untilStopped } from './stopping.js';

export interface PretrainFlags extends ComputeFlags {
  style: string;
  size: ViltPreset;
  hidden?: number;
  layers?: number;
  attentionHeads?: number;
  patchSize?: number;
  imageSize?: number;
  epochs: number;
  batchSize: number;
  lr: number;
  warmup: number;
  weightDecay: number;
  seed: number;
  trainSplit: string;
  evalSplit: string;
  evaluateEvery: number;
  maxText: number;
  answers?: string;
  topAnswers: number;
  out: string;
  resume: boolean;
}

export function pretrainCommand(): Command {
  return new Command('pretrain')
    .description('Trains a small ViLT from scratch and writes a model folder.')
    .argument('<data>', 'folder of picture questions: questions_<style>_<split>.json, annotations_*, images/')
    .requiredOption('--style <name>', 'the part to train on, e.g. a drawing style')
    .requiredOption('--out <dir>', 'model folder to write; checkpoints lie in its folder training/')
    .option('--resume', 'continue the training in the folder', false)
    .option('--epochs <count>', 'passes over the data', integer(1), 20)
    .option('--batch-size <samples>', 'samples in a batch', integer(1), 32)
    .option('--lr <rate>', 'highest learning rate: warm-up, then linear decay to 0', learningRate, 5e-4)
    .option('--warmup <share>', 'share of the steps that warm up', share, 0.1)
    .option('--weight-decay <factor>', 'of AdamW', share, 0.01)
    .option('--seed <integer>', 'of weights and orders', integer(0), 0)
    .optionsGroup('Model:')
    .addOption(
      new Option('--size <name>', 'sizes to start from').choices(Object.keys(VILT_PRESETS)).default('small'),
    )
    .option(
      '--hidden <width>',
      'width of the model; its feed-forward layers are four times as wide',
      integer(1),
    )
    .option('--layers <count>', 'number of layers', integer(1))
    .option('--attention-heads <count>', 'heads of an attention', integer(1))
    .option('--patch-size <pixels>', 'side of a patch', integer(1))
    .option('--image-size <pixels>', 'length to which the shorter side of a picture is scaled', integer(1))
    .option('--max-text <tokens>', 'longest question', integer(2), 40)
    .optionsGroup('Data:')
    .option('--train-split <name>', 'split to train on', 'train')
    .option('--eval-split <name>', 'split to evaluate on', 'val')
    .option('--evaluate-every <epochs>', 'evaluate every so many epochs and after the last', integer(1), 1)
    .option('--answers <file>', "answer vocabulary (default: the data folder's answers.json)")
    .option(
      '--top-answers <count>',
      'size of the vocabulary where there is no answers.json',
      integer(1),
      3129,
    )
    .optionsGroup('Machine:')
    .addOption(deviceOption())
    .addOption(computeOption())
    .addOption(threadsOption())
    .action(async (data: string, flags: PretrainFlags) => {
      const progress = new ProgressLine();
      await untilStopped(
        progress,
        () => `Continue with: ${resumeCommand()}`,
        (signal) => pretrain(data, flags, progress, signal),
      );
      process.stdout.write(`model folder: ${flags.out}\n`);
    });
}

/** Trains and writes the model folder; also a part of the quickstart. */
export async function pretrain(
  data: string,
  flags: PretrainFlags,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<void> {
  const train = await loadPart(data, flags.style, flags.trainSplit);
  const evaluation = await loadPart(data, flags.style, flags.evalSplit);
  const answers = await answersFor(data, flags, train);
  const tokenizer = Tokenizer.fromTexts(train.samples.map((sample) => sample.question));
  const { seed, compute, threads, device } = flags;
  using model = Vilt.create(configOf(flags, tokenizer.size), {
    answers,
    tokenizer,
    seed,
    compute,
    threads,
    device,
  });
  const encoders = encodersOf(model);
  let secondsLeft: number | undefined;
  const pretraining = new Pretraining({
    model,
    train: new VqaSource(train.forTraining(answers), encoders),
    evaluation: new VqaSource(evaluation, encoders),
    epochs: flags.epochs,
    batchSize: flags.batchSize,
    learningRate: flags.lr,
    warmup: flags.warmup,
    weightDecay: flags.weightDecay,
    evaluateEvery: flags.evaluateEvery,
    seed,
    runDir: join(flags.out, 'training'),
    resume: flags.resume,
    onProgress: ({ phase, epoch, epochs, batch, batches, loss }) => {
      const doing = phase === 'training' ? `batch ${batch}/${batches}` : `evaluating ${batch}/${batches}`;
      const left = secondsLeft === undefined ? '' : `  about ${duration(secondsLeft)} left`;
      const shown = loss === undefined ? '' : `  loss ${loss.toFixed(3)}`;
      progress.update(`pretraining  epoch ${epoch}/${epochs}  ${doing}${shown}${left}`);
    },
  });
  for await (const report of pretraining.run({ signal })) {
    secondsLeft = report.timing.seconds * (flags.epochs - report.number);
    progress.note(epochLine(report, flags.epochs));
  }
  for (const line of dataLines(pretraining.data)) progress.note(line);
  await model.save(flags.out);
}

function configOf(flags: PretrainFlags, vocabulary: number) {
  const { size, hidden, layers, attentionHeads, patchSize, imageSize, maxText } = flags;
  return viltPreset(size, {
    vocab_size: vocabulary,
    max_position_embeddings: maxText,
    ...(hidden !== undefined && { hidden_size: hidden, intermediate_size: 4 * hidden }),
    ...(layers !== undefined && { num_hidden_layers: layers }),
    ...(attentionHeads !== undefined && { num_attention_heads: attentionHeads }),
    ...(patchSize !== undefined && { patch_size: patchSize }),
    ...(imageSize !== undefined && { image_size: imageSize }),
  });
}

async function answersFor(data: string, flags: PretrainFlags, train: VqaDataset): Promise<AnswerVocabulary> {
  if (flags.answers !== undefined) return AnswerVocabulary.load(flags.answers);
  const path = join(data, 'answers.json');
  const there = await access(path).then(
    () => true,
    () => false,
  );
  return there
    ? AnswerVocabulary.load(path)
    : AnswerVocabulary.fromSamples(train.samples, { top: flags.topAnswers });
}
