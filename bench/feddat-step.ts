// `feddat-step`: the time and memory of one local step of FedDAT on ViLT-B/32, ours and, with `--peer <python>`, the same
// work in PyTorch. Both sides run alternately in one run on the same weights and the same batch, each in a process of its
// own, so that their ratio holds even where the machine's speed does not. docs/performance.md explains every figure.
import { execFileSync } from 'node:child_process';
import { type Command, Option } from 'commander';
import { fileNames } from './feddat-files.js';
import type { OurOptions } from './feddat-ours.js';
import { count, type Dtype, threadsOption } from './product-rate.js';
import { type Comparison, runCases, script, startOurs, startPeer } from './sides.js';
import { modelSizes, type PassOrder, type StepShape, workOfStep } from './work.js';

interface Options {
  size: keyof typeof modelSizes;
  batch: number[];
  dtype: Dtype[];
  threads: number;
  repeats: number;
  warmup: number;
  order: PassOrder;
  answers: number;
  textTokens: number;
  seed: number;
  peer?: string;
  peerAttention: string;
  json?: boolean;
}

function* casesOf(folder: string, options: Options): Iterable<Comparison> {
  const { threads, warmup, repeats, order } = options;
  for (const batch of options.batch) {
    const shape: StepShape = { ...modelSizes[options.size], ...options, batch };
    execFileSync(process.execPath, [
      script('feddat-files.js'),
      folder,
      JSON.stringify(shape),
      `${options.seed}`,
    ]);
    for (const dtype of options.dtype) {
      const work = workOfStep(shape, order);
      const argument: OurOptions = { folder, shape, dtype, threads, order };
      const files = fileNames(folder);
      const args = ['--model', files.model, '--state', files.state, '--inputs', files.batch];
      args.push('--answers', String(shape.answers), '--reduction', String(shape.reduction), '--dtype', dtype);
      args.push('--attention', options.peerAttention);
      yield {
        ...{ title: `batch ${batch}, ${order} passes`, dtype, threads, warmup, repeats, work },
        forward: work.forward,
        losses: ['loss1', 'loss0'],
        peerWork: workOfStep(shape, 'published').total,
        ours: () => startOurs('feddat-ours.js', argument),
        peer: options.peer ? () => startPeer(options.peer!, 'feddat_step.py', args, threads) : undefined,
      };
    }
  }
}

export function addFeddatStep(program: Command): void {
  const list = (text: string, previous: number[] | undefined): number[] => [...(previous ?? []), count(text)];
  program
    .command('feddat-step')
    .description(
      'one local step of FedDAT on ViLT-B/32: time, memory, distance from the floor, ratio to PyTorch',
    )
    .addOption(
      new Option('--size <name>', 'sizes of the model').choices(Object.keys(modelSizes)).default('b32'),
    )
    .addOption(new Option('--batch <n...>', 'pictures with questions in a batch').argParser(list))
    .addOption(new Option('--dtype <name...>', 'data type of the products').choices(['fp32', 'bf16']))
    .addOption(threadsOption())
    .option('--repeats <n>', 'timed steps of each side', count, 5)
    .option('--warmup <n>', 'steps of each side before', count, 2)
    .addOption(
      new Option('--order <name>', 'order of our passes').choices(['merged', 'published']).default('merged'),
    )
    .option('--answers <n>', 'answers to choose from', count, 100)
    .option('--text-tokens <n>', 'tokens of a question', count, 40)
    .option('--seed <n>', 'of weights and batch', count, 1)
    .option('--peer <python>', 'a Python with PyTorch, to measure the same work there')
    .addOption(
      new Option('--peer-attention <name>', "the peer's attention")
        .choices(['eager', 'sdpa'])
        .default('eager'),
    )
    .option('--json', 'print JSON')
    .action((options: Partial<Options> & Omit<Options, 'batch' | 'dtype'>) =>
      runCases('feddat-step', options, (folder) =>
        casesOf(folder, {
          ...options,
          batch: options.batch ?? [8, 2],
          dtype: options.dtype ?? ['fp32', 'bf16'],
        }),
      ),
    );
}
