// DuetServer and DuetClient: rounds over the network are those of weightedMean, whatever happens on the way.

import { appendFile, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { updateCodec } from '../src/federated/compression.js';
import { sampleClients } from '../src/federated/sampling.js';
import { type AuditLine, verifyAudit } from '../src/federated/server/audit.js';
import type { ClientEvent } from '../src/federated/server/client.js';
import { FedAvg } from '../src/federated/strategies/fedavg.js';
import { type ClientUpdate, weightedMean } from '../src/federated/strategies/strategy.js';
import type { TensorData, Tensors } from '../src/native/core.js';
import { temporaryFolder } from './federation-support.js';
import {
  BareClient,
  byTheRules,
  madeHandler,
  NAMES,
  sha256,
  slow,
  smallShared,
  startClient,
  startServer,
  trained,
  updateBody,
  values,
} from './support/duet-server.js';

const [WEIGHT, BIAS] = NAMES;

test.each(['samples', 'uniform'] as const)(
  'three sites, two rounds: the weighted mean by %s, to the bit',
  async (weights) => {
    const runDir = await temporaryFolder();
    const strategy = new FedAvg({ weights });
    const { server, url, rounds } = await startServer({ runDir, minClients: 3, strategy });
    // Joined in another order than their numbers.
    await Promise.all([2, 0, 1].map((site) => startClient(url, site)));
    const reports = await rounds;
    const everyone = [0, 1, 2];
    expect(values(server.shared)).toEqual(await byTheRules([everyone, everyone], weights));
    expect(reports.map(({ number }) => number)).toEqual([1, 2]);
    const [first] = reports;
    expect(first?.clients.map(({ client, samples }) => [client, samples])).toEqual([
      ['site0', 10],
      ['site1', 11],
      ['site2', 12],
    ]);
    expect(first?.metrics.loss).toBeCloseTo((1 + 1 / 2 + 1 / 3) / 3, 12);
    expect(first?.metrics.accuracy?.shared).toBeCloseTo((1 / 2 + 2 / 3 + 3 / 4) / 3, 12);
    expect(first?.bytes.up).toBeGreaterThan(3 * 16 * 4);
    expect(Object.keys(first?.bytes.nodes ?? {})).toEqual(['site0', 'site1', 'site2']);
    expect(first?.failures).toEqual([]);
    expect((await readFile(join(runDir, 'metrics.jsonl'), 'utf8')).trim().split('\n')).toHaveLength(2);
    expect(await readdir(join(runDir, 'rounds'))).toEqual([]);
  },
);

test('a round asks those whom the seed draws', async () => {
  const sampling = { fraction: 0.5, minimum: 1 };
  const started = await startServer({
    ...{ runDir: await temporaryFolder(), minClients: 4, rounds: 3, sampling, seed: 11 },
    evaluation: { every: 3 },
  });
  await Promise.all([0, 1, 2, 3].map((site) => startClient(started.url, site)));
  const reports = await started.rounds;
  const drawn = [1, 2, 3].map((round) => sampleClients(4, sampling, 11, round));
  expect(reports.map(({ clients }) => clients.map(({ client }) => Number(client.at(-1))))).toEqual(drawn);
  expect(values(started.server.shared)).toEqual(await byTheRules(drawn));
  // Everyone evaluates, and only in the last round.
  expect(reports.map(({ evaluation }) => evaluation?.clients.length)).toEqual([undefined, undefined, 4]);
});

test.each(['bf16', 'int8'] as const)('updates as %s', async (name) => {
  const codec = updateCodec(name);
  const started = await startServer({ runDir: await temporaryFolder(), minClients: 2, rounds: 1 });
  const codecs = [codec, updateCodec('fp32')];
  await Promise.all([startClient(started.url, 0, { codecs }), startClient(started.url, 1)]);
  await started.rounds;
  const received = await byTheRules([]);
  const [own, plain] = [trained(received, 0, 1), trained(received, 1, 1)];
  const shared = codec.decode(codec.encode(own, received), received);
  const updates = [
    { client: 'site0', samples: 10, shared },
    { client: 'site1', samples: 11, shared: plain },
  ];
  expect(shared).not.toEqual(own);
  expect(values(started.server.shared)).toEqual(await weightedMean(received, updates, 'samples'));
});

test('a strategy with an aggregate of its own is given all updates at once', async () => {
  const seen: string[][] = [];
  class Doubled extends FedAvg {
    override async aggregate(previous: Tensors, updates: readonly ClientUpdate[]): Promise<Tensors> {
      seen.push(updates.map(({ client }) => client));
      const mean = await weightedMean(previous, updates, 'uniform');
      return Object.fromEntries(Object.entries(mean).map(([name, data]) => [name, data.map((x) => 2 * x)]));
    }
  }
  const strategy = new Doubled();
  const { server, url, rounds } = await startServer({
    runDir: await temporaryFolder(),
    minClients: 2,
    rounds: 1,
    strategy,
  });
  await Promise.all([1, 0].map((site) => startClient(url, site)));
  await rounds;
  const mean = await byTheRules([[0, 1]], 'uniform');
  expect(seen).toEqual([['site0', 'site1']]);
  expect(server.shared[WEIGHT]?.data).toEqual(mean[WEIGHT]?.map((x) => 2 * x));
});

describe('a client that does not do its part', () => {
  test('one that fails costs its share', async () => {
    const started = await startServer({ runDir: await temporaryFolder(), minClients: 2, rounds: 1 });
    const fails = madeHandler(1, { train: () => Promise.reject(new Error('out of apples')) });
    await Promise.all([startClient(started.url, 0), startClient(started.url, 1, { handler: fails })]);
    const [report] = await started.rounds;
    expect(report?.failures).toEqual([
      { client: 'site1', during: 'training', code: 'INTERNAL', message: 'out of apples' },
    ]);
    expect(values(started.server.shared)).toEqual(await byTheRules([[0]]));
    expect(started.server.nodes().find(({ name }) => name === 'site1')?.failures).toBe(1);
  });

  test('one that is slow misses the deadline, and its late update does not count', async () => {
    const started = await startServer({
      ...{ runDir: await temporaryFolder(), minClients: 2, rounds: 2, deadlineSeconds: 0.6 },
      heartbeatSeconds: 10,
    });
    const told: ClientEvent[] = [];
    const late = madeHandler(1, {
      train: async ({ shared, round }) => {
        if (round === 1) await sleep(900);
        return { samples: 11, shared: trained(shared, 1, round), metrics: {} };
      },
    });
    await Promise.all([
      startClient(started.url, 0),
      startClient(started.url, 1, { handler: late, onEvent: (event) => told.push(event) }),
    ]);
    const reports = await started.rounds;
    expect(reports[0]?.failures).toContainEqual({
      client: 'site1',
      during: 'training',
      code: 'CANCELLED',
      message: 'no answer by the deadline',
    });
    expect(told.filter(({ event }) => event === 'refused')).toEqual([
      expect.objectContaining({ round: 1, message: expect.stringMatching(/is over/) }),
    ]);
    expect(started.events).toContainEqual(expect.objectContaining({ event: 'late', client: 'site1' }));
    expect(values(started.server.shared)).toEqual(await byTheRules([[0], [0, 1]]));
  });

  test('work nobody waits for any more is ended by the heartbeat', async () => {
    const started = await startServer({
      ...{ runDir: await temporaryFolder(), minClients: 2, rounds: 1, deadlineSeconds: 0.5 },
    });
    const told: ClientEvent[] = [];
    await Promise.all([
      startClient(started.url, 0),
      startClient(started.url, 1, { handler: madeHandler(1, slow), onEvent: (event) => told.push(event) }),
    ]);
    await started.rounds;
    expect(told).toContainEqual({
      event: 'failed',
      kind: 'train',
      round: 1,
      message: 'the round went on without this client',
    });
  });

  test('without a quorum a round is tried again, and then the run ends and can be resumed', async () => {
    const runDir = await temporaryFolder();
    const options = { runDir, minClients: 2, rounds: 1, quorum: 1, attempts: 2 };
    const started = await startServer(options);
    const fails = madeHandler(1, { train: () => Promise.reject(new Error('out of apples')) });
    const stop = new AbortController();
    const { signal } = stop;
    const clients = [
      startClient(started.url, 0, { signal }),
      startClient(started.url, 1, { signal, handler: fails }),
    ];
    await expect(started.rounds).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(started.rounds).rejects.toThrow(
      /updates of at least 2 of 2 clients in round 1 but received 1, in 2 attempts; client site1: out of apples/,
    );
    stop.abort();
    for (const client of clients) await expect(client).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(started.events.filter(({ event }) => event === 'no quorum')).toHaveLength(2);

    const again = await startServer({ ...options, resume: true, attempts: 3 });
    await Promise.all([startClient(again.url, 0), startClient(again.url, 1)]);
    await again.rounds;
    expect(values(again.server.shared)).toEqual(await byTheRules([[0, 1]]));
  });
});

describe('an update that cannot count', () => {
  const shared = smallShared();
  const bias = (data: Float32Array): Record<string, TensorData> => ({
    ...shared,
    [BIAS]: { dtype: 'f32', shape: [data.length], data },
  });
  const spoilt: [string, Uint8Array, RegExp][] = [
    [
      'a missing name',
      updateBody({ [WEIGHT]: shared[WEIGHT] as TensorData }),
      /f32 for .*down\.bias of an update but found nothing/,
    ],
    [
      'a strange name',
      updateBody({ ...shared, other: bias(new Float32Array(4))[BIAS] as TensorData }),
      /no tensor other/,
    ],
    [
      'another shape',
      updateBody({ ...shared, [WEIGHT]: { dtype: 'f32', shape: [3, 4], data: new Float32Array(12) } }),
      /shape 3 x 4 instead of 4 x 3/,
    ],
    ['NaN', updateBody(bias(new Float32Array([0, Number.NaN, 0, 0]))), /down\.bias.*finite/],
    ['infinity', updateBody(bias(new Float32Array([0, 0, 0, -Infinity]))), /finite/],
    ['too long a way', updateBody(bias(new Float32Array([0, 101, 0, 0]))), /norm 101.*limit of 100/],
    ['too many samples', updateBody(shared, 1001), /claims 1001 samples/],
    ['no samples', updateBody(shared, 0), /samples/],
    [
      'another type',
      updateBody({ ...shared, [BIAS]: { dtype: 'i32', shape: [4], data: new Int32Array(4) } }),
      /i32/,
    ],
    [
      'a header of 2^60 bytes',
      new Uint8Array([0, 0, 0, 0, 0, 0, 0, 16, ...new Uint8Array(200)]),
      /no safetensors/,
    ],
    ['no safetensors', new TextEncoder().encode('{"hello": "world"}'), /no safetensors/],
    ['nothing', new Uint8Array(), /no safetensors/],
  ];

  test.each(spoilt)('%s', async (_, body, words) => {
    const runDir = await temporaryFolder();
    const limits = { norm: 100, samples: 1000 };
    const started = await startServer({ runDir, minClients: 2, rounds: 1, limits, evaluation: { every: 1 } });
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const made = madeHandler(0);
    const handler = madeHandler(0, { train: (task, options) => held.then(() => made.train(task, options)) });
    const good = startClient(started.url, 0, { handler });
    const bad = await BareClient.join(started.url, 1);
    const { id } = await bad.task();
    const answer = await bad.upload(id, body);
    expect(answer).toMatchObject({
      status: 422,
      json: { code: 'REFUSED', message: expect.stringMatching(words) },
    });
    expect(JSON.stringify(answer.json)).not.toContain(runDir);
    // The same again is the same refusal; the round does without it.
    expect(await bad.upload(id, body)).toMatchObject({ status: answer.status });
    release();
    await bad.call('POST', '/v1/leave', {});
    bad.close();
    const [report] = await started.rounds;
    await good;
    expect(report?.failures[0]).toMatchObject({ client: 'site1', during: 'training', code: 'REFUSED' });
    expect(values(started.server.shared)).toEqual(await byTheRules([[0]]));
  });

  test('more bytes than an update can have are not read', async () => {
    const started = await startServer({
      runDir: await temporaryFolder(),
      minClients: 1,
      rounds: 1,
      attempts: 1,
    });
    const bad = await BareClient.join(started.url, 0);
    const { id } = await bad.task();
    const headers = {
      'upload-sha256': '0'.repeat(64),
      'upload-length': '999999999999',
      'upload-offset': '0',
    };
    const answer = await bad.call('PUT', `/v1/update/${id}`, new Uint8Array(10), headers);
    expect(answer).toMatchObject({ status: 413, json: { code: 'TOO_LARGE' } });
    await expect(started.rounds).rejects.toThrow(/more than the limit/);
    bad.close();
  });
});

describe('an upload', () => {
  test('that was damaged is refused and may come again', async () => {
    const started = await startServer({
      runDir: await temporaryFolder(),
      rounds: 1,
      evaluation: { every: 1 },
    });
    const client = await BareClient.join(started.url, 0);
    const { id } = await client.task();
    const body = updateBody(smallShared());
    const damaged = Uint8Array.from(body);
    damaged[damaged.length - 1] = 77;
    const digest = sha256(body);
    expect(await client.upload(id, damaged, { digest })).toMatchObject({
      status: 400,
      json: { code: 'DIGEST' },
    });
    expect(await client.upload(id, body)).toMatchObject({ status: 200, json: { accepted: true } });
    // An answer that was lost on its way is given again.
    expect(await client.upload(id, body)).toMatchObject({ status: 200, json: { accepted: true } });
    client.close();
    await started.stop();
  });

  test('that broke off goes on where it ended', async () => {
    const started = await startServer({ runDir: await temporaryFolder(), rounds: 1 });
    const client = await BareClient.join(started.url, 0);
    const { id } = await client.task();
    const body = updateBody(smallShared());
    await expect(client.upload(id, body, { cut: 100 })).rejects.toThrow();
    const wrong = await client.upload(id, body);
    expect(wrong).toMatchObject({
      status: 409,
      json: { code: 'OFFSET' },
      headers: { 'upload-offset': '100' },
    });
    expect(await client.upload(id, body, { offset: 100 })).toMatchObject({ status: 200 });
    client.close();
    await started.stop();
  });
});

test('clients join and leave at any time', async () => {
  const started = await startServer({ runDir: await temporaryFolder(), minClients: 2, rounds: 3 });
  const leave = new AbortController();
  const second = madeHandler(1, {
    evaluate: async ({ round }) => {
      // Leaves after the first round, when a third one is there.
      if (round === 1) leave.abort();
      return { samples: 0, accuracy: {} };
    },
  });
  const all = [
    startClient(started.url, 0),
    startClient(started.url, 1, { handler: second, signal: leave.signal }),
  ];
  await expect(all[1]).rejects.toMatchObject({ code: 'CANCELLED' });
  await Promise.all([all[0], startClient(started.url, 2)]);
  const reports = await started.rounds;
  expect(reports.map(({ clients }) => clients.map(({ client }) => client))).toEqual([
    ['site0', 'site1'],
    ['site0', 'site2'],
    ['site0', 'site2'],
  ]);
  expect(values(started.server.shared)).toEqual(
    await byTheRules([
      [0, 1],
      [0, 2],
      [0, 2],
    ]),
  );
});

test('a second process of a name takes over its place', async () => {
  const started = await startServer({ runDir: await temporaryFolder(), rounds: 1, minClients: 2 });
  const first = startClient(started.url, 0);
  while (started.server.nodes().length < 1) await sleep(10);
  const other = startClient(started.url, 0);
  await expect(first).rejects.toThrow(/another process has joined as site0/);
  await Promise.all([other, startClient(started.url, 1)]);
  await started.rounds;
});

test('a server that was stopped continues its round with the updates it has', async () => {
  const runDir = await temporaryFolder();
  const stop = new AbortController();
  const { signal } = stop;
  const started = await startServer({ runDir, minClients: 2, rounds: 1 });
  let runs = 0;
  const once = madeHandler(0);
  const counted = madeHandler(0, {
    train: (task, options) => {
      runs++;
      return once.train(task, options);
    },
  });
  const clients = [
    startClient(started.url, 0, { signal, handler: counted }),
    startClient(started.url, 1, { signal, handler: madeHandler(1, slow) }),
  ];
  while (!started.events.some(({ event }) => event === 'update')) await sleep(10);
  const port = Number(new URL(started.url).port);
  await started.stop();
  const again = await startServer({ runDir, minClients: 2, rounds: 1, resume: true, port });
  while (again.events.length < 2) await sleep(10);
  expect(again.events).toContainEqual(
    expect.objectContaining({
      event: 'continued',
      updates: [expect.objectContaining({ client: 'site0', samples: 10 })],
    }),
  );
  // The slow one is replaced; the other one is not asked again.
  const third = startClient(again.url, 1);
  await again.rounds;
  await Promise.all([clients[0], third]);
  stop.abort();
  await clients[1]?.catch(() => {});
  expect(runs).toBe(1);
  expect(values(again.server.shared)).toEqual(await byTheRules([[0, 1]]));
});

test('a finished run that is resumed says whom it waits for, and one with a damaged checkpoint what it left out', async () => {
  const runDir = await temporaryFolder();
  const started = await startServer({ runDir });
  await startClient(started.url, 0);
  await started.rounds;
  const again = await startServer({ runDir, resume: true });
  await expect.poll(() => again.events.map(({ event }) => event)).toEqual(['listening', 'farewell']);
  await again.stop();
  await writeFile(join(runDir, 'checkpoints/round-0002.safetensors'), 'damaged');
  const third = await startServer({ runDir, resume: true });
  await expect
    .poll(() => third.events)
    .toContainEqual({
      event: 'damaged',
      message: expect.stringContaining('round-0002.safetensors'),
    });
  await third.stop();
});

test.each(['a\u001b[2J', 'a\u202eb', 'a\u200bb', 'a\u0085b'])('the name %j is refused', async (name) => {
  const started = await startServer({ runDir: await temporaryFolder() });
  await expect(startClient(started.url, 0, { name })).rejects.toThrow(/printable/);
  await started.stop();
});

describe('the audit log', () => {
  test('has the lines the metrics name, or the run does not go on', async () => {
    const runDir = await temporaryFolder();
    const started = await startServer({ runDir });
    await startClient(started.url, 0);
    const rounds = await started.rounds;
    const path = join(runDir, 'audit.jsonl');
    const text = await readFile(path, 'utf8');
    const { lines } = await verifyAudit(path, rounds);
    const last = lines.findLastIndex(({ event }) => event === 'evaluation');
    const kept = text.split('\n').slice(0, last + 1);
    const changed = kept.with(-1, kept.at(-1)!.replace('"samples":4', '"samples":5'));
    for (const broken of ['', `${kept.slice(0, -1).join('\n')}\n`, `${changed.join('\n')}\n`]) {
      await writeFile(path, broken);
      await expect(verifyAudit(path, rounds)).rejects.toMatchObject({ code: 'CORRUPT' });
      await expect(startServer({ runDir, resume: true })).rejects.toThrow(
        /the log was cut, emptied or changed/,
      );
    }
    await rm(path);
    await expect(startServer({ runDir, resume: true })).rejects.toThrow(
      /that metrics.jsonl names in round 1/,
    );
    await writeFile(path, `${kept.join('\n')}\n`);
    await verifyAudit(path, rounds);
  });

  test('tells the rounds and shows tampering', async () => {
    const runDir = await temporaryFolder();
    const started = await startServer({ runDir, minClients: 2 });
    await Promise.all([0, 1].map((site) => startClient(started.url, site)));
    const reports = await started.rounds;
    const path = join(runDir, 'audit.jsonl');
    const { lines } = await verifyAudit(path);
    const of = (event: string): AuditLine[] => lines.filter((line) => line.event === event);
    expect(of('round').map(({ clients }) => clients)).toEqual([
      ['site0', 'site1'],
      ['site0', 'site1'],
    ]);
    expect(of('aggregate').map(({ shared }) => shared)).toEqual(reports.map(({ shared }) => shared));
    expect(of('aggregate')[0]?.updates).toEqual(
      reports[0]?.clients.map(({ client, samples, sha256 }) => ({ client, samples, sha256 })),
    );
    const text = await readFile(path, 'utf8');
    await writeFile(path, text.replace('"samples":11', '"samples":99'));
    await expect(verifyAudit(path)).rejects.toMatchObject({ code: 'CORRUPT' });
    const all = text.split('\n');
    await writeFile(path, all.toSpliced(3, 1).join('\n'));
    await expect(verifyAudit(path)).rejects.toThrow(/Line 4 .* does not follow/);
    // What is there after the last line is cut off only where it is no line.
    await writeFile(path, text);
    await appendFile(path, '{"at":"half a li');
    const resumed = await startServer({ runDir, minClients: 2, resume: true });
    await resumed.rounds;
    await verifyAudit(path);
  });
});
