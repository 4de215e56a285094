// The run folder: what is written, who may write, and what happens when it cannot be.

import { type ChildProcess, spawn } from 'node:child_process';
import { copyFile, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { FederationOptions } from '../src/federated/options.js';
import type { RoundReport } from '../src/federated/report.js';
import { Centralised } from '../src/federated/strategies/centralised.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import { native } from '../src/native.js';
import { differences } from '../src/run/differences.js';
import { MetricsFile } from '../src/run/metrics.js';
import { RunFolder } from '../src/run/run-folder.js';
import {
  allRounds,
  temporaryFolder,
  tinyClients,
  tinyFederation,
  tinyModel,
  withoutTiming,
} from './federation-support.js';

async function lines(runDir: string): Promise<RoundReport[]> {
  const text = await readFile(join(runDir, 'metrics.jsonl'), 'utf8');
  return text
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as RoundReport);
}

/** Runs up to a round and stops there, as a killed process would. */
async function runUntil(round: number, options: Partial<FederationOptions>): Promise<void> {
  for await (const report of tinyFederation(options).run()) if (report.number === round) break;
}

const checkpoints = (runDir: string) => readdir(join(runDir, 'checkpoints')).then((names) => names.sort());
describe('a run folder', () => {
  test('holds config, one line a round, the last checkpoints and the best, and the clients in published names', async () => {
    const runDir = await temporaryFolder();
    const reports = await allRounds(tinyFederation({ rounds: 5, runDir, seed: 3 }));
    const config = JSON.parse(await readFile(join(runDir, 'config.json'), 'utf8'));
    expect(config).toMatchObject({
      kind: 'federation',
      settings: { rounds: 5, seed: 3, learningRate: 0.01, strategy: { name: 'feddat', temperature: 3 } },
      versions: { 'duet-train': expect.any(String), node: process.versions.node },
    });
    expect(await lines(runDir)).toEqual(reports);
    const best = reports.at(-1)!.best!.round;
    const kept = [...new Set([4, 5, best])].sort().map((round) => `round-000${round}.safetensors`);
    expect(await checkpoints(runDir)).toEqual(kept);
    const { tensors, metadata } = await native.readSafetensors(join(runDir, 'export/client0.safetensors'));
    expect(metadata.client).toBe('client0');
    expect(
      Object.keys(tensors).every((name) =>
        /^(vilt_encoder\.vilt\.encoder\..*\.adapter_[012]_|task_layer\.vqa\.)/.test(name),
      ),
    ).toBe(true);
    expect((await readdir(runDir)).sort()).toEqual([
      'checkpoints',
      'config.json',
      'data.json',
      'export',
      'metrics.jsonl',
    ]);
  });

  test('is not overwritten', async () => {
    const runDir = await temporaryFolder();
    await allRounds(tinyFederation({ runDir }));
    await expect(allRounds(tinyFederation({ runDir }))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/already holds a run; resume it/),
    });
  });

  test('of other settings is refused on resume, with their names', async () => {
    const runDir = await temporaryFolder();
    await runUntil(1, { runDir });
    const other = {
      runDir,
      resume: true,
      rounds: 3,
      learningRate: 0.5,
      strategy: new FedDat({ temperature: 2 }),
    };
    await expect(allRounds(tinyFederation(other))).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(
        /strategy.temperature was 3 and is 2; rounds was 2 and is 3; learningRate was 0.01 and is 0.5/,
      ),
    });
    const others = { runDir, resume: true, clients: tinyClients(3) };
    await expect(allRounds(tinyFederation(others))).rejects.toThrow(/clients.2 was nothing and is/);
    await expect(allRounds(tinyFederation({ runDir, resume: true, model: tinyModel(7) }))).rejects.toThrow(
      /model.fingerprint was/,
    );
    const model = tinyModel();
    const { 'task_layer.vqa.clf_fc1.bias': bias } = await model.read(['task_layer.vqa.clf_fc1.bias']);
    await model.write({ 'task_layer.vqa.clf_fc1.bias': bias!.map((value) => value + 1) });
    await expect(allRounds(tinyFederation({ runDir, resume: true, model }))).rejects.toThrow(
      /initialValues was "\w+" and is "\w+"/,
    );
  });

  test('that is finished has nothing left to do on resume', async () => {
    const runDir = await temporaryFolder();
    const reports = await allRounds(tinyFederation({ runDir }));
    const again = tinyFederation({ runDir, resume: true });
    expect(await allRounds(again)).toEqual([]);
    expect(again.history).toEqual(reports);
  });

  test('that does not exist yet begins on resume', async () => {
    const runDir = join(await temporaryFolder(), 'deep', 'er');
    expect(await allRounds(tinyFederation({ runDir, resume: true }))).toHaveLength(2);
  });
});

describe('resuming in one process', () => {
  const cases: [string, () => Partial<FederationOptions>][] = [
    ['feddat', () => ({ strategy: new FedDat() })],
    ['feddat with sampled clients', () => ({ clients: tinyClients(4), sampling: { fraction: 0.5 } })],
    ['centralised, with its optimizer', () => ({ strategy: new Centralised() })],
    ['an evaluation before the first round', () => ({ evaluation: { before: true, every: 2 } })],
  ];
  test.each(cases)('%s: bit for bit', async (_, options) => {
    const [whole, broken] = [await temporaryFolder(), await temporaryFolder()];
    await allRounds(tinyFederation({ ...options(), rounds: 5, runDir: whole }));
    await runUntil(2, { ...options(), rounds: 5, runDir: broken });
    await allRounds(tinyFederation({ ...options(), rounds: 5, runDir: broken, resume: true }));
    expect(withoutTiming(await lines(broken))).toEqual(withoutTiming(await lines(whole)));
    const last = 'checkpoints/round-0005.safetensors';
    expect((await readFile(join(broken, last))).equals(await readFile(join(whole, last)))).toBe(true);
  });

  test('cuts metrics behind the checkpoint, also half a line', async () => {
    const runDir = await temporaryFolder();
    await runUntil(2, { rounds: 4, runDir });
    const path = join(runDir, 'metrics.jsonl');
    const text = await readFile(path, 'utf8');
    await writeFile(path, `${text}{"number":3,"metrics":{}}\n{"number":4,"met`);
    await allRounds(tinyFederation({ rounds: 4, runDir, resume: true }));
    expect((await lines(runDir)).map((report) => report.number)).toEqual([1, 2, 3, 4]);
    expect((await lines(runDir))[2]!.clients).toHaveLength(2);
  });

  test('takes the checkpoint before a damaged one, and removes what a killed process left', async () => {
    const runDir = await temporaryFolder();
    await runUntil(3, { rounds: 4, runDir });
    await truncate(join(runDir, 'checkpoints/round-0003.safetensors'), 1000);
    await writeFile(join(runDir, 'checkpoints/round-0004.safetensors.partial-1-2'), 'x');
    const resumed = tinyFederation({ rounds: 4, runDir, resume: true });
    expect((await allRounds(resumed)).map((report) => report.number)).toEqual([3, 4]);
    expect((await checkpoints(runDir)).filter((name) => name.includes('partial'))).toEqual([]);
  });

  test('says so when every checkpoint is damaged', async () => {
    const runDir = await temporaryFolder();
    await runUntil(1, { runDir });
    await truncate(join(runDir, 'checkpoints/round-0001.safetensors'), 10);
    await expect(allRounds(tinyFederation({ runDir, resume: true }))).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringMatching(/readable checkpoint in .* but all are damaged/),
    });
  });

  test('refuses a checkpoint of something else', async () => {
    const runDir = await temporaryFolder();
    await runUntil(1, { runDir });
    const path = join(runDir, 'checkpoints/round-0001.safetensors');
    await copyFile(join(import.meta.dirname, 'federation.test.ts'), path);
    await expect(allRounds(tinyFederation({ runDir, resume: true }))).rejects.toMatchObject({
      code: 'CORRUPT',
    });
  });
});

describe('the lock', () => {
  const settings = { kind: 'test', settings: {}, resume: true, keep: 1 };

  test('keeps a second run out while the first one goes on', async () => {
    const runDir = await temporaryFolder();
    const rounds = tinyFederation({ runDir }).run();
    await rounds.next();
    await expect(allRounds(tinyFederation({ runDir, resume: true }))).rejects.toMatchObject({
      code: 'IO',
      message: expect.stringMatching(new RegExp(`in use by process ${process.pid}`)),
    });
    await rounds.return();
    expect(await allRounds(tinyFederation({ runDir, resume: true }))).toHaveLength(1);
  });

  test('of a process that is gone is replaced', async () => {
    const runDir = await temporaryFolder();
    const child: ChildProcess = spawn(process.execPath, ['-e', '']);
    await new Promise((resolve) => child.on('exit', resolve));
    await writeFile(join(runDir, '.lock'), JSON.stringify({ pid: child.pid, host: hostname() }));
    await writeFile(join(runDir, `.lock.${child.pid}.abc`), '');
    await (await RunFolder.open(runDir, settings)).close();
    expect((await readdir(runDir)).filter((name) => name.startsWith('.lock'))).toEqual([]);
  });

  test.runIf(process.platform === 'linux')(
    'whose number now belongs to another process is replaced',
    async () => {
      const runDir = await temporaryFolder();
      await writeFile(
        join(runDir, '.lock'),
        JSON.stringify({ pid: process.pid, host: hostname(), started: '1' }),
      );
      await (await RunFolder.open(runDir, settings)).close();
    },
  );

  test('of another machine is respected', async () => {
    const runDir = await temporaryFolder();
    await writeFile(join(runDir, '.lock'), JSON.stringify({ pid: 1, host: 'elsewhere' }));
    await expect(RunFolder.open(runDir, settings)).rejects.toThrow(/process 1 on elsewhere.*delete .*\.lock/);
  });

  test('with nonsense in it is replaced', async () => {
    const runDir = await temporaryFolder();
    await writeFile(join(runDir, '.lock'), '{"pid":');
    await (await RunFolder.open(runDir, settings)).close();
  });

  test('one of many at once gets it', async () => {
    const runDir = await temporaryFolder();
    const opened = await Promise.allSettled(
      Array.from({ length: 8 }, () => RunFolder.open(runDir, settings)),
    );
    const got = opened.filter((result) => result.status === 'fulfilled');
    expect(got).toHaveLength(1);
    await got[0]!.value.close();
  });
});

describe('a folder that cannot be written', () => {
  test('a file in its place', async () => {
    const runDir = join(await temporaryFolder(), 'file');
    await writeFile(runDir, '');
    await expect(allRounds(tinyFederation({ runDir }))).rejects.toMatchObject({
      message: expect.stringMatching(/Cannot make the run folder .*; choose a folder that can be written/),
    });
  });

  test.runIf(process.platform === 'linux')('a place where nobody may write', async () => {
    await expect(allRounds(tinyFederation({ runDir: '/proc/duet' }))).rejects.toMatchObject({
      message: expect.stringMatching(/Cannot make the run folder \/proc\/duet/),
    });
  });

  test.each([
    ['no config.json', 'config.json', undefined, /holds checkpoints but no config.json/],
    [
      'no metrics',
      'metrics.jsonl',
      undefined,
      /Expected a line of round 2 in .*metrics.jsonl but found none/,
    ],
    ['a line of metrics that is not JSON', 'metrics.jsonl', 'x\n', /metrics\.jsonl/],
  ])('%s beside checkpoints', async (_, name, text, message) => {
    const runDir = await temporaryFolder();
    await allRounds(tinyFederation({ runDir, rounds: 2 }));
    await rm(join(runDir, name));
    if (text !== undefined) await writeFile(join(runDir, name), text);
    await expect(allRounds(tinyFederation({ runDir, rounds: 2, resume: true }))).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringMatching(message),
    });
  });

  test('config.json that is not JSON', async () => {
    const runDir = await temporaryFolder();
    await writeFile(join(runDir, 'config.json'), '{');
    await expect(allRounds(tinyFederation({ runDir, resume: true }))).rejects.toMatchObject({
      code: 'CORRUPT',
    });
  });
});

describe('metrics', () => {
  test('cutting keeps whole lines up to a round', async () => {
    const file = new MetricsFile(join(await temporaryFolder(), 'metrics.jsonl'));
    expect(await file.read()).toEqual([]);
    for (const number of [1, 2, 3]) await file.append({ number });
    await file.cutAfter(2);
    expect(await file.read()).toEqual([{ number: 1 }, { number: 2 }]);
    expect(await readFile(file.path, 'utf8')).toBe('{"number":1}\n{"number":2}\n');
  });

  test.each([
    ['null', 'null'],
    ['{"number":"x"}', '\\{"number":"x"\\}'],
    ['[]', '\\[\\]'],
    ['{"number":', '\\{"number":'],
  ])('a line %s is named with its file and number', async (line, received) => {
    const file = new MetricsFile(join(await temporaryFolder(), 'metrics.jsonl'));
    await writeFile(file.path, `{"number":1}\n${line}\n{"number":3}\n`);
    const expected = {
      name: 'DuetError',
      code: 'CORRUPT',
      message: expect.stringMatching(
        new RegExp(
          `^Expected an object with an integer number in line 2 of ${file.path} but received ${received}; put the line back`,
        ),
      ),
    };
    await expect(file.read()).rejects.toMatchObject(expected);
    await expect(file.cutAfter(2)).rejects.toMatchObject(expected);
  });

  test.runIf(process.platform === 'linux')('a full disk', async () => {
    const file = new MetricsFile('/dev/full');
    await expect(file.append({ number: 1 })).rejects.toMatchObject({
      code: 'DISK_FULL',
      message: expect.stringMatching(/no space is left/),
    });
  });
});

test('differences are named by their path', () => {
  const before = { a: 1, b: { c: [1, 2] }, d: 'x' };
  expect(differences(before, { a: 1, b: { c: [1, 3] }, d: 'x' })).toEqual(['b.c.1 was 2 and is 3']);
  expect(differences(before, { a: 1, b: { c: [1, 2] } })).toEqual(['d was "x" and is nothing']);
  expect(differences(before, structuredClone(before))).toEqual([]);
});
