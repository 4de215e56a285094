// `dfgn-step` and `dfgn-sample`: the time and memory of one training step of the frame generation network and of one
// generated clip, ours and, with `--peer <python>`, the same work in PyTorch with the blocks of the diffusers package.
// docs/performance.md explains every figure.
import { execFileSync } from 'node:child_process';
import { type Command, Option } from 'commander';
import { fileNames } from './dfgn-files.js';
import type { OurOptions } from './dfgn-ours.js';
import { count, type Dtype, threadsOption } from './product-rate.js';
import { type Comparison, runCases, script, startOurs, startPeer } from './sides.js';
import { type ClipShape, clipSizes, type WorkOrder, workOfClip } from './work-dfgn.js';

interface Options {
  size: keyof typeof clipSizes;
  clips?: number;
  dtype?: Dtype[];
  threads: number;
  repeats: number;
  warmup: number;
  seed: number;
  peer?: string;
  peerOptimizer?: string;
  checkpoint?: boolean;
  apart?: boolean;
  json?: boolean;
  // Of dfgn-sample:
  steps?: number;
  guidance?: number;
}

function* casesOf(folder: string, options: Options): Iterable<Comparison> {
  const { threads, warmup, repeats, peer, steps, guidance = 1, apart = false } = options;
  const published: ClipShape = clipSizes[options.size];
  const shape = { ...published, clips: options.clips ?? published.clips };
  execFileSync(process.execPath, [script('dfgn-files.js'), folder, JSON.stringify(shape), `${options.seed}`]);
  const files = fileNames(folder);
  const sampling = steps === undefined ? undefined : { steps, guidance };
  const work = (order: WorkOrder) => workOfClip(shape, order, sampling);
  const title =
    `${options.size}, ${shape.clips === 1 ? 'one clip' : `${shape.clips} clips`}` +
    (sampling ? `, ${steps} steps of DDIM with guidance ${guidance}` : '') +
    (options.checkpoint ? ', activations computed again on the way back' : '');
  for (const dtype of options.dtype ?? (['fp32', 'bf16'] as const)) {
    const argument: OurOptions = {
      ...{ folder, shape, dtype, threads },
      ...(sampling && { sampling }),
      ...(options.checkpoint && { checkpoint: true }),
    };
    const args = ['--model', files.model, '--inputs', files.batch, '--dtype', dtype];
    if (sampling) args.push('--sample', String(steps), '--guidance', String(guidance));
    if (options.peerOptimizer) args.push('--optimizer', options.peerOptimizer);
    yield {
      ...{ title, dtype, threads, warmup, repeats, apart },
      work: work('ours'),
      peerWork: work('published').total,
      ours: () => startOurs('dfgn-ours.js', argument),
      peer: peer ? () => startPeer(peer, 'dfgn_step.py', args, threads) : undefined,
    };
  }
}

function common(command: Command, repeats: number, warmup: number): Command {
  return command
    .addOption(
      new Option('--size <name>', 'sizes of the network').choices(Object.keys(clipSizes)).default('small'),
    )
    .option('--clips <n>', 'clips in a batch (default: 2, of the full size 1)', count)
    .addOption(new Option('--dtype <name...>', 'data type of the products').choices(['fp32', 'bf16']))
    .addOption(threadsOption())
    .option('--repeats <n>', 'timed repeats of each side', count, repeats)
    .option('--warmup <n>', 'repeats of each side before', count, warmup)
    .option('--seed <n>', 'of weights and batch', count, 1)
    .option('--peer <python>', 'a Python with PyTorch and diffusers, to measure the same work there')
    .option('--apart', 'first ours, then the peer: where both together do not fit the memory')
    .option('--json', 'print JSON');
}

export function addDfgnStep(program: Command): void {
  const command = program
    .command('dfgn-step')
    .description('one training step of the frame generation network: time, memory, floor, ratio to PyTorch');
  common(command, 5, 2)
    .option('--checkpoint', 'compute activations again on the way back (ours)')
    .addOption(
      new Option('--peer-optimizer <name>', "the peer's AdamW").choices(['usual', 'fused']).default('usual'),
    )
    .action((options: Options) => runCases('dfgn-step', options, (folder) => casesOf(folder, options)));
}

function decimal(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new Error(`Expected a number for --guidance but received ${text}`);
  return value;
}

export function addDfgnSample(program: Command): void {
  const command = program
    .command('dfgn-sample')
    .description('generation of a batch of clips: time, memory, floor, ratio to PyTorch');
  common(command, 3, 1)
    .option('--steps <n>', 'sampling steps', count, 10)
    .option('--guidance <scale>', 'of the text', decimal, 9)
    .action((options: Options) => runCases('dfgn-sample', options, (folder) => casesOf(folder, options)));
}
