// Helpers of the command line tests: `duet` as users start it (the compiled program), on a small drawn data set.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';

const program = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
if (!existsSync(program)) throw new Error('The command is not compiled yet; run npm run build:ts');

export interface Finished {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface Started {
  child: ChildProcess;
  finished: Promise<Finished>;
  /** Resolves when the output so far holds the text. */
  printed(text: string | RegExp): Promise<void>;
}

/** Starts `duet`. */
export function start(...args: string[]): Started {
  const child = spawn(process.execPath, [program, ...args], { env: { ...process.env, NODE_OPTIONS: '' } });
  const output = { stdout: '', stderr: '' };
  const listeners = new Set<() => void>();
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (text: string) => {
      output[name] += text;
      for (const listener of listeners) listener();
    });
  }
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status, signal) => {
      resolve({ status, signal, ...output });
      for (const listener of listeners) listener();
    });
  });
  const printed = (text: string | RegExp) =>
    new Promise<void>((resolve, reject) => {
      const look = () => {
        const all = output.stdout + output.stderr;
        const found = typeof text === 'string' ? all.includes(text) : text.test(all);
        const ended = child.exitCode !== null || child.signalCode !== null;
        if (!found && !ended) return;
        listeners.delete(look);
        if (found) resolve();
        else reject(new Error(`Expected ${text} in the output of duet but it ended with:\n${all}`));
      };
      listeners.add(look);
      look();
    });
  return { child, finished, printed };
}

/** Runs `duet` to its end. */
export function duet(...args: string[]): Promise<Finished> {
  return start(...args).finished;
}

/** Runs `duet` and fails with its output unless it succeeds. */
export async function succeed(...args: string[]): Promise<Finished> {
  const run = await duet(...args);
  if (run.status !== 0)
    throw new Error(`duet ${args.join(' ')} ended with ${run.status ?? run.signal}:\n${run.stderr}`);
  return run;
}

/**
 * Starts a command again and again and kills each run at another moment (in the start, in steps, between them, while files are
 * written), until one gets through.
 * @param wholeMs what the command takes when it is left alone
 * @returns how many were killed
 */
export async function killUntilDone(wholeMs: number, ...args: string[]): Promise<number> {
  let kills = 0;
  for (let attempt = 0; attempt < 40; attempt++) {
    const { child, finished } = start(...args);
    const waitMs = wholeMs * (0.35 + ((attempt * 0.37) % 0.6)) + attempt * 0.02 * wholeMs;
    const { status } = await Promise.race([finished, setTimeout(waitMs, { status: undefined })]);
    if (status === 0) break;
    child.kill('SIGKILL');
    if ((await finished).signal === 'SIGKILL') kills++;
  }
  return kills;
}

export async function expectSameFiles(a: string, b: string, names: readonly string[]): Promise<void> {
  for (const name of names) {
    const [left, right] = await Promise.all([readFile(join(a, name)), readFile(join(b, name))]);
    expect(left.equals(right), name).toBe(true);
  }
}

/** Draws a small set: two clients of 16 training pictures. */
export async function drawSmallSet(folder: string): Promise<string> {
  const data = join(folder, 'data');
  const sizes = ['--train', '16', '--val', '6', '--neutral-train', '24', '--neutral-val', '6'];
  await succeed('data', 'synthetic', data, '--size', '32', '--styles', 'poster,outline', ...sizes);
  return data;
}

/** Options that make a backbone of the small set in about a second. */
export const quickPretraining = [
  ...['--style', 'plain', '--size', 'tiny', '--hidden', '32', '--image-size', '32', '--batch-size', '12'],
  ...['--lr', '2e-3', '--max-text', '16', '--threads', '1'],
];

/** Options of short federated runs. */
export const quickRun = [
  '--batch-size',
  '6',
  '--lr',
  '1e-2',
  '--adapter-reduction',
  '8',
  '--threads',
  '1',
  '--nominal-epochs',
  '3',
];

/** Lines of metrics.jsonl without their times. */
export async function metricsOf(runDir: string): Promise<Record<string, unknown>[]> {
  const text = await readFile(join(runDir, 'metrics.jsonl'), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => {
      const { timing: _, ...rest } = JSON.parse(line) as Record<string, unknown>;
      return rest;
    });
}
