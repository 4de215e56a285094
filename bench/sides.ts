// The two sides of a comparison: each a process of its own that works on request, taking turns in one run, so that their
// ratio holds even where the machine's speed does not. docs/performance.md explains every figure.
import { mkdtempSync, rmSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';
import { native } from '../dist/native.js';
import { LineProcess } from './line-process.js';
import { type Dtype, measureProducts } from './product-rate.js';
import { type CaseResult, describeCase, type Side } from './report.js';
import { median, summarise } from './statistics.js';

const Ready = z.object({ ready: z.string(), importedBytes: z.number() });
const Losses = z.record(z.string(), z.number());
const Answer = z.object({
  seconds: z.array(z.number()),
  cpuSeconds: z.number(),
  peakBytes: z.number(),
  losses: z.array(Losses),
  memory: z.object({ parameterBytes: z.number(), arenaPeakBytes: z.number() }).optional(),
});

const here = path.dirname(fileURLToPath(import.meta.url));
/** A compiled script beside this one. */
export const script = (name: string): string => path.join(here, name);
const peerScript = (name: string): string => path.join(here, '../bench/peers', name);

/** What one side has measured so far. */
export class Runner implements Disposable {
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
      processorSteps: this.#cpuSeconds,
      processorUse: sum(this.#cpuSeconds) / (sum(this.seconds) * threads),
      peakBytes: this.#peakBytes,
      importedBytes: this.#ready?.importedBytes ?? 0,
      ...(this.#memory && { memory: this.#memory }),
    };
  }
}

/** Our side: a script of this folder that takes its options as JSON. */
export function startOurs(file: string, options: { threads: number }): Runner {
  const env = { ...process.env, OMP_NUM_THREADS: String(options.threads) };
  return new Runner(
    new LineProcess(
      'Our side',
      process.execPath,
      ['--expose-gc', script(file), JSON.stringify(options)],
      env,
    ),
  );
}

export function startPeer(python: string, file: string, args: readonly string[], threads: number): Runner {
  const env = { ...process.env, OMP_NUM_THREADS: String(threads), PYTHONDONTWRITEBYTECODE: '1' };
  return new Runner(
    new LineProcess('The peer', python, [peerScript(file), ...args, '--threads', String(threads)], env),
  );
}

export interface Comparison {
  /** How the case is called. */
  title: string;
  dtype: Dtype;
  threads: number;
  warmup: number;
  repeats: number;
  /** First all steps of ours, then all of the peer's: for sizes whose two processes do not fit the memory together. */
  apart?: boolean;
  /** Which of the numbers both sides give are compared. Default: all of the peer's. */
  losses?: string[];
  /** How large a difference of the first step's losses is still rounding. Default 1e-4 (fp32), 2e-2 (bf16). */
  tolerance?: number;
  /** FLOP of ours, by part; and of the peer's. */
  work: { total: number; parts: Record<string, number>; products: Parameters<typeof measureProducts>[0] };
  peerWork: number;
  /** A forward's FLOP, to say how many the work is. */
  forward?: number;
  ours: () => Runner;
  peer?: (() => Runner) | undefined;
}

/** One after the other, the first one changing, with a pause in which threads that still spin go to sleep. */
async function takeTurns(sides: Runner[], c: Comparison): Promise<void> {
  for (const side of sides) await side.start(c.warmup);
  for (let i = 0; i < c.repeats; i++) {
    for (const side of i % 2 === 1 ? sides.toReversed() : sides) {
      await sleep(300);
      await side.step(true);
    }
  }
}

async function measureSides(c: Comparison): Promise<{ ours: Runner; peer: Runner | undefined }> {
  if (c.apart) {
    using ours = c.ours();
    await takeTurns([ours], c);
    ours[Symbol.dispose]();
    using peer = c.peer?.();
    if (peer) await takeTurns([peer], c);
    return { ours, peer };
  }
  using ours = c.ours();
  using peer = c.peer?.();
  await takeTurns(peer ? [ours, peer] : [ours], c);
  return { ours, peer };
}

export async function compare(c: Comparison): Promise<CaseResult> {
  const before = await measureProducts(c.work.products, c.dtype, c.threads);
  const { ours, peer } = await measureSides(c);
  const oursResult = ours.result(c.threads);
  const after = await measureProducts(c.work.products, c.dtype, c.threads);
  const rates = after.gflops > before.gflops ? after : before;
  const floorSeconds = c.work.total / (rates.gflops * 1e9);
  const { total, parts } = c.work;
  const result: CaseResult = {
    title: c.title,
    dtype: c.dtype,
    threads: c.threads,
    apart: c.apart ?? false,
    ours: oursResult,
    work: { total, parts, ...(c.forward && { forwards: total / c.forward }) },
    rates,
    floorSeconds,
    ofRate: floorSeconds / oursResult.median,
    ofRateByProcessor: floorSeconds / (oursResult.processorSeconds / c.threads),
  };
  if (!peer) return result;
  const peerResult = peer.result(c.threads);
  return {
    ...result,
    peer: peerResult,
    peerWork: c.peerWork,
    ratio: peerResult.median / oursResult.median,
    pairs: summarise(ours.seconds.map((seconds, i) => peer.seconds[i]! / seconds)),
    processorRatio: peerResult.processorSeconds / oursResult.processorSeconds,
    memoryRatio: oursResult.peakBytes / peerResult.peakBytes,
    ratioAtFloor: peerResult.median / floorSeconds,
    lossDifference: compareLosses(ours, peer, c.losses),
  };
}

/** Largest relative difference of the losses, at the first step and over all. */
function compareLosses(
  a: Runner,
  b: Runner,
  names?: readonly string[],
): { firstStep: number; largest: number } {
  const differences = a.losses.slice(0, b.losses.length).map((ours, i) => {
    const theirs = b.losses[i]!;
    const relative = (names ?? Object.keys(theirs)).map((name) => {
      const [x, y] = [ours[name] ?? Number.NaN, theirs[name] ?? Number.NaN];
      return Math.abs(x - y) / Math.max(Math.abs(y), 1e-9);
    });
    return Math.max(...relative);
  });
  return { firstStep: differences[0] ?? Number.NaN, largest: Math.max(...differences) };
}

/** The same numbers on both sides? fp32 differs by rounding; bf16 rounds at other places on the two sides. */
function disagreement(result: CaseResult, tolerance: number): string | undefined {
  // Written so that a number that is missing or not finite is a disagreement too.
  if (!result.lossDifference || result.lossDifference.firstStep <= tolerance) return undefined;
  return `${result.title}, ${result.dtype}: the losses of the first step differ by ${result.lossDifference.firstStep.toExponential(1)} (expected at most ${tolerance}), so the two sides do not do the same work`;
}

/** Runs the comparisons that `cases` gives, in a folder that is gone afterwards, and prints them. */
export async function runCases(
  benchmark: string,
  { threads, json }: { threads: number; json?: boolean },
  cases: (folder: string) => Iterable<Comparison>,
): Promise<void> {
  const folder = mkdtempSync(path.join(tmpdir(), 'duet-bench-'));
  const clean = (): void => rmSync(folder, { recursive: true, force: true });
  const interrupted = (): void => {
    clean();
    process.exit(130);
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  const results: CaseResult[] = [];
  const say = json ? console.error : console.log;
  const { isa, onednn } = native.systemInfo();
  const processor = cpus()[0]?.model.trim() ?? 'unknown processor';
  say(`${processor}, ${cpus().length} processors, ${threads} threads, ${isa}, oneDNN ${onednn}`);
  try {
    for (const comparison of cases(folder)) {
      const result = await compare(comparison);
      results.push(result);
      say(`\n${describeCase(result)}`);
      const tolerance = comparison.tolerance ?? (comparison.dtype === 'fp32' ? 1e-4 : 2e-2);
      const problem = disagreement(result, tolerance);
      if (problem) {
        console.error(problem);
        process.exitCode = 1;
      }
    }
  } finally {
    clean();
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
  }
  if (json) {
    const machine = { processor, processors: cpus().length, isa, onednn, node: process.version };
    console.log(JSON.stringify({ benchmark, machine, cases: results }));
  }
}
