// Runs that are really killed, and really stopped with Ctrl-C, end with the numbers of runs that were not.

import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import {
  drawSmallSet,
  expectSameFiles,
  killUntilDone,
  metricsOf,
  quickPretraining,
  quickRun,
  start,
  succeed,
} from './cli-support.js';
import { temporaryFolder } from './federation-support.js';

let folder: string;
let data: string;
let model: string;

beforeAll(async () => {
  folder = await temporaryFolder();
  data = await drawSmallSet(folder);
  model = join(folder, 'model');
  await succeed('pretrain', data, ...quickPretraining, '--epochs', '2', '--out', model);
});

const federate = (strategy: string, run: string, rounds: number, ...more: string[]) => [
  ...['federate', data, '--model', model, '--strategy', strategy, '--run', run, '--rounds', String(rounds)],
  ...[...quickRun, ...more],
];

describe('kill -9 at any moment', () => {
  test.each(['feddat', 'centralised'])('%s', async (strategy) => {
    const rounds = 6;
    const [whole, killed] = [join(folder, `${strategy}-whole`), join(folder, `${strategy}-killed`)];
    const began = performance.now();
    await succeed(...federate(strategy, whole, rounds));
    const wholeMs = performance.now() - began;
    const kills = await killUntilDone(wholeMs, ...federate(strategy, killed, rounds, '--resume'));
    expect(kills).toBeGreaterThan(0);
    await succeed(...federate(strategy, killed, rounds, '--resume'));
    expect(await metricsOf(killed)).toEqual(await metricsOf(whole));
    const last = `checkpoints/round-000${rounds}.safetensors`;
    await expectSameFiles(whole, killed, [last, 'export/poster.safetensors', 'export/outline.safetensors']);
  });
});

describe('Ctrl-C', () => {
  test('ends with 130 after the current step, says how to go on, and going on gives the same numbers', async () => {
    const [whole, stopped] = [join(folder, 'ctrl-c-whole'), join(folder, 'ctrl-c')];
    await succeed(...federate('feddat', whole, 40, '--evaluate-every', '20'));
    const run = start(...federate('feddat', stopped, 40, '--evaluate-every', '20'));
    await run.printed('round 3/40');
    run.child.kill('SIGINT');
    const { status, stderr } = await run.finished;
    expect(status).toBe(130);
    expect(stderr).toMatch(/Stopping after the current step/);
    expect(stderr).toMatch(/Stopped. Continue with: duet federate .*--resume\n/);
    const done = (await metricsOf(stopped)).length;
    expect(done).toBeGreaterThanOrEqual(3);
    expect(done).toBeLessThan(40);
    const resumed = await succeed(...federate('feddat', stopped, 40, '--evaluate-every', '20', '--resume'));
    expect(resumed.stderr).toMatch(new RegExp(`resumed after round ${done}`));
    expect(await metricsOf(stopped)).toEqual(await metricsOf(whole));
  });

  test('a second one ends at once', async () => {
    const run = start(...federate('feddat', join(folder, 'twice'), 1000, '--evaluate-every', '1000'));
    await run.printed('round 2/1000');
    run.child.kill('SIGINT');
    run.child.kill('SIGINT');
    run.child.kill('SIGTERM');
    expect((await run.finished).status).toBe(130);
  });
});

describe('pretraining', () => {
  test('killed and resumed gives the same weights', async () => {
    const [whole, killed] = [join(folder, 'pretrained'), join(folder, 'pretrained-killed')];
    const args = ['pretrain', data, ...quickPretraining, '--epochs', '12'];
    await succeed(...args, '--out', whole);
    const run = start(...args, '--out', killed);
    await run.printed('epoch 3/12');
    run.child.kill('SIGKILL');
    await run.finished;
    const done = (await metricsOf(join(killed, 'training'))).length;
    expect(done).toBeLessThan(12);
    await succeed(...args, '--out', killed, '--resume');
    expect(await metricsOf(join(killed, 'training'))).toEqual(await metricsOf(join(whole, 'training')));
    await expectSameFiles(whole, killed, [
      'model.safetensors',
      'heads.safetensors',
      'config.json',
      'vocab.txt',
      'answers.json',
    ]);
  });
});
