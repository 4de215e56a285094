// Members and strangers who do what they should not: they cost their own share and nothing else.

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { FedAvg } from '../src/federated/strategies/fedavg.js';
import { native } from '../src/native.js';
import { temporaryFolder } from './federation-support.js';
import { BareClient, smallShared, startClient, startServer, updateBody } from './support/duet-server.js';

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
