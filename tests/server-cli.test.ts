// `duet server` on the command line: its audit log is verified, and files that cannot work are named.

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { native } from '../src/native.js';
import { duet, start, succeed } from './cli-support.js';
import { temporaryFolder } from './federation-support.js';
import { Authority } from './support/certificates.js';
import { madeHandler, smallShared, startClient, startServer } from './support/duet-server.js';

test('--verify compares the audit log with the metrics', async () => {
  const runDir = await temporaryFolder();
  const started = await startServer({ runDir });
  await startClient(started.url, 0);
  await started.rounds;
  expect((await succeed('server', runDir, '--verify')).stdout).toMatch(
    /^\d+ lines of audit.jsonl fit each other and 2 rounds\nlast line: [0-9a-f]{64}\n$/,
  );
  await writeFile(join(runDir, 'audit.jsonl'), '');
  const { status, stderr } = await duet('server', runDir, '--verify');
  expect([status, stderr]).toEqual([1, expect.stringMatching(/names in round 1 but it is not there/)]);
});

test('errors are one line', async () => {
  const folder = await temporaryFolder();
  const initial = join(folder, 'initial.safetensors');
  await native.writeSafetensors(initial, smallShared(), {});
  const authority = new Authority();
  const [own, other] = [authority.issue('localhost'), authority.issue('other')];
  const server = ['server', initial, '--strategy', 'fedavg', '--rounds', '1', '--port', '0'];
  const tls = ['--tls-cert', own.certFile, '--tls-key'];
  for (const [args, words] of [
    [[...tls, other.keyFile], /--tls-cert .*localhost.pem for --tls-key .*other.key/],
    [[...tls, own.keyFile, '--client-ca', own.keyFile], /certificate in PEM format for --client-ca .*key/],
    [['--clients', 'a'], /tokens or an authority of clients/],
  ] as const) {
    const { status, stderr } = await duet(...server, '--run', join(folder, 'refused'), ...args);
    expect([status, stderr]).toEqual([1, expect.stringMatching(words)]);
    expect(stderr.trimEnd().split('\n')).toHaveLength(1);
  }

  const run = start(...server, '--run', join(folder, 'missed'), '--attempts', '1');
  await run.printed('listening on http');
  const [first = ''] = (await readFile(join(folder, 'missed/audit.jsonl'), 'utf8')).split('\n');
  const { url } = JSON.parse(first) as { url: string };
  const stop = new AbortController();
  const failing = madeHandler(0, { train: () => Promise.reject(new Error('out of\u001b[2J apples')) });
  const client = startClient(url, 0, { handler: failing, signal: stop.signal });
  client.catch(() => {});
  const { status, stderr } = await run.finished;
  stop.abort();
  expect(status).toBe(1);
  expect(stderr).toMatch(
    /\nduet: Expected updates of at least 1 of 1 .*out of\ufffd\[2J apples. Resume to try again\n$/,
  );
});
