// A duet server and its clients on two hosts with a bad line between them: 20 ms each way, one frame of a hundred lost, and cut in
// the middle of an upload. Network namespaces stand for the hosts, so this needs root.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { verifyAudit } from '../src/federated/server/audit.js';
import type { ServerRound } from '../src/federated/server/options.js';
import { weightedMean } from '../src/federated/strategies/strategy.js';
import type { TensorData, Tensors } from '../src/native/core.js';
import { native } from '../src/native.js';
import { MetricsFile } from '../src/run/metrics.js';
import { temporaryFolder } from './federation-support.js';
import { NAMES, trained } from './support/duet-server.js';
import { type HostName, TwoHosts, whyNoHosts } from './support/two-hosts.js';

const reason = whyNoHosts();
if (reason !== undefined) console.log(`Skipped, a bad line between two hosts: ${reason}`);

const PORT = 9443;
/** 1 MB, so that an upload takes two seconds or more on such a line. */
const SHARED = { [NAMES[0]]: Float32Array.from({ length: 250_000 }, (_, place) => (place % 97) / 97) };
const children = new Set<ChildProcess>();
afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
});

interface Started {
  child: ChildProcess;
  output: () => string;
  ended: Promise<unknown>;
}

function launch(hosts: TwoHosts, host: HostName, script: string, args: readonly string[]): Started {
  const path = fileURLToPath(new URL(`./support/${script}`, import.meta.url));
  const child = spawn(...hosts.on(host, process.execPath, [path, ...args]), {
    env: { ...process.env, NODE_OPTIONS: '', DUET_TEST_INSECURE: '1' },
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

/** A server on host b; `site` starts a client on one of the hosts. */
async function setUp(hosts: TwoHosts, rounds: number, flags: readonly string[]) {
  const folder = await temporaryFolder();
  const [initial, runDir] = [join(folder, 'initial.safetensors'), join(folder, 'run')];
  const tensor: TensorData = { dtype: 'f32', shape: [500, 500], data: SHARED[NAMES[0]] as Float32Array };
  await native.writeSafetensors(initial, { [NAMES[0]]: tensor }, {});
  const address = hosts.addresses.b;
  const server = launch(hosts, 'b', 'server-process.mjs', [
    ...[initial, '--run', runDir, '--strategy', 'fedavg', '--insecure', '--host', address],
    ...['--port', `${PORT}`, '--rounds', `${rounds}`, '--heartbeat', '1', ...flags],
  ]);
  const site = (number: number, host: HostName) =>
    launch(hosts, host, 'client-process.mjs', [`http://${address}:${PORT}`, `${number}`]);
  return { server, site, runDir };
}

/** Waits until a part of this client's update has come, and not all of it. */
async function uploading(runDir: string, place: string, server: Started): Promise<void> {
  for (;;) {
    if (server.child.exitCode !== null) throw new Error(`the server has ended: ${server.output()}`);
    const folder = join(runDir, 'rounds/0001-1');
    const files = await readdir(folder).catch((): string[] => []);
    if (files.includes(`${place}.safetensors`))
      throw new Error('the upload was over before the line was cut');
    const part = files.find((file) => file.startsWith(`${place}.`) && file.endsWith('.part'));
    if (part !== undefined && (await stat(join(folder, part))).size > 0) return;
    await sleep(5);
  }
}

async function byTheRules(rounds: readonly number[][]): Promise<Tensors> {
  let shared: Tensors = SHARED;
  for (const [index, sites] of rounds.entries()) {
    const updates = sites.map((site) => {
      return { client: `site${site}`, samples: 10 + site, shared: trained(shared, site, index + 1) };
    });
    shared = await weightedMean(shared, updates, 'samples');
  }
  return shared;
}

async function outcome(runDir: string) {
  await verifyAudit(join(runDir, 'audit.jsonl'));
  const rounds = await new MetricsFile<ServerRound>(join(runDir, 'metrics.jsonl')).read();
  const { tensors } = await native.readSafetensors(join(runDir, 'shared.safetensors'));
  return { rounds, shared: tensors[NAMES[0]]?.data };
}

describe.skipIf(reason !== undefined)(
  'a line that is late, loses frames and is cut in the middle of an upload',
  () => {
    test('for five seconds: the round has both updates', async () => {
      await using hosts = await TwoHosts.open({ delayMs: 20, loss: 0.01 });
      const { server, site, runDir } = await setUp(hosts, 1, ['--min-clients', '2', '--deadline', '90']);
      const clients = [site(0, 'a'), site(1, 'b')];
      await uploading(runDir, '0000', server);
      await hosts.cut();
      await sleep(5000);
      await hosts.mend();
      await Promise.all([server.ended, ...clients.map(({ ended }) => ended)]);
      expect(server.child.exitCode, server.output()).toBe(0);
      const { rounds, shared } = await outcome(runDir);
      expect(rounds.map(({ clients: those }) => those.map(({ client }) => client))).toEqual([
        ['site0', 'site1'],
      ]);
      expect(shared).toEqual((await byTheRules([[0, 1]]))[NAMES[0]]);
    });

    test('beyond the deadline: the round ends by it with the other update, and the client is back for the next', async () => {
      await using hosts = await TwoHosts.open({ delayMs: 20, loss: 0.01 });
      const { server, site, runDir } = await setUp(hosts, 2, ['--min-clients', '2', '--deadline', '20']);
      const clients = [site(0, 'a'), site(1, 'b')];
      await uploading(runDir, '0000', server);
      await hosts.cut();
      while ((await new MetricsFile<ServerRound>(join(runDir, 'metrics.jsonl')).read()).length < 1)
        await sleep(50);
      await hosts.mend();
      await Promise.all([server.ended, ...clients.map(({ ended }) => ended)]);
      expect(server.child.exitCode, server.output()).toBe(0);
      const { rounds, shared } = await outcome(runDir);
      expect(rounds.map(({ clients: those }) => those.map(({ client }) => client))).toEqual([
        ['site1'],
        ['site0', 'site1'],
      ]);
      expect(rounds[0]?.failures.map(({ client }) => client)).toContain('site0');
      // The deadline, and time to add up and to write.
      expect(rounds[0]?.timing.trainSeconds).toBeLessThan(20 + 5);
      expect(shared).toEqual((await byTheRules([[1], [0, 1]]))[NAMES[0]]);
    });

    test('beyond the deadline of a round that needs both: the server says so and ends', async () => {
      await using hosts = await TwoHosts.open({ delayMs: 20, loss: 0.01 });
      const flags = ['--min-clients', '2', '--deadline', '10', '--quorum', '1', '--attempts', '1'];
      const { server, site, runDir } = await setUp(hosts, 1, flags);
      const clients = [site(0, 'a'), site(1, 'b')];
      await uploading(runDir, '0000', server);
      const start = performance.now();
      await hosts.cut();
      await server.ended;
      expect(performance.now() - start).toBeLessThan((10 + 10) * 1000);
      expect(server.output()).toMatch(/2 of 2|quorum|only 1/i);
      expect((await outcome(runDir).catch(() => ({ rounds: [] }))).rounds).toEqual([]);
      for (const { child, ended } of clients) {
        child.kill('SIGKILL');
        await ended;
      }
    });
  },
);
