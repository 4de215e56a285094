// Servers and clients that are killed with -9: the round goes on, and the end is that of the rules.
// DUET_SOAK_ROUNDS=200 makes the last test a soak.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';
import { Random } from '../src/data/random.js';
import { verifyAudit } from '../src/federated/server/audit.js';
import type { RoundHandler } from '../src/federated/server/handler.js';
import type { ServerRound } from '../src/federated/server/options.js';
import { native } from '../src/native.js';
import { MetricsFile } from '../src/run/metrics.js';
import { temporaryFolder } from './federation-support.js';
import {
  byTheRules,
  madeHandler,
  smallShared,
  startClient,
  startServer,
  values,
} from './support/duet-server.js';

const script = (name: string) => fileURLToPath(new URL(`./support/${name}`, import.meta.url));
const children = new Set<ChildProcess>();
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
});

interface Started {
  child: ChildProcess;
  output: () => string;
  ended: Promise<unknown>;
}

function launch(name: string, args: readonly string[], env: NodeJS.ProcessEnv = {}): Started {
  const child = spawn(process.execPath, [script(name), ...args], {
    env: { ...process.env, NODE_OPTIONS: '', ...env },
  });
  children.add(child);
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
  const ended = once(child, 'close').finally(() => children.delete(child));
  return { child, output: () => output, ended };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** What `duet server` is started with, again and again. */
async function setUp(rounds: number, ...more: string[]) {
  const folder = await temporaryFolder();
  const [initial, runDir, port] = [
    join(folder, 'initial.safetensors'),
    join(folder, 'run'),
    await freePort(),
  ];
  await native.writeSafetensors(initial, smallShared(), {});
  const args = [initial, '--run', runDir, '--resume', '--strategy', 'fedavg', '--port', `${port}`];
  args.push('--rounds', `${rounds}`, '--min-clients', '2', '--heartbeat', '0.5', '--deadline', '60', ...more);
  return { runDir, url: `http://127.0.0.1:${port}`, start: () => launch('server-process.mjs', args) };
}

/** Who took part in each round, as the audit log has it; the end of the run is what that makes by the rules. */
async function expectTheRules(runDir: string, rounds: number): Promise<number[][]> {
  const { lines } = await verifyAudit(join(runDir, 'audit.jsonl'));
  const took = new Map<number, number[]>();
  for (const line of lines.filter(({ event }) => event === 'aggregate')) {
    const updates = line.updates as { client: string; samples: number }[];
    took.set(
      Number(line.round),
      updates.map(({ client }) => Number(client.slice('site'.length))),
    );
  }
  expect([...took.keys()]).toEqual(Array.from({ length: rounds }, (_, round) => round + 1));
  const { tensors } = await native.readSafetensors(join(runDir, 'shared.safetensors'));
  expect(values(tensors)).toEqual(await byTheRules([...took.values()]));
  const reports = await new MetricsFile<ServerRound>(join(runDir, 'metrics.jsonl')).read();
  expect(reports.map(({ number }) => number)).toEqual([...took.keys()]);
  expect(reports.at(-1)?.shared).toBe(lines.filter(({ event }) => event === 'aggregate').at(-1)?.shared);
  expect(await readdir(join(runDir, 'rounds'))).toEqual([]);
  return [...took.values()];
}

test('a server that is killed between an update and the end of its round has the update when it comes back', async () => {
  const { runDir, url, start } = await setUp(2, '--quorum', '1');
  const first = start();
  let release = () => {};
  const held = new Promise<void>((resolve) => {
    release = resolve;
  });
  let trainings = 0;
  const made = [madeHandler(0), madeHandler(1)] as const;
  const counted: RoundHandler['train'] = (task, options) => {
    trainings++;
    return made[0].train(task, options);
  };
  const clients = [
    startClient(url, 0, {
      handler: { ...made[0], train: counted },
    }),
    startClient(url, 1, {
      handler: { ...made[1], train: (task, options) => held.then(() => made[1].train(task, options)) },
    }),
  ];
  const update = join(runDir, 'rounds/0001-1/0000.safetensors');
  while (!existsSync(update)) await sleep(20);
  first.child.kill('SIGKILL');
  await first.ended;
  const second = start();
  while (!second.output().includes('continued with 1 updates')) await sleep(20);
  release();
  await Promise.all(clients);
  await second.ended;
  expect(second.child.exitCode).toBe(0);
  // One training a round: what was sent before the kill was not asked for again.
  expect(trainings).toBe(2);
  expect(await expectTheRules(runDir, 2)).toEqual([
    [0, 1],
    [0, 1],
  ]);
});

test.each(['joined', 'training', 'sending', 'answered', 'evaluating'])(
  'a client that is killed when %s comes back and the round has its update',
  async (phase) => {
    const runDir = await temporaryFolder();
    const started = await startServer({ runDir, minClients: 2, rounds: 2, quorum: 1 });
    const other = startClient(started.url, 0);
    const killed = launch('client-process.mjs', [started.url, '1', phase]);
    await killed.ended;
    expect(killed.child.signalCode).toBe('SIGKILL');
    const again = launch('client-process.mjs', [started.url, '1']);
    await Promise.all([other, again.ended]);
    expect(again.child.exitCode, again.output()).toBe(0);
    await started.rounds;
    expect(values(started.server.shared)).toEqual(
      await byTheRules([
        [0, 1],
        [0, 1],
      ]),
    );
    await verifyAudit(join(runDir, 'audit.jsonl'));
  },
);

const rounds = Number(process.env.DUET_SOAK_ROUNDS ?? 50);
test(`${rounds} rounds with random kills of the server and its clients lose nothing`, {
  timeout: rounds * 12_000,
}, async () => {
  const { runDir, url, start } = await setUp(rounds, '--quorum', '1', '--evaluate-every', '5');
  const random = new Random(7, 1);
  const server = () => start();
  const client = (site: number) => () =>
    launch('client-process.mjs', [url, `${site}`], { DUET_TEST_WORK_MS: '40' });
  const makers = [server, client(0), client(1)];
  const processes = makers.map((make) => make());
  let kills = 0;
  const done = () => processes[0]?.child.exitCode === 0;
  while (!done()) {
    await sleep(random.between(300, 1200));
    const place = random.below(3);
    const victim = processes[place] as Started;
    if (done() || victim.child.exitCode !== null) continue;
    victim.child.kill('SIGKILL');
    await victim.ended;
    if (victim.child.signalCode === 'SIGKILL') kills++;
    else if (place === 0 && victim.child.exitCode !== 0) throw new Error(victim.output());
    if (!done()) processes[place] = (makers[place] as () => Started)();
  }
  console.log(`${rounds} rounds, ${kills} kills`);
  expect(kills).toBeGreaterThan(rounds / 25);
  const all = Array.from({ length: rounds }, () => [0, 1]);
  expect(await expectTheRules(runDir, rounds)).toEqual(all);
});
