// The way to a SuperLink: keys and signatures, addresses, what is found out about the other side, and what is said when it is wrong.

import { execFileSync, spawnSync } from 'node:child_process';
import { createPublicKey, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';
import * as http from 'node:http';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { NodeIdentity } from '../src/federated/flower/authentication.js';
import { FleetError } from '../src/federated/flower/fleet-error.js';
import { FlowerHost, limitTo, SharedObjects } from '../src/federated/flower/host.js';
import type { NodeHandler } from '../src/federated/flower/node.js';
import { openFleet } from '../src/federated/flower/probe.js';
import type { RecordDict } from '../src/federated/flower/records.js';
import { addressOf, type FlowerConnection } from '../src/federated/flower/transport.js';
import { temporaryFolder } from './federation-support.js';
import { Authority } from './support/certificates.js';
import { FakeSuperLink, until } from './support/fake-superlink.js';

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

const authority = new Authority();
const certificate = authority.issue('superlink');
const stranger = new Authority();

async function superlink(transport: 'grpc' | 'http', tls = false): Promise<FakeSuperLink> {
  const link = await FakeSuperLink.start({ transport, ...(tls && { certificate }) });
  ends.push(() => link.stop());
  return link;
}

async function open(connection: FlowerConnection) {
  const transport = await openFleet(connection, { timeoutMs: 3000 });
  ends.push(() => transport.close());
  return transport;
}

const failure = (code: string, message: RegExp) => ({ code, message: expect.stringMatching(message) });

const noKeygen = spawnSync('ssh-keygen', ['-?']).error !== undefined;
if (noKeygen) console.log('skipped: tests of keys, for there is no ssh-keygen');

describe.skipIf(noKeygen)('keys', () => {
  const keygen = async (...args: string[]): Promise<string> => {
    const path = join(await temporaryFolder(), 'key');
    execFileSync('ssh-keygen', ['-q', '-C', '', '-f', path, ...args]);
    return path;
  };
  const read = (path: string) => readFileSync(path, 'utf8');

  test.each([256, 384, 521])('of OpenSSH and PEM, on P-%i', async (bits) => {
    // The length of a scalar in OpenSSH's format depends on its value.
    for (let time = 0; time < 4; time++) {
      const path = await keygen('-t', 'ecdsa', '-b', `${bits}`, '-N', '');
      const identity = new NodeIdentity({ privateKey: read(path) });
      expect(identity.openSshPublicKey).toBe(read(`${path}.pub`).trim());
      const { timestamp, signature } = identity.sign();
      const publicKey = createPublicKey(identity.publicKey);
      expect(verify('sha256', Buffer.from(timestamp), publicKey, signature)).toBe(true);
      execFileSync('ssh-keygen', ['-q', '-p', '-m', 'PEM', '-N', '', '-P', '', '-f', path]);
      expect(new NodeIdentity({ privateKey: read(path) }).publicKey).toEqual(identity.publicKey);
    }
  });

  test('encrypted ones', async () => {
    const openssh = await keygen('-t', 'ecdsa', '-b', '384', '-N', 'secret');
    expect(() => new NodeIdentity({ privateKey: read(openssh) })).toThrow(
      expect.objectContaining(failure('UNSUPPORTED', /encrypted with .*ssh-keygen -p/)),
    );
    const pem = await keygen('-t', 'ecdsa', '-b', '384', '-N', 'secret', '-m', 'PEM');
    expect(new NodeIdentity({ privateKey: read(pem), passphrase: 'secret' }).openSshPublicKey).toBe(
      read(`${pem}.pub`).trim(),
    );
    expect(() => new NodeIdentity({ privateKey: read(pem), passphrase: 'wrong' })).toThrow(
      expect.objectContaining(failure('INVALID_ARGUMENT', /cannot be read/)),
    );
  });

  test('other kinds, and damaged ones', async () => {
    const rsa = await keygen('-t', 'rsa', '-b', '2048', '-N', '', '-m', 'PEM');
    const ed25519 = await keygen('-t', 'ed25519', '-N', '');
    for (const path of [rsa, ed25519])
      expect(() => new NodeIdentity({ privateKey: read(path) })).toThrow(
        expect.objectContaining(failure('UNSUPPORTED', /EC private key on P-256.*ssh-keygen -t ecdsa/)),
      );
    const good = read(await keygen('-t', 'ecdsa', '-b', '256', '-N', ''));
    const cut = good.replace(/(?:\n.+){2}\n-----END/, '\n-----END');
    for (const privateKey of ['', 'no key', cut, good.replace(/b3BlbnNz/, 'AAAAAAAA')])
      expect(() => new NodeIdentity({ privateKey })).toThrow(
        expect.objectContaining(failure('INVALID_ARGUMENT', /cannot be read/)),
      );
  });
});

test('one signature is used for a minute, with an offset Python reads', () => {
  let now = Date.UTC(2026, 10, 24, 1, 2, 3);
  const identity = new NodeIdentity(undefined, () => now);
  const first = identity.sign();
  expect(first.timestamp).toBe('2026-11-24T01:02:03.000+00:00');
  now += 59_999;
  expect(identity.sign()).toBe(first);
  now += 1;
  expect(identity.sign().timestamp).toBe('2026-11-24T01:03:03.000+00:00');
  // A clock that was set back.
  now -= 3_600_000;
  expect(identity.sign().timestamp).toBe('2026-11-24T00:03:03.000+00:00');
});

describe('addresses', () => {
  test('host and port, or a URL', () => {
    expect(addressOf({ superlink: 'flower.example:9092' })).toMatchObject({
      host: 'flower.example',
      port: 9092,
      secure: true,
      transport: 'auto',
      path: '',
    });
    expect(addressOf({ superlink: '[::1]:9092', tls: false })).toMatchObject({ host: '::1', secure: false });
    expect(addressOf({ superlink: 'https://flower.example/fleet/' })).toMatchObject({
      port: 443,
      secure: true,
      transport: 'http',
      path: '/fleet',
    });
    expect(addressOf({ superlink: 'http://localhost:8000' })).toMatchObject({
      secure: false,
      transport: 'http',
    });
  });

  test.each<[FlowerConnection]>([
    [{ superlink: 'localhost' }],
    [{ superlink: 'localhost:port' }],
    [{ superlink: 'localhost:9092/path' }],
    [{ superlink: 'ftp://localhost:9092' }],
    [{ superlink: '' }],
    [{ superlink: 9092 as never }],
    [{ superlink: 'localhost:9092', transport: 'rest' as never }],
    [{ superlink: 'http://localhost:9092', tls: { ca: 'x' } }],
    [{ superlink: 'https://localhost:9092', tls: false }],
    [{ superlink: 'https://localhost:9092', transport: 'grpc' }],
  ])('%j cannot work', (connection) => {
    expect(() => addressOf(connection)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });
});

describe.each(['grpc', 'http'] as const)('a SuperLink over %s', (transport) => {
  test('is found, without TLS and with it', async () => {
    const plain = await superlink(transport);
    expect((await open({ superlink: plain.address, tls: false })).kind).toBe(transport);
    const secure = await superlink(transport, true);
    const found = await open({ superlink: secure.address, tls: { ca: authority.cert } });
    expect(found.kind).toBe(transport);
    const identity = new NodeIdentity();
    const { nodeId } = await found.registerNode({ publicKey: identity.publicKey }, { identity });
    expect(secure.nodes.get(nodeId)?.key).toBe(identity.publicKey.toString());
  });

  test('TLS on one side only', async () => {
    const plain = await superlink(transport);
    await expect(open({ superlink: plain.address })).rejects.toMatchObject(
      failure('UNSUPPORTED', /with TLS at .* but it has none.*--insecure/),
    );
    const secure = await superlink(transport, true);
    await expect(open({ superlink: secure.address, tls: false })).rejects.toMatchObject(
      failure('UNSUPPORTED', /without TLS at .* but it uses TLS.*leave out/),
    );
  });

  test('a certificate nobody trusts, or of another name', async () => {
    const secure = await superlink(transport, true);
    for (const tls of [undefined, { ca: stranger.cert }])
      await expect(open({ superlink: secure.address, ...(tls && { tls }) })).rejects.toMatchObject(
        failure('UNAUTHENTICATED', /not trusted: .*tls\.ca \(--root-certificates\)/),
      );
    const other = secure.address.replace('localhost', '127.0.0.2');
    await expect(open({ superlink: other, tls: { ca: authority.cert } })).rejects.toMatchObject({
      code: expect.stringMatching(/UNAUTHENTICATED|UNAVAILABLE/),
    });
  });

  test('a clock that is off', async () => {
    const link = await superlink(transport);
    const found = await open({ superlink: link.address, tls: false });
    const register = () => {
      const identity = new NodeIdentity();
      return found.registerNode({ publicKey: identity.publicKey }, { identity });
    };
    for (const seconds of [4, -290]) {
      link.clockSeconds = -seconds;
      await register();
    }
    for (const [seconds, how] of [
      [10, transport === 'http' ? 'is fast by (9|10|11) seconds' : 'differs from'],
      [-400, transport === 'http' ? 'is slow by (399|400|401) seconds' : 'differs from'],
    ] as const) {
      link.clockSeconds = -seconds;
      await expect(register()).rejects.toMatchObject(
        failure('UNAUTHENTICATED', new RegExp(`the clock of this machine ${how}.*: set it`)),
      );
    }
  });

  test('a key of another node', async () => {
    const link = await superlink(transport);
    const found = await open({ superlink: link.address, tls: false });
    const [one, other] = [new NodeIdentity(), new NodeIdentity()];
    const { nodeId } = await found.registerNode({ publicKey: one.publicKey }, { identity: one });
    await expect(found.pullMessages({ node: { nodeId } }, { identity: other })).rejects.toMatchObject(
      failure('UNAUTHENTICATED', /does not know this node and its key/),
    );
  });

  test('a slow one runs into the time limit, a cancelled call ends at once', async () => {
    const link = await superlink(transport);
    const found = await open({ superlink: link.address, tls: false });
    const identity = new NodeIdentity();
    link.delayMs = 3000;
    const { publicKey } = identity;
    const slow = found.registerNode({ publicKey }, { identity, timeoutMs: 200 });
    await expect(slow).rejects.toMatchObject({ status: 'DEADLINE_EXCEEDED', code: 'UNAVAILABLE' });
    const stop = new AbortController();
    const cancelled = found.registerNode({ publicKey }, { identity, signal: stop.signal });
    setTimeout(() => stop.abort(), 50);
    const start = performance.now();
    await expect(cancelled).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(performance.now() - start).toBeLessThan(1000);
  });

  test('answers that are no protobuf, refusals, connections that break', async () => {
    const link = await superlink(transport);
    const found = await open({ superlink: link.address, tls: false });
    const identity = new NodeIdentity();
    const { publicKey } = identity;
    link.garbage = Buffer.from('no protobuf');
    await expect(found.registerNode({ publicKey }, { identity })).rejects.toMatchObject({
      status: 'INTERNAL',
    });
    link.garbage = undefined;
    for (const status of [
      'PERMISSION_DENIED',
      'FAILED_PRECONDITION',
      'RESOURCE_EXHAUSTED',
      'INTERNAL',
    ] as const) {
      link.fail({ method: 'registerNode', status, details: 'because' });
      const call = found.registerNode({ publicKey }, { identity });
      await expect(call).rejects.toMatchObject({ status, details: 'because' });
    }
    await link.stop();
    await expect(found.registerNode({ publicKey }, { identity, timeoutMs: 2000 })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
    await link.begin();
    await vi.waitFor(
      () => found.registerNode({ publicKey: new NodeIdentity().publicKey }, { identity }),
      10_000,
    );
  });

  test('counts bytes', async () => {
    const link = await superlink(transport);
    const found = await open({ superlink: link.address, tls: false });
    const identity = new NodeIdentity();
    const counts: number[][] = [];
    await found.registerNode(
      { publicKey: identity.publicKey },
      { identity, onBytes: (...bytes) => counts.push(bytes) },
    );
    expect(counts).toEqual([[identity.publicKey.length + 3, expect.any(Number)]]);
    expect(counts[0]?.[1]).toBeLessThan(12);
  });

  test('the other transport is refused with the reason', async () => {
    const link = await superlink(transport);
    const wrong = transport === 'grpc' ? 'http' : 'grpc';
    await expect(open({ superlink: link.address, tls: false, transport: wrong })).rejects.toMatchObject(
      failure('UNSUPPORTED', /speaks .* but it speaks .*'auto'/),
    );
  });

  test('many nodes in one process pull an object once', async () => {
    const link = await superlink(transport);
    const stop = new AbortController();
    const handler: NodeHandler = { handle: async ({ content }) => content as RecordDict };
    const host = new FlowerHost({
      connection: { superlink: link.address, tls: false },
      nodes: 30,
      handler: () => handler,
      connections: 3,
      atOnce: 4,
      pollSeconds: 0.1,
      backoff: { firstSeconds: 0.01 },
    });
    const running = host.run(stop.signal);
    const ids = await link.nodesOnline(30);
    const array = { dtype: 'float32', shape: [1000], data: new Float32Array(1000).fill(3) };
    const content: RecordDict = new Map([['arrays', { kind: 'arrays', values: new Map([['w', array]]) }]]);
    link.fail({ method: 'pushObject', status: 'UNAVAILABLE', times: 5 });
    const requests = ids.map((id) => link.send(id, content));
    for (const reply of await Promise.all(requests.map((id) => link.reply(id))))
      expect(reply.content).toEqual(content);
    // The message itself differs; what it consists of does not.
    expect(link.callsTo('pullObject')).toBe(30 + 4);
    await until(() => host.counters.answered === 30, 'all outcomes');
    stop.abort();
    await running;
    expect(host.counters).toMatchObject({
      messages: 30,
      answered: 30,
      errors: 0,
      dropped: 0,
      joins: 30,
      retries: 5,
    });
    expect(link.nodes.size).toBe(0);
  });
});

describe('what is no SuperLink', () => {
  test('nothing at all', async () => {
    const error = await open({ superlink: 'localhost:1', tls: false }).catch((caught) => caught);
    expect(error).toBeInstanceOf(FleetError);
    expect(error).toMatchObject({
      ...failure('UNAVAILABLE', /No SuperLink can be reached at localhost:1: .*ECONNREFUSED/),
    });
    await expect(open({ superlink: 'localhost:1' })).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    await expect(open({ superlink: 'no.such.host.invalid:1' })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
    });
  });

  test('a web server, and something else', async () => {
    const web = http.createServer((_, answer) => answer.writeHead(404).end('Not Found'));
    const echo = createServer((socket) => socket.end('220 mail.example ESMTP\r\n').on('error', () => {}));
    for (const server of [web, echo]) {
      await new Promise<void>((resolve) => server.listen(0, 'localhost', () => resolve()));
      ends.push(() => server.close());
    }
    const at = (server: { address(): unknown }) => `localhost:${(server.address() as AddressInfo).port}`;
    await expect(open({ superlink: at(web), tls: false })).rejects.toMatchObject(
      failure('UNSUPPORTED', /Flower's Fleet API .*1\.23 to 1\.42.*does not know it; check the port/),
    );
    await expect(open({ superlink: at(echo), tls: false })).rejects.toMatchObject(
      failure('UNSUPPORTED', /neither gRPC nor HTTP; check the port/),
    );
  });
});

test('a connection the server has closed meanwhile is not a failure', async () => {
  let requests = 0;
  const server = http.createServer((_, answer) => {
    requests++;
    answer.end();
  });
  server.keepAliveTimeout = 1;
  await new Promise<void>((resolve) => server.listen(0, 'localhost', () => resolve()));
  ends.push(() => server.close());
  const { port } = server.address() as AddressInfo;
  const found = await open({ superlink: `http://localhost:${port}` });
  for (let time = 0; time < 5; time++) {
    await found.deactivateNode({ nodeId: 1n });
    server.closeIdleConnections();
  }
  expect(requests).toBe(6);
});

test('so many at a time, in order', async () => {
  const gate = limitTo(2);
  const events: string[] = [];
  const work = (name: string) =>
    gate(async () => {
      events.push(`+${name}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
      events.push(`-${name}`);
      if (name === 'b') throw new Error(name);
    });
  const done = await Promise.allSettled(['a', 'b', 'c', 'd'].map(work));
  expect(done.map((one) => one.status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'fulfilled']);
  expect(events).toEqual(['+a', '+b', '-a', '+c', '-b', '+d', '-c', '-d']);
});

test('shared objects forget the oldest first, and keep no failures', async () => {
  const cache = new SharedObjects(10);
  let pulls = 0;
  const get = (id: string, bytes = 4) =>
    cache.get(id, async () => {
      pulls++;
      if (bytes === 0) throw new Error('gone');
      return new Uint8Array(bytes);
    });
  await Promise.all([get('a'), get('a'), get('b')]);
  expect(pulls).toBe(2);
  await get('a');
  await get('c'); // b is the oldest now
  await get('a');
  expect(pulls).toBe(3);
  await get('b');
  expect(pulls).toBe(4);
  await expect(get('d', 0)).rejects.toThrow('gone');
  await get('d');
  expect(pulls).toBe(6);
});
