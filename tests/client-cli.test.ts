// `duet client` on the command line: usage, refusals before anything is joined, and its end by a signal.

import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { drawSmallSet, duet, quickPretraining, quickRun, start, succeed } from './cli-support.js';
import { temporaryFolder } from './federation-support.js';

const site = ['client', 'data', '--model', 'model', '--client', 'poster', '--run', 'run'];

/** Where nobody listens. */
async function closedPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await once(server.close(), 'close');
  return port;
}

test('--help tells what connects it and what it shares with duet federate', async () => {
  const { stdout } = await succeed('client', '--help');
  const [client, federate] = [stdout, (await succeed('federate', '--help')).stdout].map((text) =>
    text.replace(/\s+/g, ' '),
  );
  expect(client).toMatch(/--superlink <host:port> .* --server <url> /);
  const shared = [
    '--batch-size',
    '--lr',
    '--view',
    '--answers',
    '--heads',
    '--gated-with',
    '--warmup',
    '--device',
  ];
  for (const option of shared) {
    const words = new RegExp(`${option} <.*?(?= --)`).exec(federate as string)?.[0];
    expect(client).toContain(words);
  }
  for (const option of ['--weights', '--quorum', '--fraction', '--clients', '--except'])
    expect(client).not.toContain(`${option} `);
});

describe('wrong usage ends with 2', () => {
  const cases: [string, string[], RegExp][] = [
    ['no server', [], /Expected a server: --superlink <host:port> or --server <url>/],
    [
      'two servers',
      ['--superlink', 'a:1', '--server', 'https://b'],
      /'--server <url>' cannot be used with .*'--superlink/,
    ],
    [
      'trust without TLS',
      ['--superlink', 'a:1', '--insecure', '--root-certificates', 'ca.pem'],
      /'--insecure' cannot be used with option '--root-certificates/,
    ],
    ['a token for a SuperLink', ['--superlink', 'a:1', '--token-file', 't'], /'--token-file .* '--superlink/],
    ['metrics for a duet server', ['--server', 'https://b', '--metrics', 'x'], /'--metrics .* '--server/],
    ['a key alone', ['--server', 'https://b', '--key', 'k'], /Expected the --certificate of --key/],
    [
      'a certificate alone',
      ['--server', 'https://b', '--certificate', 'c'],
      /Expected the --key of --certificate/,
    ],
    [
      'a certificate and a token',
      ['--server', 'https://b', '--key', 'k', '--certificate', 'c', '--token-file', 't'],
      /'--certificate <file>' cannot be used with option '--token-file/,
    ],
    [
      'compression at a SuperLink',
      ['--superlink', 'a:1', '--compression', 'int8'],
      /'--compression .* '--superlink/,
    ],
    [
      'noise alone',
      ['--superlink', 'a:1', '--noise', '1'],
      /Expected the --clip that --noise is a multiple of/,
    ],
    [
      'a limit without noise',
      ['--superlink', 'a:1', '--clip', '1', '--epsilon', '1'],
      /Expected the --noise that spends --epsilon/,
    ],
    ['a strategy', ['--superlink', 'a:1', '--strategy', 'local'], /Allowed choices are feddat, fedavg/],
    [
      'an index',
      ['--superlink', 'a:1', '--index', '-1'],
      /Expected an integer of at least 0 but received -1/,
    ],
    ['what a server decides', ['--superlink', 'a:1', '--quorum', '1'], /unknown option '--quorum'/],
  ];
  test.each(cases)('%s', async (_, args, message) => {
    const { status, stderr, stdout } = await duet(...site, ...args);
    expect(stderr.replace(/\s+/g, ' ')).toMatch(message);
    expect([status, stdout]).toEqual([2, '']);
  });

  test('no client and no run folder', async () => {
    const { status, stderr } = await duet('client', 'data', '--model', 'model', '--superlink', 'a:1');
    expect([status, stderr]).toEqual([2, expect.stringMatching(/required option '--client <name>'/)]);
  });
});

describe('with data and a model', () => {
  let folder: string;
  let data: string;
  let model: string;
  beforeAll(async () => {
    folder = await temporaryFolder();
    data = await drawSmallSet(folder);
    model = join(folder, 'model');
    await succeed('pretrain', data, ...quickPretraining, '--epochs', '1', '--out', model);
  });

  const client = (run: string, ...more: string[]) => [
    ...['client', data, '--model', model, '--client', 'poster', '--run', join(folder, run)],
    ...[...quickRun, ...more],
  ];
  const nowhere = ['--superlink', '127.0.0.1:9', '--insecure'];

  test('a client that is not there, a key that cannot be read and a metric that is not known are errors', async () => {
    const bad: [string[], RegExp][] = [
      [client('a', ...nowhere, '--client', 'neon'), /among poster, outline .* but received neon/],
      [
        client('b', ...nowhere, '--key', join(folder, 'no.pem')),
        /Cannot read the key .*no.pem: no such file/,
      ],
      [client('d', '--server', 'http://192.0.2.1:1'), /http/],
      [client('c', ...nowhere, '--metrics', 'f1'), /Expected metrics among train_loss, .* but received f1/],
    ];
    for (const [args, message] of bad) {
      const { status, stderr } = await duet(...args);
      expect(stderr).toMatch(message);
      expect([status, stderr.trimEnd().split('\n').length]).toEqual([1, 1]);
    }
  });

  test('SIGTERM ends it with 130 while it cannot reach its SuperLink; then it goes on', async () => {
    const there = ['--superlink', `127.0.0.1:${await closedPort()}`, '--insecure'];
    const run = start(...client('stopped', ...there));
    await run.printed('trying again');
    run.child.kill('SIGTERM');
    const { status, stderr } = await run.finished;
    expect(stderr).toMatch(/poster .*; trying again\n/);
    expect(stderr).toMatch(/Stopped. Continue with: duet client .*--resume\n/);
    expect(status).toBe(130);

    const fresh = await duet(...client('stopped', ...there));
    expect([fresh.status, fresh.stderr]).toEqual([
      1,
      expect.stringMatching(/already holds a run; resume it/),
    ]);
    const other = await duet(...client('stopped', ...there, '--resume', '--index', '1'));
    expect([other.status, other.stderr]).toEqual([1, expect.stringMatching(/index was 0 and is 1\. Resume/)]);
    const again = start(...client('stopped', ...there, '--resume'));
    await again.printed('trying again');
    again.child.kill('SIGINT');
    expect((await again.finished).status).toBe(130);
  });

  test('the run folder holds everything that decides the numbers', async () => {
    await writeFile(join(folder, 'no.key'), 'no key');
    const { status, stderr } = await duet(
      ...client('wrong-key', ...nowhere, '--key', join(folder, 'no.key')),
    );
    expect([status, stderr]).toEqual([1, expect.stringMatching(/key/)]);
    const config = JSON.parse(await readFile(join(folder, 'wrong-key/config.json'), 'utf8'));
    expect(config).toMatchObject({
      kind: 'site',
      settings: {
        strategy: { name: 'feddat' },
        index: 0,
        batchSize: 6,
        learningRate: 1e-2,
        client: { name: 'poster', samples: expect.any(Number), data: expect.any(String) },
        model: { fingerprint: expect.any(String), adapterReduction: 8 },
      },
    });
  });
});
