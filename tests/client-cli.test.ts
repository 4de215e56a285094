// `duet client` on the command line: usage, refusals before anything is joined, and its end by a signal.

import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { beforeAll, describe, expect, test } from 'vitest';
import type { ArrayRecord, FlowerMessage, NumpyArray, RecordDict } from '../src/federated/flower/records.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import { isAdapter, publishedName } from '../src/models/names.js';
import { Vilt } from '../src/models/vilt.js';
import { drawSmallSet, duet, metricsOf, quickPretraining, quickRun, start, succeed } from './cli-support.js';
import { temporaryFolder } from './federation-support.js';
import { startServer } from './support/duet-server.js';
import { FakeSuperLink } from './support/fake-superlink.js';

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
      [
        client('e', '--superlink', '192.0.2.1:1', '--root-certificates', join(model, 'config.json')),
        /Expected a certificate \(PEM\) in .*config.json for --root-certificates/,
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

  test('sites without --index join side by side', async () => {
    const { url, events, stop } = await startServer({
      ...{ runDir: join(folder, 'server'), strategy: new FedDat(), minClients: 3 },
    });
    const sites = ['poster', 'outline'].map((name) =>
      start(...client(`unnumbered-${name}`, '--server', url, '--client', name)),
    );
    await Promise.all(sites.map((one) => one.printed('connected; 2 rounds')));
    expect(events.filter(({ event }) => event === 'joined')).toHaveLength(2);
    for (const { child } of sites) child.kill('SIGTERM');
    expect(await Promise.all(sites.map(async ({ finished }) => (await finished).status))).toEqual([130, 130]);
    await stop();
  });

  test('the run folder holds everything that decides the numbers', async () => {
    await writeFile(join(folder, 'no.key'), 'no key');
    const nothingSaid = ['--eval-split', 'none', '--metrics', 'none'];
    const args = client('wrong-key', ...nowhere, ...nothingSaid, '--key', join(folder, 'no.key'));
    const { status, stderr } = await duet(...args);
    expect([status, stderr]).toEqual([1, expect.stringMatching(/keys.privateKey \(--key\)/)]);
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
    expect(config.settings.client).not.toHaveProperty('evaluationSamples');
    const other = await duet(...args, '--resume', '--heads', 'fresh');
    expect([other.status, other.stderr]).toEqual([
      1,
      expect.stringMatching(/initialValues was "\w+" and is "\w+"\. Resume/),
    ]);
  });

  test.each(['http', 'grpc'] as const)(
    'killed and stopped while it trains for a SuperLink over %s',
    async (transport) => {
      const link = await FakeSuperLink.start({ transport });
      const there = ['--superlink', link.address, '--insecure', '--local-epochs', '40'];
      const [name, wholeName] = [`killed-${transport}`, `whole-${transport}`];
      const shared = await sharedArrays(model);
      const ask = (node: bigint, round: number) => {
        const config = { kind: 'config', values: new Map([['server-round', BigInt(round)]]) } as const;
        const arrays = { kind: 'arrays', values: shared } as const;
        return link.send(
          node,
          new Map<string, typeof config | typeof arrays>([
            ['arrays', arrays],
            ['config', config],
          ]),
        );
      };
      const arraysIn = ({ content }: FlowerMessage) =>
        ((content as RecordDict).get('arrays') as ArrayRecord).values;

      const first = start(...client(name, ...there));
      const [node] = (await link.nodesOnline(1)) as [bigint];
      const asked = ask(node, 1);
      await link.called('confirmMessageReceived');
      await setTimeout(150);
      first.child.kill('SIGKILL');
      await first.finished;
      const again = start(...client(name, ...there, '--resume'));
      const answer = await link.reply(asked, 60);
      expect(answer.metadata.srcNodeId).toBe(node);

      const whole = start(...client(wholeName, ...there));
      const [, other] = (await link.nodesOnline(2)) as [bigint, bigint];
      expect(arraysIn(await link.reply(ask(other, 1), 60))).toEqual(arraysIn(answer));
      whole.child.kill('SIGTERM');

      const confirmed = link.callsTo('confirmMessageReceived');
      const stopped = ask(node, 2);
      await link.called('confirmMessageReceived', confirmed + 1);
      await setTimeout(100);
      again.child.kill('SIGTERM');
      expect((await link.reply(stopped)).error).toEqual({
        code: 2,
        reason: expect.stringMatching(/the node was stopped/i),
      });
      const { status, stderr } = await again.finished;
      expect(stderr).toMatch(/Stopping after the current step/);
      expect([status, (await whole.finished).status]).toEqual([130, 130]);
      expect(link.online).toEqual([]);
      const lines = await metricsOf(join(folder, name));
      expect(lines).toEqual(
        await metricsOf(join(folder, wholeName)).then(([one]) => [{ ...one, task: asked }]),
      );
      await link.stop();
    },
  );
});

/** What travels, as an operator exports it. */
async function sharedArrays(folder: string): Promise<Map<string, NumpyArray>> {
  using model = await Vilt.fromPretrained(folder, { adapters: { reduction: 8 }, threads: 1 });
  const values = await model.read(model.names((name) => isAdapter(name, 'adapter_1')));
  return new Map(
    Object.entries(model.withShapes(values)).map(([name, { shape, data }]) => [
      publishedName(name),
      { dtype: 'float32', shape, data: data as Float32Array },
    ]),
  );
}
