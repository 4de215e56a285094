// Members and strangers who do what they should not: they cost their own share and nothing else.

import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { Slots } from '../src/federated/server/waiting.js';
import { FedAvg } from '../src/federated/strategies/fedavg.js';
import { native } from '../src/native.js';
import { temporaryFolder } from './federation-support.js';
import {
  BareClient,
  sha256,
  smallShared,
  startClient,
  startServer,
  updateBody,
} from './support/duet-server.js';

describe('an update for another task than the one that was asked for', () => {
  const head = (task: string) => ({ [`task_layer.${task}.weight`]: zeros() });
  const zeros = () => ({ dtype: 'f32' as const, shape: [2], data: new Float32Array(2) });
  const options = {
    ...{ rounds: 1, minClients: 2, strategy: new FedAvg({ sharedHead: true }) },
    initial: { ...smallShared(), ...head('a'), ...head('b') },
  };

  test('is refused when its client joined again for that one', async () => {
    const started = await startServer({ ...options, runDir: await temporaryFolder() });
    const good = startClient(started.url, 0, { task: 'a' });
    const first = await BareClient.join(started.url, 1, 'a');
    const { id } = await first.task();
    const second = await BareClient.join(started.url, 1, 'b');
    const answer = await second.upload(id, updateBody({ ...smallShared(), ...head('b') }));
    expect(answer).toMatchObject({ status: 422, json: { code: 'REFUSED' } });
    await second.call('POST', '/v1/leave', {});
    for (const client of [first, second]) client.close();
    const [report] = await started.rounds;
    await good;
    expect(report?.clients.map(({ client }) => client)).toEqual(['site0']);
  });

  test('on the disk is dropped when the server comes back, and asked for again', async () => {
    const runDir = await temporaryFolder();
    const started = await startServer({ ...options, runDir });
    const clients = await Promise.all([0, 1].map((site) => BareClient.join(started.url, site, 'a')));
    const { id } = await (clients[0] as BareClient).task();
    const body = updateBody({ ...smallShared(), ...head('a') });
    expect(await clients[0]?.upload(id, body)).toMatchObject({ status: 200 });
    for (const client of clients) client.close();
    await started.stop();
    const path = join(runDir, 'rounds/0001-1/0000.safetensors');
    const { metadata } = await native.readSafetensors(path);
    await native.writeSafetensors(path, { ...smallShared(), ...head('b') }, metadata);

    const again = await startServer({ ...options, runDir, resume: true });
    await Promise.all([0, 1].map((site) => startClient(again.url, site, { task: 'a' })));
    const [report] = await again.rounds;
    expect(again.events).toContainEqual(expect.objectContaining({ event: 'dropped', client: 'site0' }));
    expect(report?.clients.map(({ client }) => client)).toEqual(['site0', 'site1']);
  });
});

test('one client has two places of a line, and the others go past it', async () => {
  const slots = new Slots(3, 2);
  const started: string[] = [];
  const ends: (() => void)[] = [];
  const run = (owner: string) =>
    slots.run(() => {
      started.push(owner);
      return new Promise<void>((resolve) => ends.push(resolve));
    }, owner);
  const all = ['hog', 'hog', 'hog', 'hog', 'a', 'b'].map(run);
  await sleep(0);
  expect(started).toEqual(['hog', 'hog', 'a']);
  ends[2]?.();
  await sleep(0);
  expect(started).toEqual(['hog', 'hog', 'a', 'b']);
  for (let place = 0; place < all.length; place++) {
    ends[place]?.();
    await sleep(0);
  }
  await Promise.all(all);
  expect(started).toHaveLength(6);
});

describe('uploads of one client', () => {
  test('at the same time do not mix', async () => {
    const started = await startServer({ runDir: await temporaryFolder(), rounds: 1, minClients: 2 });
    const other = await BareClient.join(started.url, 1);
    const client = await BareClient.join(started.url, 0);
    const { id } = await client.task();
    const body = updateBody(smallShared());
    const answers = await Promise.allSettled([1, 2, 3, 4].map(() => client.upload(id, body)));
    const statuses = answers.flatMap((one) => (one.status === 'fulfilled' ? one.value.status : []));
    expect(statuses).toContain(200);
    expect(statuses.filter((status) => status !== 200 && status !== 409)).toEqual([]);
    expect(started.events.filter(({ event }) => event === 'error')).toEqual([]);
    for (const one of [client, other]) one.close();
    await started.stop();
  });

  test('that is on its way when the round ends is late', async () => {
    const started = await startServer({
      ...{ runDir: await temporaryFolder(), rounds: 1, attempts: 2, deadlineSeconds: 0.5 },
    });
    const client = await BareClient.join(started.url, 0);
    const { id } = await client.task();
    const body = updateBody(smallShared());
    const headers = {
      'upload-sha256': sha256(body),
      'upload-length': `${body.length}`,
      'upload-offset': '0',
    };
    const answer = await client.call('PUT', `/v1/update/${id}`, body, headers, undefined, 700);
    expect(answer).toMatchObject({ status: 409, json: { code: 'LATE' } });
    expect(started.events.map(({ event }) => event)).toContain('late');
    expect(started.events.map(({ event }) => event)).not.toContain('error');
    client.close();
    await started.stop();
  });
});

test('connections that ask for nothing make room for others', async () => {
  const started = await startServer({ runDir: await temporaryFolder(), rounds: 1 });
  const member = await BareClient.join(started.url, 0);
  await member.task();
  const { hostname: host, port } = new URL(started.url);
  let closed = 0;
  const idle = Array.from({ length: 140 }, () => {
    const socket = connect(Number(port), host)
      .on('error', () => {})
      .resume();
    return socket.on('close', () => closed++);
  });
  await expect.poll(() => closed).toBe(12);
  expect(await member.call('POST', '/v1/heartbeat', {})).toMatchObject({ status: 200 });
  for (const socket of idle) socket.destroy();
  member.close();
  await started.stop();
});

test('the audit log tells of late answers to known tasks, once', async () => {
  const started = await startServer({
    runDir: await temporaryFolder(),
    rounds: 1,
    attempts: 2,
    deadlineSeconds: 0.3,
  });
  const client = await BareClient.join(started.url, 0);
  const { id } = await client.task();
  await expect.poll(() => started.events.map(({ event }) => event)).toContain('deadline');
  const headers = { 'upload-sha256': '0'.repeat(64), 'upload-length': '9', 'upload-offset': '0' };
  for (const task of [id, id, 'x'.repeat(5000)])
    expect(await client.call('PUT', `/v1/update/${task}`, {}, headers)).toMatchObject({ status: 409 });
  expect(started.events.filter(({ event }) => event === 'late')).toMatchObject([
    { client: 'site0', task: id },
  ]);
  client.close();
  await started.stop();
});

test('a path that is none is said to be none, also before a client has joined', async () => {
  const started = await startServer({ runDir: await temporaryFolder(), rounds: 1 });
  const member = await BareClient.join(started.url, 0);
  member.session = '';
  for (const path of ['/v2/join', '/'])
    expect(await member.call('POST', path, {})).toMatchObject({ status: 404, json: { code: 'NOT_FOUND' } });
  expect(await member.call('POST', '/v1/heartbeat', {})).toMatchObject({ status: 410 });
  member.close();
  await started.stop();
});
