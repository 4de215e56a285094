// What each strategy trains, keeps and sends, and who takes part in a round.

import { describe, expect, test } from 'vitest';
import { FixedBatches } from '../src/federated/batch-source.js';
import { sampleClients } from '../src/federated/sampling.js';
import { laidOut, scheduleFor } from '../src/federated/schedule.js';
import { STRATEGY_NAMES, strategyByName } from '../src/federated/strategies/by-name.js';
import { Centralised } from '../src/federated/strategies/centralised.js';
import { FedAvg } from '../src/federated/strategies/fedavg.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import { LocalOnly } from '../src/federated/strategies/local.js';
import { type ClientUpdate, type Strategy, weightedMean } from '../src/federated/strategies/strategy.js';
import { isAdapter, isHead } from '../src/models/names.js';
import { allRounds, madeBatch, tinyClients, tinyFederation, tinyModel } from './federation-support.js';

/** Which groups of parameters a round changed, looking at what a client's model would be. */
async function changedBy(strategy: Strategy) {
  const federation = tinyFederation({ strategy, rounds: 1 });
  const { model } = federation;
  const before = await model.read(model.names());
  const [report] = await allRounds(federation);
  await federation.load(federation.clients[0]!);
  const after = await model.read(model.names());
  const changed = Object.keys(before).filter(
    (name) => !Buffer.from(before[name]!.buffer).equals(Buffer.from(after[name]!.buffer)),
  );
  const group = (name: string) => (isHead(name) ? 'head' : (/adapter_\d/.exec(name)?.[0] ?? 'backbone'));
  return { groups: [...new Set(changed.map(group))].sort(), report: report! };
}

describe('what changes and what travels', () => {
  const adapterBytes = 2 * (32 * 4 + 4 + 4 * 32 + 32) * 4;
  const headBytes = (32 * 64 + 64 + 64 + 64 + 64 * 4 + 4) * 4;

  test('FedDAT', async () => {
    const { groups, report } = await changedBy(new FedDat());
    // adapter_2 becomes the received adapter_1.
    expect(groups).toEqual(['adapter_0', 'adapter_1', 'adapter_2', 'head']);
    expect(report.bytes).toEqual({ up: 2 * adapterBytes, down: 2 * adapterBytes });
    expect(Object.keys(report.metrics.accuracy!)).toEqual(['gated', 'local', 'shared']);
  });

  test('FedAvg', async () => {
    const { groups, report } = await changedBy(new FedAvg());
    expect(groups.filter((group) => group !== 'adapter_2')).toEqual(['adapter_1', 'head']);
    expect(report.bytes.up).toBe(2 * adapterBytes);
    expect(Object.keys(report.metrics.accuracy!)).toEqual(['shared']);
  });

  test('FedAvg with a shared head', async () => {
    const strategy = new FedAvg({ sharedHead: true });
    const { report } = await changedBy(strategy);
    expect(report.bytes.up).toBe(2 * (adapterBytes + headBytes));
    const federation = tinyFederation({ strategy, rounds: 1 });
    await allRounds(federation);
    const { shared, personal } = await federation.tensors(federation.clients[0]!);
    expect(Object.keys(personal)).toEqual([]);
    expect(Object.keys(shared).some(isHead)).toBe(true);
  });

  test('local training only', async () => {
    const { groups, report } = await changedBy(new LocalOnly());
    expect(groups).toEqual(['adapter_0', 'head']);
    expect(report.bytes).toEqual({ up: 0, down: 0 });
    expect(Object.keys(report.metrics.accuracy!)).toEqual(['local']);
  });

  test('centralised training: one model for all, over all data', async () => {
    const { groups, report } = await changedBy(new Centralised());
    expect(groups).toEqual(['adapter_1', 'head']);
    expect(report.bytes).toEqual({ up: 0, down: 0 });
    expect(report.clients).toMatchObject([{ client: 'all', samples: 10, batches: 5 }]);
    expect(report.evaluation!.clients.map((client) => client.client)).toEqual(['client0', 'client1']);
  });

  test('by name', () => {
    expect(STRATEGY_NAMES.map((name) => strategyByName(name).name)).toEqual([...STRATEGY_NAMES]);
    expect(() => strategyByName('fedprox')).toThrow(/Expected one of feddat, .* but received "fedprox"/);
  });
});

describe('centralised training', () => {
  test('keeps its optimizer: rounds make no difference to one long training', async () => {
    const schedule = { kind: 'linear', warmup: 0.5 } as const;
    const run = async (rounds: number, localEpochs: number) => {
      const federation = tinyFederation({ strategy: new Centralised(), rounds, localEpochs, schedule });
      await allRounds(federation);
      return (await federation.tensors(federation.clients[0]!)).personal;
    };
    expect(await run(4, 1)).toEqual(await run(1, 4));
  });

  test('wants one task', () => {
    const model = tinyModel();
    model.addHead('other', 4);
    const clients = tinyClients(2);
    clients[1]!.task = 'other';
    expect(() => tinyFederation({ model, clients, strategy: new Centralised() })).toThrow(
      /one task for all clients/,
    );
  });
});

describe('clients with heads of their own', () => {
  test('train only their own', async () => {
    const model = tinyModel();
    model.addHead('other', 3);
    const other = {
      name: 'b',
      task: 'other',
      train: new FixedBatches([madeBatch(4, 2, 3), madeBatch(5, 2, 3)]),
    };
    const federation = tinyFederation({ model, clients: [...tinyClients(1), other], rounds: 2 });
    const reports = await allRounds(federation);
    expect(reports.flatMap((report) => report.failures)).toEqual([]);
    const heads = Object.keys((await federation.tensors(other)).personal).filter(isHead);
    expect(heads.every((name) => name.startsWith('task_layer.other.'))).toBe(true);
  });
});

describe('weights of the average', () => {
  test('parameters nobody sent stay; those of one client only are not thinned', async () => {
    const previous = { a: Float32Array.of(1), b: Float32Array.of(2), c: Float32Array.of(3) };
    const updates: ClientUpdate[] = [
      { client: 'x', samples: 1, shared: { a: Float32Array.of(10) } },
      { client: 'y', samples: 3, shared: { a: Float32Array.of(20), b: Float32Array.of(7) } },
    ];
    const mean = await weightedMean(previous, updates, 'samples');
    expect([mean.a![0], mean.b![0], mean.c![0]]).toEqual([17.5, 7, 3]);
  });
});

describe('client sampling', () => {
  const sampling = { fraction: 0.3, minimum: 2 };

  test('takes the share, at least the minimum, in ascending order, the same for a seed and round', () => {
    const drawn = sampleClients(10, sampling, 1, 4);
    expect(drawn).toHaveLength(3);
    expect([...drawn].sort((a, b) => a - b)).toEqual(drawn);
    expect(sampleClients(10, sampling, 1, 4)).toEqual(drawn);
    expect(sampleClients(4, sampling, 1, 4)).toHaveLength(2);
    expect(sampleClients(10, { fraction: 1, minimum: 1 }, 1, 4)).toHaveLength(10);
  });

  test('gives everybody a turn', () => {
    const seen = new Set(
      Array.from({ length: 40 }, (_, round) => sampleClients(10, sampling, 1, round)).flat(),
    );
    expect(seen.size).toBe(10);
  });

  test('those who do not take part keep what they have', async () => {
    const federation = tinyFederation({ clients: tinyClients(3), rounds: 1, sampling: { fraction: 0.34 } });
    const initial = await federation.model.read(
      federation.model.names((name) => isAdapter(name, 'adapter_0')),
    );
    const [report] = await allRounds(federation);
    const [taken] = report!.clients;
    expect(report!.clients).toHaveLength(1);
    for (const client of federation.clients) {
      const { personal } = await federation.tensors(client);
      const [name, values] = Object.entries(initial)[0]!;
      if (client.name === taken!.client) expect(personal[name]).not.toEqual(values);
      else expect(personal[name]).toEqual(values);
    }
    expect(report!.evaluation!.clients).toHaveLength(3);
  });
});

describe('the schedule', () => {
  test('is laid out for the nominal epochs, a tenth of it warm-up', () => {
    const schedule = { kind: 'linear', nominalEpochs: 15, warmup: 0.1 } as const;
    expect(scheduleFor(5, schedule)).toEqual({ kind: 'linear', maxSteps: 75, warmupSteps: 7 });
    expect(scheduleFor(3, schedule)).toEqual({ kind: 'linear', maxSteps: 45, warmupSteps: 4 });
    expect(laidOut(30, { ...schedule, kind: 'cosine' })).toEqual({
      kind: 'cosine',
      maxSteps: 30,
      warmupSteps: 3,
    });
  });
});
