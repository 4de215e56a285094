// Sticker trainings that are really killed, also while a checkpoint is written, and really stopped with Ctrl-C, end with the bits of
// those that were not.

import { watch } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import { generateStickers } from '../src/stickers/synthetic/generate.js';
import { expectSameFiles, killUntilDone, metricsOf, start, succeed } from './cli-support.js';
import { temporaryFolder } from './data-support.js';
import { quickStickers } from './sticker-support.js';

let folder: string;
let data: string;

beforeAll(async () => {
  folder = await temporaryFolder();
  data = join(folder, 'data');
  await generateStickers(data, { size: 16, frames: 6 });
});

const train = (run: string, ...more: string[]) => [
  ...['stickers', 'train', data, ...quickStickers, '--run', join(folder, run)],
  ...['--report-every', '3', ...more],
];

/** Metrics, and every byte of the last checkpoint and of what opens it. */
async function expectSameRuns(whole: string, other: string, steps: number): Promise<void> {
  const [a, b] = [join(folder, whole), join(folder, other)];
  expect(await metricsOf(b)).toEqual(await metricsOf(a));
  const last = `checkpoints/step-${String(steps).padStart(7, '0')}`;
  const names = ['average', 'first-moment', 'second-moment', 'weights'].map((name) => `${name}.safetensors`);
  const inLast = [...names, 'state.json'];
  expect((await readdir(join(b, last))).sort()).toEqual(inLast.sort());
  await expectSameFiles(a, b, [...inLast.map((name) => join(last, name)), 'pipeline.json', 'vocab.txt']);
  expect(await partials(other)).toEqual([]);
}

const partials = async (run: string) =>
  (await readdir(join(folder, run, 'checkpoints'))).filter((name) => name.includes('.partial-'));

/** Starts a training and kills it some time after it has begun to write its `nth` checkpoint. */
async function killInCheckpoint(run: string, nth: number, afterMs: number, args: string[]): Promise<void> {
  const { child, finished } = start(...args);
  const begun = new Set<string>();
  const seen = new Promise<void>((resolve) => {
    const watcher = watch(join(folder, run, 'checkpoints'), (_, name) => {
      if (name?.includes('.partial-')) begun.add(name);
      if (begun.size >= nth) resolve();
    });
    void finished.then(() => watcher.close());
  });
  await Promise.race([seen, finished]);
  if (afterMs > 0) await setTimeout(afterMs);
  child.kill('SIGKILL');
  expect((await finished).signal).toBe('SIGKILL');
}

describe('kill -9', () => {
  const steps = 12;
  const options = ['--steps', String(steps), '--checkpoint-every', '1'];
  let wholeMs: number;

  beforeAll(async () => {
    const began = performance.now();
    await succeed(...train('whole', ...options));
    wholeMs = performance.now() - began;
  });

  test('at any moment', async () => {
    const args = train('killed', ...options, '--resume');
    expect(await killUntilDone(wholeMs, ...args)).toBeGreaterThan(0);
    await succeed(...args);
    await expectSameRuns('whole', 'killed', steps);
  });

  test('while a checkpoint is written', async () => {
    const args = train('half', ...options, '--resume');
    await mkdir(join(folder, 'half/checkpoints'), { recursive: true });
    let halves = 0;
    for (const [nth, afterMs] of [
      [1, 0],
      [2, 2],
      [3, 4],
    ] as const) {
      await killInCheckpoint('half', nth, afterMs, args);
      halves += (await partials('half')).length;
    }
    expect(halves).toBeGreaterThan(0);
    const { stderr } = await succeed(...args);
    expect(stderr).toMatch(/continuing after step \d+/);
    await expectSameRuns('whole', 'half', steps);
  });
});

test('Ctrl-C ends with 130 after the current step, says how to go on, and going on gives the same bits', async () => {
  const options = ['--steps', '18', '--accumulation', '2', '--schedule', 'cosine'];
  await succeed(...train('calm', ...options));
  const run = start(...train('stopped', ...options));
  await run.printed('step 3/18');
  run.child.kill('SIGINT');
  const { status, stderr } = await run.finished;
  expect(status).toBe(130);
  expect(stderr).toMatch(/Stopping after the current step/);
  expect(stderr).toMatch(/Stopped. Continue with: duet stickers train .*--resume\n/);
  const [checkpoint] = await readdir(join(folder, 'stopped/checkpoints'));
  const done = Number(/^step-(\d+)$/.exec(checkpoint ?? '')?.[1]);
  expect(done).toBeGreaterThanOrEqual(3);
  expect(done).toBeLessThan(18);
  const resumed = await succeed(...train('stopped', ...options, '--resume'));
  expect(resumed.stderr).toContain(`continuing after step ${done}\n`);
  await expectSameRuns('calm', 'stopped', 18);
});
