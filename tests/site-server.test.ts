// Sites at a duet server, in this process and as processes of their own: the numbers of the federation in one process, to the bit.

import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { loadFederation } from '../src/cli/federation-data.js';
import { Federation } from '../src/federated/federation.js';
import { DuetClient } from '../src/federated/server/client.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import { Vilt } from '../src/models/vilt.js';
import type { Tensors } from '../src/native/core.js';
import { drawSmallSet, metricsOf, quickPretraining, quickRun, start, succeed } from './cli-support.js';
import { allRounds, temporaryFolder, tinyClients, tinyFederation, tinyModel } from './federation-support.js';
import { tinySite } from './site-support.js';
import { startServer } from './support/duet-server.js';

const values = (tensors: Record<string, { data: unknown }>): Tensors =>
  Object.fromEntries(Object.entries(tensors).map(([name, { data }]) => [name, data as Float32Array]));

test('sites of one process', async () => {
  const rounds = 3;
  const federation = tinyFederation({ rounds, clients: tinyClients(3) });
  const reports = await allRounds(federation);
  const model = tinyModel();
  const sites = await Promise.all(
    tinyClients(3).map((client, index) => tinySite({ model, client, index, strategy: new FedDat() })),
  );
  const started = await startServer({
    runDir: await temporaryFolder(),
    strategy: new FedDat(),
    initial: sites[0]!.initialShared(),
    rounds,
    minClients: 3,
  });
  await Promise.all(
    sites.map((site, index) =>
      DuetClient.run({ server: started.url, name: site.client.name, index, strategy: 'feddat', site }),
    ),
  );
  const served = await started.rounds;
  const { shared } = await federation.tensors(federation.clients[0]!);
  expect(values(started.server.shared)).toEqual(shared);
  expect(served.map(({ metrics }) => metrics.accuracy)).toEqual(
    reports.map(({ metrics }) => metrics.accuracy),
  );
  expect(served.map(({ metrics }) => metrics.loss)).toEqual(reports.map(({ metrics }) => metrics.loss));
  await Promise.all(sites.map((site) => site.close()));
});

test('duet client at a duet server, one of them killed and resumed', async () => {
  const folder = await temporaryFolder();
  const data = await drawSmallSet(folder);
  const modelFolder = join(folder, 'model');
  await succeed('pretrain', data, ...quickPretraining, '--epochs', '1', '--out', modelFolder);
  using model = await Vilt.fromPretrained(modelFolder, { adapters: { reduction: 8 }, seed: 3, threads: 1 });
  const flags = { view: 'style', trainSplit: 'train', evalSplit: 'val', topAnswers: 3129 };
  const { clients } = await loadFederation(data, modelFolder, flags);
  const rounds = 6;
  const federation = new Federation({
    model,
    strategy: new FedDat(),
    clients,
    rounds,
    batchSize: 6,
    learningRate: 1e-2,
    schedule: { nominalEpochs: 3 },
    seed: 3,
  });
  const travels = model.names((name) => new FedDat().isShared(name));
  const initial = model.withShapes(await model.read(travels));
  const started = await startServer({
    runDir: join(folder, 'server'),
    strategy: new FedDat(),
    initial,
    rounds,
    minClients: 2,
  });
  const client = (index: number) =>
    start(
      ...['client', data, '--model', modelFolder, '--client', clients[index]!.name, '--index', `${index}`],
      ...[
        '--server',
        started.url,
        '--run',
        join(folder, `site-${index}`),
        '--resume',
        '--seed',
        '3',
        ...quickRun,
      ],
    );
  const other = client(0);
  const killed = client(1);
  await killed.printed(/round 2 .*loss/);
  await setTimeout(20);
  killed.child.kill('SIGKILL');
  expect((await killed.finished).signal).toBe('SIGKILL');
  const resumed = await client(1).finished;
  const { status, stderr, stdout } = await other.finished;
  expect([status, resumed.status]).toEqual([0, 0]);
  expect(resumed.stderr).toMatch(/outline {2}resumed after round \d/);
  expect(stderr).toMatch(/poster {2}connected; 6 rounds\n/);
  expect(stderr).toMatch(/poster {2}round 6 {2}gated \d.*\n/);
  expect(stdout).toBe(`run folder: ${join(folder, 'site-0')}\n`);

  await started.rounds;
  const reports = await allRounds(federation);
  const { shared } = await federation.tensors(clients[0]!);
  expect(values(started.server.shared)).toEqual(shared);
  for (const [index, { name }] of clients.entries()) {
    const lines = await metricsOf(join(folder, `site-${index}`));
    const trained = lines.flatMap(({ training }) => (training ? [training] : []));
    expect(trained).toEqual(reports.map((report) => report.clients.find(({ client: one }) => one === name)));
  }
});
