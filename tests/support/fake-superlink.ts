/**
 * A SuperLink for fast tests, over gRPC as older versions of Flower have it or HTTP as newer ones: who may ask, when a node is
 * online, what is delivered once, which objects are missing. It can be told to fail in every way a real one does.
 */

import { createPublicKey, verify } from 'node:crypto';
import * as http from 'node:http';
import * as https from 'node:https';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { create, fromBinary, type MessageShape, toBinary } from '@bufbuild/protobuf';
import * as grpc from '@grpc/grpc-js';
import type { FleetStatus } from '../../src/federated/flower/fleet-error.js';
import {
  decodeMessage,
  encodeMessage,
  type ObjectTree,
  objectIds,
} from '../../src/federated/flower/objects.js';
import { Fleet } from '../../src/federated/flower/proto/fleet_pb.js';
import type { FlowerMessage, MessageMetadata, RecordDict } from '../../src/federated/flower/records.js';
import type { FleetMethod } from '../../src/federated/flower/transport.js';
import { metadataOf, wireMessage } from '../../src/federated/flower/wire.js';
import type { Certificate } from './certificates.js';

export interface FakeOptions {
  transport: 'grpc' | 'http';
  certificate?: Certificate;
  /** Only nodes whose key was registered by `register`. */
  authentication?: boolean;
  port?: number;
}

/** Of one call; the answer has been made when `after` is told of it, and is lost when it fails. */
export interface Failure {
  method: FleetMethod;
  status: FleetStatus;
  details?: string;
  times?: number;
  after?: boolean;
}

interface FakeNode {
  key: string;
  onlineUntil: number;
  registered: 'itself' | 'by operator';
}

interface Session {
  runId: bigint;
  missing: Set<string>;
}

interface Request {
  metadata: MessageMetadata;
  tree: ObjectTree;
  delivered: boolean;
  reply?: { message: Omit<FlowerMessage, 'content'>; tree: ObjectTree };
}

class Refusal extends Error {
  constructor(
    readonly status: FleetStatus,
    readonly details: string,
    readonly flowerCode?: number,
  ) {
    super(details);
  }
}

type Handlers = {
  [M in FleetMethod]: (
    request: MessageShape<(typeof Fleet)['method'][M]['input']>,
    key: string,
  ) => Record<string, unknown>;
};

const RUN = 7n;
const SUPERLINK = 1n;

export class FakeSuperLink {
  readonly options: FakeOptions;
  /** Every call that was understood, and by which node where it says. */
  readonly calls: { method: FleetMethod; nodeId?: bigint }[] = [];
  /** Seconds this server's clock is ahead. */
  clockSeconds = 0;
  /** Before every answer. */
  delayMs = 0;
  /** Its runs are over. */
  runOver = false;
  /** Answers every call with these bytes. */
  garbage: Uint8Array | undefined;
  nodes = new Map<bigint, FakeNode>();
  #requests = new Map<string, Request>();
  /** Objects, or undefined for one that is announced. */
  #objects = new Map<string, Uint8Array | undefined>();
  #sessions = new Map<string, Session>();
  #failures: Required<Failure>[] = [];
  #damaged = new Map<string, number>();
  #nextId = 1n;
  #close: () => Promise<void> = async () => {};
  #port = 0;

  private constructor(options: FakeOptions) {
    this.options = options;
    this.#port = options.port ?? 0;
  }

  static async start(options: FakeOptions): Promise<FakeSuperLink> {
    const link = new FakeSuperLink(options);
    await link.begin();
    return link;
  }

  get address(): string {
    return `localhost:${this.#port}`;
  }

  async begin(): Promise<void> {
    const begin = this.options.transport === 'grpc' ? startGrpc : startHttp;
    const { port, close } = await begin(this.options.certificate, this.#port, {
      answer: (method, body, headers) => this.#answer(method, body, headers),
      now: () => this.#now(),
    });
    this.#port = port;
    this.#close = close;
  }

  /** Breaks all connections. */
  async stop(): Promise<void> {
    await this.#close();
    this.#close = async () => {};
  }

  /** Another process at the same address. @param forget it knows nothing of the first one */
  async restart(forget: boolean): Promise<void> {
    await this.stop();
    if (forget) {
      this.nodes = new Map();
      this.#requests = new Map();
      this.#objects = new Map();
      this.#sessions = new Map();
    }
    await this.begin();
  }

  /** As an operator does: PEM. */
  register(publicKey: string): bigint {
    return this.#addNode(publicKey, 'by operator');
  }

  fail(failure: Failure): void {
    this.#failures.push({ details: 'told to fail', times: 1, after: false, ...failure });
  }

  /** The SuperLink has an object no more. */
  lose(objectId: string): void {
    this.#objects.delete(objectId);
  }

  /** The object comes damaged, so often. */
  damage(objectId: string, times = Number.POSITIVE_INFINITY): void {
    this.#damaged.set(objectId, times);
  }

  /** An object that is announced and not there yet; @returns what brings it */
  withhold(objectId: string): () => void {
    const bytes = this.#objects.get(objectId);
    this.#objects.set(objectId, undefined);
    return () => this.#objects.set(objectId, bytes);
  }

  /** A node's silence has lasted long enough. */
  forgetHeartbeat(nodeId: bigint): void {
    (this.nodes.get(nodeId) as FakeNode).onlineUntil = 0;
  }

  /** Ids of nodes that are online, in the order in which they came. */
  get online(): bigint[] {
    return [...this.nodes].filter(([, node]) => node.onlineUntil > this.#now()).map(([id]) => id);
  }

  async nodesOnline(count: number): Promise<bigint[]> {
    await until(() => this.online.length >= count, `${count} nodes online`);
    return this.online;
  }

  /** Puts a request before a node. */
  send(nodeId: bigint, content: RecordDict, more: Partial<MessageMetadata> = {}): string {
    const metadata: MessageMetadata = {
      runId: RUN,
      messageId: '',
      srcNodeId: SUPERLINK,
      dstNodeId: nodeId,
      replyToMessageId: '',
      groupId: 'round 1',
      ttl: 3600,
      messageType: 'train',
      // The same content is another message a microsecond later.
      createdAt: this.#now() + this.#requests.size / 1e6,
      ...more,
    };
    const { id, tree, objects } = encodeMessage({ metadata, content });
    for (const [objectId, bytes] of objects) this.#objects.set(objectId, bytes);
    this.#requests.set(id, { metadata: { ...metadata, messageId: id }, tree, delivered: false });
    return id;
  }

  /** Ids of all objects of a request, the message's own last. */
  objectsOf(messageId: string): string[] {
    return objectIds((this.#requests.get(messageId) as Request).tree);
  }

  isDelivered(messageId: string): boolean {
    return this.#requests.get(messageId)?.delivered === true;
  }

  /** The answer to a request, when all of it is here. */
  async reply(messageId: string, seconds = 20): Promise<FlowerMessage> {
    const request = this.#requests.get(messageId) as Request;
    await until(() => this.#isComplete(request), `an answer to ${messageId}`, seconds);
    const { message, tree } = request.reply as NonNullable<Request['reply']>;
    const decoded = decodeMessage(tree.objectId, this.#objects as ReadonlyMap<string, Uint8Array>);
    return { ...decoded, metadata: message.metadata };
  }

  #isComplete({ reply }: Request): boolean {
    return reply !== undefined && objectIds(reply.tree).every((id) => this.#objects.get(id) !== undefined);
  }

  callsTo(method: FleetMethod): number {
    return this.calls.filter((call) => call.method === method).length;
  }

  async called(method: FleetMethod, times = 1): Promise<void> {
    await until(() => this.callsTo(method) >= times, `${times} calls to ${method}`);
  }

  #now(): number {
    return Date.now() / 1000 + this.clockSeconds;
  }

  #addNode(key: string, registered: FakeNode['registered']): bigint {
    const id = (0xfedcba9876543210n + this.#nextId++) & 0xffffffffffffffffn;
    this.nodes.set(id, { key, onlineUntil: 0, registered });
    return id;
  }

  #idOf(key: string): bigint | undefined {
    return [...this.nodes].find(([, node]) => node.key === key)?.[0];
  }

  async #answer(method: FleetMethod, body: Uint8Array, headers: SignedHeaders): Promise<Uint8Array> {
    const { input, output } = Fleet.method[method];
    const request = fromBinary(input, body) as never;
    const key = this.#authenticate(method, request, headers);
    const { node, nodeId } = request as { node?: { nodeId: bigint }; nodeId?: bigint };
    const id = node?.nodeId ?? nodeId;
    this.calls.push(id === undefined ? { method } : { method, nodeId: id });
    if (this.delayMs > 0) await sleep(this.delayMs);
    this.#failIfTold(method, false);
    const answer = (this.#handlers[method] as (request: never, key: string) => object)(request, key);
    this.#failIfTold(method, true);
    return this.garbage ?? toBinary(output, create(output, answer as never));
  }

  #failIfTold(method: FleetMethod, after: boolean): void {
    const failure = this.#failures.find(
      (one) => one.method === method && one.after === after && one.times > 0,
    );
    if (!failure) return;
    failure.times--;
    throw new Refusal(failure.status, failure.details);
  }

  #authenticate(method: FleetMethod, request: object, headers: SignedHeaders): string {
    const http = this.options.transport === 'http';
    const refuse = (why: string) =>
      new Refusal('UNAUTHENTICATED', http ? 'Invalid SuperNode authentication' : why);
    const { key, timestamp, signature } = headers;
    if (!key || !timestamp || !signature) throw refuse('Missing authentication metadata');
    if (!verify('sha256', Buffer.from(timestamp), createPublicKey(key), signature))
      throw refuse('Invalid signature');
    if (!/[+-]\d\d:\d\d$/.test(timestamp)) throw refuse('Invalid timestamp');
    const age = this.#now() - Date.parse(timestamp) / 1000;
    if (age <= -5 || age >= 305) throw refuse('Invalid timestamp');
    const text = key.toString();
    if (method === 'registerNode' || method === 'activateNode') return text;
    const { node, nodeId } = request as { node?: { nodeId: bigint }; nodeId?: bigint };
    if (this.#idOf(text) !== (node?.nodeId ?? nodeId)) throw refuse('Invalid node ID');
    return text;
  }

  #checkRun(): void {
    if (this.runOver)
      throw new Refusal(
        'PERMISSION_DENIED',
        'The current run status does not allow this Fleet API operation.',
        2007,
      );
  }

  readonly #handlers: Handlers = {
    registerNode: ({ publicKey }) => {
      if (this.options.authentication) {
        throw new Refusal(
          'FAILED_PRECONDITION',
          'SuperNode authentication is enabled. All SuperNodes must be registered via the CLI.',
          2001,
        );
      }
      const key = Buffer.from(publicKey).toString();
      if (this.#idOf(key) !== undefined)
        throw new Refusal('FAILED_PRECONDITION', 'Public key already in use.', 23);
      return { nodeId: this.#addNode(key, 'itself') };
    },
    activateNode: ({ publicKey, heartbeatInterval }) => {
      const id = this.#idOf(Buffer.from(publicKey).toString());
      const node = id === undefined ? undefined : this.nodes.get(id);
      if (heartbeatInterval < 10 || heartbeatInterval > 1800)
        throw new Refusal('INVALID_ARGUMENT', 'Invalid heartbeat interval.', 2003);
      if (!node || node.onlineUntil > this.#now())
        throw new Refusal('FAILED_PRECONDITION', 'Failed to activate SuperNode.', 2004);
      node.onlineUntil = this.#now() + 2 * heartbeatInterval;
      return { nodeId: id };
    },
    deactivateNode: ({ nodeId }) => {
      this.forgetHeartbeat(nodeId);
      return {};
    },
    unregisterNode: ({ nodeId }) => {
      if (this.options.authentication)
        throw new Refusal('FAILED_PRECONDITION', 'All SuperNodes must be unregistered via the CLI.', 2002);
      this.nodes.delete(nodeId);
      return {};
    },
    sendNodeHeartbeat: ({ node, heartbeatInterval }) => {
      const known = this.nodes.get(node?.nodeId as bigint) as FakeNode;
      known.onlineUntil = this.#now() + 2 * heartbeatInterval;
      return { success: true };
    },
    pullMessages: ({ node }) => {
      const next = [...this.#requests.values()].find(
        ({ metadata, delivered }) => !delivered && metadata.dstNodeId === node?.nodeId,
      );
      if (!next) return {};
      next.delivered = true;
      return {
        messagesList: [wireMessage({ metadata: next.metadata, content: new Map() })],
        messageObjectTrees: [next.tree],
      };
    },
    pullObject: ({ objectId }) => {
      this.#checkRun();
      if (!this.#objects.has(objectId)) return {};
      const bytes = this.#objects.get(objectId);
      if (bytes === undefined) return { objectFound: true };
      const times = this.#damaged.get(objectId) ?? 0;
      this.#damaged.set(objectId, times - 1);
      const objectContent = times > 0 ? Buffer.concat([bytes.subarray(1), Buffer.from([0])]) : bytes;
      return { objectFound: true, objectAvailable: true, objectContent };
    },
    confirmMessageReceived: ({ messageObjectId }) => {
      this.#checkRun();
      this.#objects.delete(messageObjectId);
      return {};
    },
    pushMessages: ({ node, messagesList: [message], messageObjectTrees: [tree] }) => {
      this.#checkRun();
      if (!message?.metadata || !tree || (message.content === undefined) === (message.error === undefined))
        throw new Refusal('UNKNOWN', 'Exception calling application');
      const metadata = metadataOf(message.metadata, 'an answer');
      const request = this.#requests.get(metadata.replyToMessageId);
      const known = request?.reply?.message.metadata.messageId;
      const isMine = request?.metadata.dstNodeId === node?.nodeId && metadata.srcNodeId === node?.nodeId;
      const { createdAt = 0, ttl = 0 } = request?.metadata ?? {};
      const inTime =
        metadata.createdAt + metadata.ttl > this.#now() &&
        metadata.createdAt + metadata.ttl <= createdAt + ttl + 0.1;
      const accepted =
        isMine &&
        inTime &&
        metadata.dstNodeId === SUPERLINK &&
        metadata.runId === RUN &&
        metadata.messageType === request?.metadata.messageType &&
        (known === undefined || known === metadata.messageId);
      const older = this.options.transport === 'grpc';
      if (!older && (!accepted || known !== undefined))
        return { results: [{ key: metadata.messageId, value: 0 }], sessionId: 'none' };
      const ids = objectIds(tree);
      for (const id of ids) if (!this.#objects.has(id)) this.#objects.set(id, undefined);
      const objectsToPush = ids.filter((id) => this.#objects.get(id) === undefined);
      if (!accepted || (older && known !== undefined))
        return { results: [{ key: 'None', value: 0 }], objectsToPush };
      const { error } = message;
      (request as Request).reply = {
        message: { metadata, ...(error && { error: { code: Number(error.code), reason: error.reason } }) },
        tree,
      };
      const results = [{ key: metadata.messageId, value: 0 }];
      if (older) return { results, objectsToPush: [...objectsToPush, ...objectsToPush] };
      const sessionId = `session ${this.#sessions.size}`;
      this.#sessions.set(sessionId, { runId: RUN, missing: new Set(objectsToPush) });
      return { results, objectsToPush, sessionId };
    },
    pushObject: ({ objectId, objectContent, sessionId, runId }) => {
      this.#checkRun();
      if (this.options.transport === 'grpc') {
        if (!this.#objects.has(objectId)) return { stored: false };
        this.#objects.set(objectId, objectContent);
        return { stored: true };
      }
      const session = sessionId
        ? this.#sessions.get(sessionId)
        : [...this.#sessions.values()].find((one) => one.missing.has(objectId));
      if (session?.runId !== runId || !session.missing.delete(objectId)) return { stored: false };
      this.#objects.set(objectId, objectContent);
      return { stored: true };
    },
    getRun: () => ({}),
    getFab: () => ({}),
  };
}

interface SignedHeaders {
  key?: Buffer | undefined;
  timestamp?: string | undefined;
  signature?: Buffer | undefined;
}

interface Service {
  answer(method: FleetMethod, body: Uint8Array, headers: SignedHeaders): Promise<Uint8Array>;
  /** Seconds since 1970. */
  now(): number;
}

interface Served {
  port: number;
  close(): Promise<void>;
}

async function startGrpc(
  certificate: Certificate | undefined,
  port: number,
  { answer }: Service,
): Promise<Served> {
  const server = new grpc.Server({ 'grpc.max_receive_message_length': -1 });
  const same = (bytes: Buffer) => bytes;
  const binary = (metadata: grpc.Metadata, name: string) => metadata.get(name)[0] as Buffer | undefined;
  for (const [name, method] of Object.entries(Fleet.method)) {
    const definition = {
      path: `/flwr.proto.Fleet/${method.name}`,
      requestStream: false,
      responseStream: false,
      requestSerialize: same,
      requestDeserialize: same,
      responseSerialize: same,
      responseDeserialize: same,
    };
    const handle: grpc.handleUnaryCall<Buffer, Buffer> = ({ request, metadata }, callback) => {
      const headers = {
        key: binary(metadata, 'flwr-public-key-bin'),
        timestamp: metadata.get('flwr-timestamp')[0] as string | undefined,
        signature: binary(metadata, 'flwr-signature-bin'),
      };
      answer(name as FleetMethod, request, headers).then(
        (bytes) => callback(null, Buffer.from(bytes)),
        (error) => {
          const { status = 'UNKNOWN', details = String(error) } = error as Partial<Refusal>;
          callback({ code: grpc.status[status], details });
        },
      );
    };
    server.addService({ [name]: definition }, { [name]: handle });
  }
  const credentials = certificate
    ? grpc.ServerCredentials.createSsl(null, [
        { cert_chain: Buffer.from(certificate.cert), private_key: Buffer.from(certificate.key) },
      ])
    : grpc.ServerCredentials.createInsecure();
  const bound = await new Promise<number>((resolve, reject) =>
    server.bindAsync(`localhost:${port}`, credentials, (error, found) =>
      error ? reject(error) : resolve(found),
    ),
  );
  return { port: bound, close: async () => server.forceShutdown() };
}

const HTTP_STATUS: Partial<Record<FleetStatus, number>> = {
  UNAVAILABLE: 503,
  DEADLINE_EXCEEDED: 504,
  RESOURCE_EXHAUSTED: 429,
  UNAUTHENTICATED: 401,
  PERMISSION_DENIED: 403,
  FAILED_PRECONDITION: 412,
  INVALID_ARGUMENT: 400,
  UNIMPLEMENTED: 404,
};

async function startHttp(
  certificate: Certificate | undefined,
  port: number,
  { answer, now }: Service,
): Promise<Served> {
  const listener: http.RequestListener = async (incoming, outgoing) => {
    const parts: Buffer[] = [];
    for await (const part of incoming) parts.push(part as Buffer);
    const [, name] = /^\/v1\/fleet\/([a-z-]+)$/.exec(incoming.url ?? '') ?? [];
    const method = name?.replace(/-./g, (dash) => (dash[1] as string).toUpperCase()) as FleetMethod;
    const send = (status: number, body: Uint8Array | object) => {
      const binary = body instanceof Uint8Array;
      const date = new Date(now() * 1000).toUTCString();
      outgoing.writeHead(status, {
        date,
        'content-type': binary ? 'application/protobuf' : 'application/json',
      });
      outgoing.end(binary ? body : JSON.stringify(body));
    };
    if (incoming.method !== 'POST' || !(method in Fleet.method)) return send(404, { detail: 'Not Found' });
    if (incoming.headers['content-type'] !== 'application/protobuf')
      return send(415, { code: 1002, detail: 'Unsupported Content-Type.' });
    const header = (of: string) => incoming.headers[of] as string | undefined;
    const base64 = (of: string) => {
      const text = header(of);
      return text === undefined ? undefined : Buffer.from(text, 'base64');
    };
    const headers = {
      key: base64('flwr-public-key'),
      timestamp: header('flwr-timestamp'),
      signature: base64('flwr-signature'),
    };
    try {
      send(200, await answer(method, Buffer.concat(parts), headers));
    } catch (error) {
      const { status, details, flowerCode } = error as Partial<Refusal>;
      send((status && HTTP_STATUS[status]) ?? 500, { code: flowerCode, detail: details ?? String(error) });
    }
  };
  const { cert, key } = certificate ?? {};
  const server = certificate
    ? https.createServer({ cert, key } as https.ServerOptions, listener)
    : http.createServer(listener);
  await new Promise<void>((resolve, reject) =>
    server.on('error', reject).listen(port, 'localhost', () => resolve()),
  );
  return {
    port: (server.address() as AddressInfo).port,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** @throws when it does not come true in time */
export async function until(test: () => boolean, what: string, seconds = 20): Promise<void> {
  const end = Date.now() + seconds * 1000;
  while (!test()) {
    if (Date.now() > end) throw new Error(`Expected ${what} within ${seconds} seconds`);
    await sleep(10);
  }
}
