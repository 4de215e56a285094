// A node against a SuperLink that can be told to fail, over both transports: every state, every failure, a crash in every phase.

import { randomBytes } from 'node:crypto';
import { readdir, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { NodeIdentity } from '../src/federated/flower/authentication.js';
import { fleetSource } from '../src/federated/flower/fleet-source.js';
import {
  FolderMessageStore,
  MemoryMessageStore,
  type StoredMessage,
} from '../src/federated/flower/message-store.js';
import { FlowerNode, type FlowerNodeOptions, type NodeHandler } from '../src/federated/flower/node.js';
import type { MessageOutcome, NodeState } from '../src/federated/flower/node-events.js';
import type { NumpyArray, RecordDict } from '../src/federated/flower/records.js';
import type { FleetMethod } from '../src/federated/flower/transport.js';
import { temporaryFolder } from './federation-support.js';
import { Death, dying } from './support/dying-node.js';
import { FakeSuperLink, until } from './support/fake-superlink.js';

const ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

function arrays(values: Float32Array): RecordDict {
  const array = { dtype: 'float32', shape: [values.length], data: values };
  return new Map([['arrays', { kind: 'arrays', values: new Map([['weight', array]]) }]]);
}

function valuesOf(content: RecordDict | undefined): number[] {
  const record = content?.get('arrays');
  if (record?.kind !== 'arrays') throw new Error('Expected arrays');
  return [...(record.values.get('weight') as { data: Float32Array }).data];
}

function bytesOf(array: NumpyArray | undefined): Uint8Array {
  const { buffer, byteOffset, byteLength } = (array as NumpyArray).data;
  return new Uint8Array(buffer, byteOffset, byteLength);
}

const REQUEST = arrays(Float32Array.of(1, 2, 3));
const ANSWER = [2, 4, 6];

/** Answers with every value doubled. */
const doubling: NodeHandler = {
  async handle({ content }) {
    return arrays(Float32Array.from(valuesOf(content), (value) => 2 * value));
  },
};

interface Running {
  node: FlowerNode;
  outcomes: MessageOutcome[];
  states: NodeState[];
  stop: AbortController;
  /** Resolves when it has left. */
  ended: Promise<void>;
}

const FAST = { pollSeconds: 0.05, backoff: { firstSeconds: 0.02, mostSeconds: 0.1 }, stopSeconds: 5 };

function start(link: FakeSuperLink, options: Partial<FlowerNodeOptions> = {}): Running {
  const outcomes: MessageOutcome[] = [];
  const states: NodeState[] = [];
  const node = new FlowerNode({
    connection: { superlink: link.address, tls: false },
    handler: doubling,
    ...FAST,
    events: { onMessage: (one) => outcomes.push(one), onState: (state) => states.push(state) },
    ...options,
  });
  const stop = new AbortController();
  const ended = node.run(stop.signal);
  ended.catch(() => {});
  ends.push(() => {
    stop.abort();
    return ended.catch(() => {});
  });
  return { node, outcomes, states, stop, ended };
}

describe.each(['grpc', 'http'] as const)('a node over %s', (transport) => {
  const superlink = async (more: { authentication?: boolean } = {}): Promise<FakeSuperLink> => {
    const link = await FakeSuperLink.start({ transport, ...more });
    ends.push(() => link.stop());
    return link;
  };
  const started = async (options: Partial<FlowerNodeOptions> = {}) => {
    const link = await superlink();
    const running = start(link, options);
    const [nodeId] = (await link.nodesOnline(1)) as [bigint];
    await until(() => running.node.nodeId === nodeId, 'the node to know its id');
    return { link, nodeId, ...running };
  };

  test('joins, answers, leaves nothing behind', async () => {
    const { link, nodeId, node, states, outcomes, stop, ended } = await started();
    expect(node.nodeId).toBe(nodeId);
    const id = link.send(nodeId, REQUEST);
    const reply = await link.reply(id);
    expect(valuesOf(reply.content)).toEqual(ANSWER);
    expect(reply.metadata).toMatchObject({
      srcNodeId: nodeId,
      dstNodeId: 1n,
      replyToMessageId: id,
      groupId: 'round 1',
      messageType: 'train',
    });
    await until(() => outcomes.length === 1, 'an outcome');
    stop.abort();
    await ended;
    expect(states).toEqual([
      'joining',
      'waiting',
      'pulling',
      'working',
      'pushing',
      'waiting',
      'leaving',
      'stopped',
    ]);
    expect(outcomes).toEqual([{ id, type: 'train', outcome: 'answered', seconds: expect.any(Number) }]);
    expect(link.nodes.size).toBe(0);
    expect(link.calls.map((call) => call.method).filter((method) => method !== 'pullMessages')).toEqual([
      'registerNode',
      'activateNode',
      ...Array(5).fill('pullObject'),
      'confirmMessageReceived',
      'pushMessages',
      ...Array(5).fill('pushObject'),
      'deactivateNode',
      'unregisterNode',
    ]);
    expect(node.counters).toMatchObject({
      messages: 1,
      answered: 1,
      errors: 0,
      dropped: 0,
      retries: 0,
      joins: 1,
    });
    expect(node.counters.bytesDown).toBeGreaterThan(500);
    expect(node.counters.bytesUp).toBeGreaterThan(500);
  });

  test('messages of several chunks travel both ways', async () => {
    const { link, nodeId } = await started();
    // Random bits, none of them a NaN: the chunks differ.
    const values = new Float32Array(
      new Uint32Array(randomBytes(11 * 2 ** 20).buffer).map((bits) => bits & 0xbfffffff).buffer,
    );
    const reply = await link.reply(link.send(nodeId, arrays(values)));
    const record = reply.content?.get('arrays');
    if (record?.kind !== 'arrays') throw new Error('Expected arrays');
    const doubled = values.map((value) => 2 * value);
    expect(Buffer.from(doubled.buffer).equals(Buffer.from(bytesOf(record.values.get('weight'))))).toBe(true);
  });

  test('a failure is an answer', async () => {
    const handler: NodeHandler = {
      handle: () => Promise.reject(Object.assign(new Error('no data here'), { code: 'NOT_FOUND' })),
    };
    const { link, nodeId, outcomes, node } = await started({ handler });
    const reply = await link.reply(link.send(nodeId, REQUEST));
    expect(reply.error).toEqual({ code: 2, reason: 'NOT_FOUND: no data here' });
    expect(reply.content).toBeUndefined();
    await until(() => outcomes.length === 1, 'an outcome');
    expect(outcomes[0]).toMatchObject({ outcome: 'error', reason: 'NOT_FOUND: no data here' });
    expect(node.counters).toMatchObject({ errors: 1, answered: 0 });
  });

  test('messages of unknown types get an error, not silence', async () => {
    const { link, nodeId } = await started();
    const refused = await link.reply(link.send(nodeId, REQUEST, { messageType: 'system' }));
    expect(refused.error).toMatchObject({
      code: 2,
      reason: expect.stringMatching(/^UNSUPPORTED: .*system$/),
    });
    const action = await link.reply(link.send(nodeId, REQUEST, { messageType: 'query.sizes' }));
    expect(valuesOf(action.content)).toEqual(ANSWER);
  });

  test('an answer that cannot be encoded is an error', async () => {
    const handler: NodeHandler = {
      handle: async () =>
        new Map([['metrics', { kind: 'metrics', values: new Map([['loss', 'low' as never]]) }]]),
    };
    const { link, nodeId } = await started({ handler });
    const { error } = await link.reply(link.send(nodeId, REQUEST));
    expect(error).toMatchObject({ code: 2, reason: expect.stringMatching(/^INVALID_ARGUMENT: .*loss/) });
  });

  test('objects that are gone, damaged for ever, damaged once, late', async () => {
    const { link, nodeId } = await started();
    const ask = async (spoil: (objectId: string) => void, seed: number) => {
      const id = link.send(nodeId, arrays(Float32Array.of(seed)), { dstNodeId: 99n });
      const objectId = link.objectsOf(id)[0] as string;
      spoil(objectId);
      // The same objects, in a message to this node.
      const mine = link.send(nodeId, arrays(Float32Array.of(seed)));
      spoil(objectId);
      return link.reply(mine);
    };
    const gone = await ask((object) => link.lose(object), 11);
    expect(gone.error).toMatchObject({
      code: 3,
      reason: expect.stringMatching(/^NOT_FOUND: .*has it no more/),
    });
    const damaged = await ask((object) => link.damage(object), 12);
    expect(damaged.error).toMatchObject({ code: 3, reason: expect.stringMatching(/^CORRUPT: .*sha256/) });
    const once = await ask((object) => link.damage(object, 1), 13);
    expect(valuesOf(once.content)).toEqual([26]);
    let bring = () => {};
    const late = ask((object) => {
      bring = link.withhold(object);
    }, 14);
    const before = link.callsTo('pullObject');
    await link.called('pullObject', before + 4);
    bring();
    expect(valuesOf((await late).content)).toEqual([28]);
  });

  test.each([
    'registerNode',
    'activateNode',
    'pullMessages',
    'pullObject',
    'confirmMessageReceived',
    'pushMessages',
    'pushObject',
  ] as const)('a SuperLink that is not available for %s is asked again', async (method) => {
    const link = await superlink();
    link.fail({ method, status: 'UNAVAILABLE', times: 3 });
    const { node } = start(link);
    const [nodeId] = (await link.nodesOnline(1)) as [bigint];
    const reply = await link.reply(link.send(nodeId, REQUEST));
    expect(valuesOf(reply.content)).toEqual(ANSWER);
    expect(node.counters.retries).toBe(3);
  });

  test.each(['pushMessages', 'pushObject'] as const)(
    'an answer whose %s was heard and not answered arrives once',
    async (method) => {
      const { link, nodeId, outcomes } = await started();
      link.fail({ method, status: 'UNAVAILABLE', times: 2, after: true });
      expect(valuesOf((await link.reply(link.send(nodeId, REQUEST))).content)).toEqual(ANSWER);
      await until(() => outcomes.length === 1, 'an outcome');
      expect(outcomes[0]?.outcome).toBe('answered');
    },
  );

  test('an error of the SuperLink itself is tried for a while, then dropped', async () => {
    const { link, nodeId, outcomes } = await started();
    link.fail({ method: 'pushMessages', status: 'INTERNAL', times: 8 });
    link.send(nodeId, REQUEST);
    await until(() => outcomes.length === 1, 'an outcome');
    expect(outcomes[0]).toMatchObject({
      outcome: 'dropped',
      reason: expect.stringContaining('told to fail'),
    });
    expect(valuesOf((await link.reply(link.send(nodeId, REQUEST))).content)).toEqual(ANSWER);
  });

  test('nobody waits: a request that is void, a run that is over', async () => {
    const handler: NodeHandler = {
      // Until the request is void.
      handle: (_request, signal) =>
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('late')))),
    };
    const { link, nodeId, outcomes } = await started({ handler });
    link.send(nodeId, REQUEST, { ttl: 0.5 });
    await until(() => outcomes.length === 1, 'an outcome');
    expect(outcomes[0]).toMatchObject({
      outcome: 'dropped',
      reason: expect.stringContaining('time to live'),
    });
    link.runOver = true;
    link.send(nodeId, REQUEST);
    await until(() => outcomes.length === 2, 'an outcome');
    expect(outcomes[1]).toMatchObject({
      outcome: 'dropped',
      reason: expect.stringContaining('its run is over'),
    });
    expect(link.callsTo('pushObject')).toBe(0);
  });

  test('a SuperLink that restarts and knows its nodes', async () => {
    const { link, nodeId, node } = await started();
    await link.restart(false);
    expect(valuesOf((await link.reply(link.send(nodeId, REQUEST))).content)).toEqual(ANSWER);
    expect(node.nodeId).toBe(nodeId);
    expect(node.counters.joins).toBe(1);
  });

  test('a SuperLink that restarts and knows nothing, while the node works', async () => {
    let finish = () => {};
    const handler: NodeHandler = {
      async handle(request, signal) {
        await new Promise<void>((resolve) => {
          finish = resolve;
        });
        return doubling.handle(request, signal);
      },
    };
    const { link, nodeId, node, outcomes } = await started({ handler });
    link.send(nodeId, REQUEST);
    await until(() => node.state === 'working', 'work');
    await link.restart(true);
    finish();
    await until(() => outcomes.length === 1, 'an outcome');
    expect(outcomes[0]).toMatchObject({
      outcome: 'dropped',
      reason: expect.stringContaining('does not know'),
    });
    const [again] = (await link.nodesOnline(1)) as [bigint];
    await until(() => node.nodeId === again && node.counters.joins === 2, 'the node to join again');
    const id = link.send(again, REQUEST);
    await until(() => node.state === 'working', 'work');
    finish();
    expect(valuesOf((await link.reply(id)).content)).toEqual(ANSWER);
  });

  test('a SuperLink that starts late', async () => {
    const link = await superlink();
    await link.stop();
    const { node } = start(link);
    await until(() => node.counters.retries >= 3, 'retries');
    await link.begin();
    await link.nodesOnline(1);
  });

  test('a stop in the middle of work is an answer too', async () => {
    const handler: NodeHandler = {
      handle: (_request, signal) =>
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason))),
    };
    const { link, nodeId, node, stop, ended } = await started({ handler });
    const id = link.send(nodeId, REQUEST);
    await until(() => node.state === 'working', 'work');
    stop.abort();
    await ended;
    expect((await link.reply(id)).error).toEqual({ code: 2, reason: 'CANCELLED: the node was stopped' });
    expect(link.nodes.size).toBe(0);
  });

  test('a stop while the SuperLink is away ends in time, and the answer is kept', async () => {
    const store = new MemoryMessageStore();
    let answered = () => {};
    const handler: NodeHandler = {
      async handle(request, signal) {
        await new Promise<void>((resolve) => {
          answered = resolve;
        });
        return doubling.handle(request, signal);
      },
    };
    const { link, nodeId, node, stop, ended } = await started({ handler, store, stopSeconds: 0.5 });
    const id = link.send(nodeId, REQUEST);
    await until(() => node.state === 'working', 'work');
    await link.stop();
    answered();
    await until(() => node.state === 'pushing', 'a push');
    stop.abort();
    await ended;
    expect(node.state).toBe('stopped');
    expect(await store.pending()).toHaveLength(1);
    await link.begin();
    start(link, { store });
    expect(valuesOf((await link.reply(id)).content)).toEqual(ANSWER);
  });

  test('registered nodes only', async () => {
    const link = await superlink({ authentication: true });
    await expect(start(link).ended).rejects.toMatchObject({
      code: 'UNAUTHENTICATED',
      message: expect.stringMatching(/registered nodes only.*flwr supernode register/),
    });
    const keys = { privateKey: new NodeIdentity().privateKey };
    const nodeId = link.register(new NodeIdentity(keys).publicKey.toString());
    const { stop, ended, node } = start(link, { connection: { superlink: link.address, tls: false, keys } });
    await link.nodesOnline(1);
    expect(valuesOf((await link.reply(link.send(nodeId, REQUEST))).content)).toEqual(ANSWER);
    stop.abort();
    await ended;
    expect(node.nodeId).toBe(nodeId);
    expect(link.online).toEqual([]);
    expect(link.nodes.has(nodeId)).toBe(true);
  });

  test('a given key joins a SuperLink that takes any node', async () => {
    const link = await superlink();
    const keys = { privateKey: new NodeIdentity().privateKey };
    const { stop, ended } = start(link, { connection: { superlink: link.address, tls: false, keys } });
    await link.nodesOnline(1);
    stop.abort();
    await ended;
    expect(link.nodes.size).toBe(0);
  });

  test('a key that is online already waits until two heartbeats were missed', async () => {
    const link = await superlink({ authentication: true });
    const keys = { privateKey: new NodeIdentity().privateKey };
    const nodeId = link.register(new NodeIdentity(keys).publicKey.toString());
    (link.nodes.get(nodeId) as { onlineUntil: number }).onlineUntil = Date.now() / 1000 + 60;
    const reasons: string[] = [];
    const { node } = start(link, {
      connection: { superlink: link.address, tls: false, keys },
      events: { onRetry: ({ reason }) => reasons.push(reason) },
    });
    await until(() => reasons.length > 0, 'a retry');
    expect(reasons[0]).toMatch(/within 60 seconds/);
    link.forgetHeartbeat(nodeId);
    await until(() => node.nodeId === nodeId, 'the node');
  });

  describe('comes back after a crash', () => {
    /** Calls at which a node dies, and whether it still hears the answer. */
    const crashes: [FleetMethod, 'before' | 'after', number][] = [
      ['pullObject', 'before', 1],
      ['pullObject', 'after', 5],
      ['confirmMessageReceived', 'before', 1],
      ['confirmMessageReceived', 'after', 1],
      ['pushMessages', 'before', 1],
      ['pushMessages', 'after', 1],
      ['pushObject', 'before', 1],
      ['pushObject', 'after', 1],
      ['pushObject', 'before', 5],
      ['pushObject', 'after', 5],
    ];

    test.each(crashes)('at %s, %s (%i.)', async (method, when, call) => {
      const link = await superlink();
      const folder = await temporaryFolder();
      const death = new Death();
      const source = dying(fleetSource({ superlink: link.address, tls: false }), death, method, when, call);
      const first = start(link, {
        store: death.store(new FolderMessageStore(folder)),
        fleet: source,
        handler: death.handler(doubling),
      });
      ends.pop(); // nobody can stop it
      const [nodeId] = (await link.nodesOnline(1)) as [bigint];
      const id = link.send(nodeId, REQUEST);
      await death.struck;
      expect(first.outcomes).toEqual([]);
      await answeredOnce(link, folder, nodeId, id);
    });

    test.each(['pulled', 'with its objects', 'with its answer'])(
      'when a message was stored %s',
      async (stage) => {
        const link = await superlink();
        const folder = await temporaryFolder();
        const death = new Death();
        start(link, {
          store: death.store(new FolderMessageStore(folder), stage),
          fleet: death.fleet(fleetSource({ superlink: link.address, tls: false })),
          handler: death.handler(doubling),
        });
        ends.pop();
        const [nodeId] = (await link.nodesOnline(1)) as [bigint];
        const id = link.send(nodeId, REQUEST);
        await death.struck;
        await answeredOnce(link, folder, nodeId, id);
      },
    );

    test('while it works', async () => {
      const link = await superlink();
      const folder = await temporaryFolder();
      const death = new Death();
      const handled: string[] = [];
      const handler: NodeHandler = {
        handle({ metadata }) {
          handled.push(metadata.messageId);
          return death.strike();
        },
      };
      start(link, {
        handler,
        store: death.store(new FolderMessageStore(folder)),
        fleet: death.fleet(fleetSource({ superlink: link.address, tls: false })),
      });
      ends.pop();
      const [nodeId] = (await link.nodesOnline(1)) as [bigint];
      const id = link.send(nodeId, REQUEST);
      await death.struck;
      expect(handled).toEqual([id]);
      await answeredOnce(link, folder, nodeId, id);
    });

    async function answeredOnce(link: FakeSuperLink, folder: string, nodeId: bigint, id: string) {
      const pulls = link.callsTo('pullMessages');
      const store = new FolderMessageStore(folder);
      const { node, outcomes, stop, ended } = start(link, { store });
      expect(valuesOf((await link.reply(id)).content)).toEqual(ANSWER);
      await until(() => outcomes.length === 1, 'an outcome');
      expect(outcomes[0]).toMatchObject({ id, outcome: 'answered' });
      // The same node, without waiting for missed heartbeats.
      expect(node.nodeId).toBe(nodeId);
      expect(link.nodes.size).toBe(1);
      await link.called('pullMessages', pulls + 2);
      stop.abort();
      await ended;
      expect(link.nodes.size).toBe(0);
      expect(await readdir(folder)).toEqual([]);
    }
  });

  test('messages of a crashed node whose time has passed are dropped', async () => {
    const folder = await temporaryFolder();
    const link = await superlink();
    const death = new Death();
    start(link, {
      handler: { handle: () => death.strike() },
      store: death.store(new FolderMessageStore(folder)),
      fleet: death.fleet(fleetSource({ superlink: link.address, tls: false })),
    });
    ends.pop();
    const [nodeId] = (await link.nodesOnline(1)) as [bigint];
    link.send(nodeId, REQUEST, { ttl: 1 });
    await death.struck;
    await until(() => false, 'time', 1).catch(() => {});
    const { outcomes } = start(link, { store: new FolderMessageStore(folder) });
    await until(() => outcomes.length === 1, 'an outcome');
    expect(outcomes[0]).toMatchObject({
      outcome: 'dropped',
      reason: expect.stringContaining('time to live'),
    });
  });
});

test('a heartbeat that nobody knows brings the node back', async () => {
  const link = await FakeSuperLink.start({ transport: 'http' });
  ends.push(() => link.stop());
  const { node } = start(link, { heartbeatSeconds: 10, pollSeconds: 60 });
  await link.nodesOnline(1);
  await link.called('pullMessages');
  await link.restart(true);
  expect(link.nodes.size).toBe(0);
  const [nodeId] = (await link.nodesOnline(1)) as [bigint];
  await until(() => node.nodeId === nodeId, 'the new node');
  expect(link.callsTo('pullMessages')).toBe(1);
});

test('a full disk is an error reply, and the node goes on', async () => {
  const link = await FakeSuperLink.start({ transport: 'grpc' });
  ends.push(() => link.stop());
  let full = true;
  const store = new MemoryMessageStore();
  const put = store.put.bind(store);
  store.put = (message) =>
    full ? Promise.reject(Object.assign(new Error('no space is left'), { code: 'DISK_FULL' })) : put(message);
  start(link, { store });
  const [nodeId] = (await link.nodesOnline(1)) as [bigint];
  const { error } = await link.reply(link.send(nodeId, REQUEST));
  expect(error?.reason).toBe('DISK_FULL: no space is left');
  full = false;
  expect(valuesOf((await link.reply(link.send(nodeId, REQUEST))).content)).toEqual(ANSWER);
});

test('settings that cannot work', () => {
  const options = { connection: { superlink: 'localhost:9092' }, handler: doubling };
  for (const heartbeatSeconds of [9, 1801, Number.NaN])
    expect(() => new FlowerNode({ ...options, heartbeatSeconds })).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
});

describe('the journal in a folder', () => {
  const message = (): StoredMessage => ({
    id: 'a'.repeat(64),
    metadata: {
      runId: 1n,
      messageId: 'a'.repeat(64),
      srcNodeId: 1n,
      dstNodeId: 2n ** 64n - 1n,
      replyToMessageId: '',
      groupId: '',
      ttl: 10,
      messageType: 'train',
      createdAt: 1e9,
    },
    tree: { objectId: 'a'.repeat(64), children: [] },
  });

  test('gives back what was put, and nothing after it was removed', async () => {
    const folder = await temporaryFolder();
    const store = new FolderMessageStore(join(folder, 'new'));
    await store.put(message());
    const [found] = await new FolderMessageStore(store.folder).pending();
    expect(found).toMatchObject({ id: message().id, metadata: message().metadata });
    await store.remove(message().id);
    expect(await store.pending()).toEqual([]);
    expect(await readdir(store.folder)).toEqual([]);
  });

  test('who the node is can be read by its user alone; a damaged file says how to mend it', async () => {
    const store = new FolderMessageStore(await temporaryFolder());
    const node = { superlink: 'a:1', nodeId: 1n, fingerprint: 'f', privateKey: 'k', selfRegistered: true };
    await store.keepNode(node);
    const path = join(store.folder, 'node.json');
    if (process.platform !== 'win32') expect((await stat(path)).mode & 0o777).toBe(0o600);
    expect(await store.node()).toEqual(node);
    for (const damaged of ['{"superlink"', '{}']) {
      await writeFile(path, damaged);
      const words = /node\.json.*; delete the file, and the node joins anew$/;
      await expect(store.node()).rejects.toThrow(expect.objectContaining({ code: 'CORRUPT' }));
      await expect(store.node()).rejects.toThrow(words);
    }
  });

  test('objects that are not those of the tree are not there', async () => {
    const store = new FolderMessageStore(await temporaryFolder());
    await store.put(message());
    await store.put({ ...message(), objects: new Map([['a'.repeat(64), Buffer.from('another one')]]) });
    const [found] = await store.pending();
    expect(found?.objects).toBeUndefined();
  });
});
