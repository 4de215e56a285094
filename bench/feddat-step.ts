// `feddat-step`: the time and memory of one local step of FedDAT on ViLT-B/32, ours and, with `--peer <python>`, the same
// work in PyTorch. Both sides run alternately in one run on the same weights and the same batch, each in a process of its
// own, so that their ratio holds even where the machine's speed does not. docs/performance.md explains every figure.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type Command, Option } from 'commander';
import { z } from 'zod';
import { native } from '../dist/native.js';
import { fileNames } from './feddat-files.js';
import type { OurOptions } from './feddat-ours.js';
import { type CaseResult, describeCase, type Side } from './feddat-report.js';
import { LineProcess } from './line-process.js';
import { count, type Dtype, measureProducts, threadsOption } from './product-rate.js';
import { median, summarise } from './statistics.js';
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

const Ready = z.object({ ready: z.string(), importedBytes: z.number() });
const Losses = z.object({ loss1: z.number(), loss0: z.number() });
const Answer = z.object({
  seconds: z.array(z.number()),
  cpuSeconds: z.number(),
  peakBytes: z.number(),
  losses: z.array(Losses),
  memory: z.object({ parameterBytes: z.number(), arenaPeakBytes: z.number() }).optional(),
});

const here = path.dirname(fileURLToPath(import.meta.url));
const script = (name: string): string => path.join(here, name);
const peerScript = path.join(here, '../bench/peers/feddat_step.py');

/** What one side has measured so far. */
class Runner implements Disposable {
  readonly seconds: number[] = [];
  readonly losses: z.infer<typeof Losses>[] = [];
  readonly #cpuSeconds: number[] = [];
  #peakBytes = 0;
  #memory: z.infer<typeof Answer>['memory'];
  #ready: z.infer<typeof Ready> | undefined;

  constructor(readonly child: LineProcess) {}

  /** Waits until the model is loaded, then runs steps that are not timed. */
  async start(warmup: number): Promise<void> {
    this.#ready = Ready.parse(await this.child.ask());
    for (let i = 0; i < warmup; i++) await this.step(false);
  }

  async step(timed: boolean): Promise<void> {
    const answer = Answer.parse(await this.child.ask('step 1'));
    this.losses.push(...answer.losses);
    this.#peakBytes = answer.peakBytes;
    this.#memory = answer.memory;
    if (!timed) return;
    this.seconds.push(...answer.seconds);
    this.#cpuSeconds.push(answer.cpuSeconds);
  }

  [Symbol.dispose](): void {
    this.child[Symbol.dispose]();
  }

  result(threads: number): Side {
    const sum = (values: number[]): number => values.reduce((total, value) => total + value, 0);
    return {
      name: this.#ready?.ready ?? '',
      ...summarise(this.seconds),
      seconds: this.seconds,
      processorSeconds: median(this.#cpuSeconds),
      processorUse: sum(this.#cpuSeconds) / (sum(this.seconds) * threads),
      peakBytes: this.#peakBytes,
      importedBytes: this.#ready?.importedBytes ?? 0,
      ...(this.#memory && { memory: this.#memory }),
    };
  }
}

function startOurs(folder: string, shape: StepShape, dtype: Dtype, options: Options): Runner {
  const { threads, order } = options;
  const argument: OurOptions = { folder, shape, dtype, threads, order };
  const env = { ...process.env, OMP_NUM_THREADS: String(threads) };
  return new Runner(
    new LineProcess('Our side', process.execPath, [script('feddat-ours.js'), JSON.stringify(argument)], env),
  );
}

function startPeer(python: string, folder: string, shape: StepShape, dtype: Dtype, options: Options): Runner {
  const files = fileNames(folder);
  const args = [peerScript, '--model', files.model, '--state', files.state, '--inputs', files.batch];
  args.push('--answers', String(shape.answers), '--reduction', String(shape.reduction), '--dtype', dtype);
  args.push('--threads', String(options.threads), '--attention', options.peerAttention);
  const env = { ...process.env, OMP_NUM_THREADS: String(options.threads), PYTHONDONTWRITEBYTECODE: '1' };
  return new Runner(new LineProcess('The peer', python, args, env));
}

/** Largest relative difference of the losses, at the first step and over all. */
function compareLosses(a: Runner, b: Runner): { firstStep: number; largest: number } {
  const differences = a.losses.slice(0, b.losses.length).map((ours, i) => {
    const theirs = b.losses[i]!;
    const relative = (x: number, y: number): number => Math.abs(x - y) / Math.max(Math.abs(y), 1e-9);
    return Math.max(relative(ours.loss1, theirs.loss1), relative(ours.loss0, theirs.loss0));
  });
  return { firstStep: differences[0] ?? Number.NaN, largest: Math.max(...differences) };
}

async function runCase(
  folder: string,
  shape: StepShape,
  dtype: Dtype,
  options: Options,
): Promise<CaseResult> {
  const work = workOfStep(shape, options.order);
  const before = await measureProducts(work.products, dtype, options.threads);
  using ours = startOurs(folder, shape, dtype, options);
  using peer = options.peer ? startPeer(options.peer, folder, shape, dtype, options) : undefined;
  await ours.start(options.warmup);
  await peer?.start(options.warmup);
  // One after the other, the first one changing, with a pause in which threads that still spin go to sleep.
  for (let i = 0; i < options.repeats; i++) {
    const turns = peer ? [ours, peer] : [ours];
    if (i % 2 === 1) turns.reverse();
    for (const side of turns) {
      await sleep(300);
      await side.step(true);
    }
  }
  const oursResult = ours.result(options.threads);
  const after = await measureProducts(work.products, dtype, options.threads);
  const rates = after.gflops > before.gflops ? after : before;
  const floorSeconds = work.total / (rates.gflops * 1e9);
  const result: CaseResult = {
    batch: shape.batch,
    dtype,
    threads: options.threads,
    order: options.order,
    ours: oursResult,
    work: { total: work.total, parts: work.parts, forwards: work.total / work.forward },
    rates,
    floorSeconds,
    ofRate: floorSeconds / oursResult.median,
  };
  if (!peer) return result;
  const peerResult = peer.result(options.threads);
  return {
    ...result,
    peer: peerResult,
    peerWork: workOfStep(shape, 'published').total,
    ratio: peerResult.median / oursResult.median,
    pairs: summarise(ours.seconds.map((seconds, i) => peer.seconds[i]! / seconds)),
    processorRatio: peerResult.processorSeconds / oursResult.processorSeconds,
    memoryRatio: oursResult.peakBytes / peerResult.peakBytes,
    ratioAtFloor: peerResult.median / floorSeconds,
    lossDifference: compareLosses(ours, peer),
  };
}

/** The same numbers on both sides? fp32 differs by rounding; bf16 rounds at other places on the two sides. */
function disagreement(result: CaseResult): string | undefined {
  if (!result.lossDifference) return undefined;
  const tolerance = result.dtype === 'fp32' ? 1e-4 : 2e-2;
  const { firstStep } = result.lossDifference;
  if (firstStep <= tolerance) return undefined;
  return `batch ${result.batch}, ${result.dtype}: the losses of the first step differ by ${firstStep.toExponential(1)} (expected at most ${tolerance}), so the two sides do not do the same work`;
}

async function feddatStep(options: Options): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), 'duet-bench-'));
  const clean = (): void => rmSync(folder, { recursive: true, force: true });
  const interrupted = (): void => {
    clean();
    process.exit(130);
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  const cases: CaseResult[] = [];
  const say = options.json ? console.error : console.log;
  const { isa, onednn } = native.systemInfo();
  const processor = cpus()[0]?.model.trim() ?? 'unknown processor';
  say(`${processor}, ${cpus().length} processors, ${options.threads} threads, ${isa}, oneDNN ${onednn}`);
  try {
    for (const batch of options.batch) {
      const shape: StepShape = { ...modelSizes[options.size], ...options, batch };
      execFileSync(process.execPath, [
        script('feddat-files.js'),
        folder,
        JSON.stringify(shape),
        `${options.seed}`,
      ]);
      for (const dtype of options.dtype) {
        const result = await runCase(folder, shape, dtype, options);
        cases.push(result);
        say(`\n${describeCase(result)}`);
        const problem = disagreement(result);
        if (problem) {
          console.error(problem);
          process.exitCode = 1;
        }
      }
    }
  } finally {
    clean();
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
  }
  if (options.json) {
    const machine = { processor, processors: cpus().length, isa, onednn, node: process.version };
    console.log(JSON.stringify({ benchmark: 'feddat-step', machine, cases }));
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
      feddatStep({ ...options, batch: options.batch ?? [8, 2], dtype: options.dtype ?? ['fp32', 'bf16'] }),
    );
}
