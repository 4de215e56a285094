/**
 * A node of a Flower federation, as a SuperNode is: it joins a SuperLink, says every while that it lives, asks for messages, has them
 * handled and pushes the answers. A message it took it answers, if need be with an error and if need be after a crash: a round waits
 * for every answer.
 *
 *   join -> [ pull -> store -> pull objects -> store -> confirm -> handle -> store -> push ]* -> leave
 */

import { invalid, requireInstance, requireNumber } from '../../arguments.js';
import { codeOf, DuetError, messageOf, throwIfAborted } from '../../errors.js';
import { checkTime, checkType, encodeReply, reasonOf, received } from './answers.js';
import { NodeIdentity } from './authentication.js';
import { SuperLinkCaller } from './caller.js';
import { type Caller, type ObjectCache, pullObjects, pushReply, Rejected } from './exchange.js';
import { FleetError, hasStatus, isBroken, isPassing } from './fleet-error.js';
import { type FleetSource, fleetSource } from './fleet-source.js';
import { joinFleet, leaveFleet, type Membership } from './membership.js';
import {
  MemoryMessageStore,
  type MessageStore,
  type StoredMessage,
  type StoredReply,
} from './message-store.js';
import { type MessageOutcome, type NodeEvents, type NodeState, noCounts } from './node-events.js';
import { decodeMessage } from './objects.js';
import type { PullMessagesResponse } from './proto/fleet_pb.js';
import type { FlowerMessage, RecordDict } from './records.js';
import { type Backoff, sleep } from './retry.js';
import type { FlowerConnection } from './transport.js';

/** What a node does with messages. */
export interface NodeHandler {
  /**
   * The content of the answer. A message whose answer was not ready when a node died is handled again: `request.metadata.messageId` is the
   * same then.
   * @param signal aborted when the node stops, or when the request is void
   * @throws what the answer will say instead
   */
  handle(request: FlowerMessage, signal: AbortSignal): Promise<RecordDict>;
}

/** Lets a limited number of nodes work at a time. */
export type Gate = <T>(work: () => Promise<T>) => Promise<T>;

/** Everything a node can be told. */
export interface FlowerNodeOptions {
  /** Its SuperLink. */
  connection: FlowerConnection;
  /** What it does with messages. */
  handler: NodeHandler;
  /** Default: one in memory. */
  store?: MessageStore;
  /** What the SuperLink is told; it takes 10 to 1800 and gives a node up after twice as long. Default 30. */
  heartbeatSeconds?: number;
  /** Between two questions for messages. Default 3, spread by a fifth. */
  pollSeconds?: number;
  /** How long a stopping node may take to push its answer and to leave. Default 30. */
  stopSeconds?: number;
  /** Pauses between tries. */
  backoff?: Backoff;
  /** Told of what it does. */
  events?: NodeEvents;
  /** Shared with other nodes; the caller closes it. */
  fleet?: FleetSource;
  /** Objects that other nodes of the process have pulled. */
  cache?: ObjectCache;
  /** Around the work on a message until its answer is stored. */
  gate?: Gate;
  /** Around a question for messages: what nodes push must not wait behind thousands of these. */
  pollGate?: Gate;
}

/** Error codes of Flower's messages. */
const [APP_RAISED, MESSAGE_UNAVAILABLE] = [2, 3];
/** How often in a row a node joins again before it believes that it is refused. */
const REJOINS = 3;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A node of a Flower federation: joins a SuperLink, pulls messages, has them handled, pushes the answers. */
export class FlowerNode {
  /** Since it was made. */
  readonly counters = noCounts();
  readonly #options: FlowerNodeOptions;
  readonly #events: NodeEvents;
  readonly #store: MessageStore;
  readonly #heartbeatSeconds: number;
  readonly #fleet: FleetSource;
  #session: Session | undefined;
  #state: NodeState = 'stopped';

  /** @throws DuetError INVALID_ARGUMENT for options that cannot work */
  constructor(options: FlowerNodeOptions) {
    const { heartbeatSeconds = 30 } = options;
    requireNumber(heartbeatSeconds, 'heartbeatSeconds');
    if (heartbeatSeconds < 10 || heartbeatSeconds > 1800)
      throw invalid('number between 10 and 1800', 'heartbeatSeconds', heartbeatSeconds);
    this.#options = options;
    this.#events = options.events ?? {};
    this.#store = options.store ?? new MemoryMessageStore();
    this.#heartbeatSeconds = heartbeatSeconds;
    this.#fleet = options.fleet ?? fleetSource(options.connection);
  }

  /** What it is doing. */
  get state(): NodeState {
    return this.#state;
  }

  /** Its id at the SuperLink, once it has joined. */
  get nodeId(): bigint | undefined {
    return this.#session?.membership.nodeId;
  }

  /**
   * Takes part until the signal is aborted; then answers what it has begun, leaves and returns. A SuperLink that cannot be reached is tried
   * again for ever.
   * @throws DuetError UNAUTHENTICATED for a SuperLink that refuses this node, UNSUPPORTED for one of another version or without TLS, DISK_FULL,
   *   IO and CORRUPT where its messages cannot be read
   */
  async run(signal: AbortSignal): Promise<void> {
    requireInstance(signal, AbortSignal, 'signal');
    if (this.#state !== 'stopped')
      throw new DuetError('INVALID_ARGUMENT', 'Expected one run of a node at a time');
    this.#setState('joining');
    const failed = new AbortController();
    const ended = new AbortController();
    const stop = AbortSignal.any([signal, failed.signal]);
    const endLater = () => setTimeout(() => ended.abort(), (this.#options.stopSeconds ?? 30) * 1000);
    let timer: NodeJS.Timeout | undefined;
    stop.addEventListener('abort', () => (timer = endLater()), { once: true });
    let heart: Promise<void> | undefined;
    try {
      throwIfAborted(stop, 'The node');
      const session = await this.#open(stop, ended.signal);
      this.#session = session;
      await this.#join(session);
      heart = this.#beat(session).catch((error) => failed.abort(error));
      for (const message of await this.#store.pending()) await this.#process(session, message);
      await this.#poll(session);
    } catch (error) {
      if (failed.signal.aborted) throw failed.signal.reason;
      if (!signal.aborted || codeOf(error) !== 'CANCELLED') throw error;
    } finally {
      failed.abort();
      await heart;
      await this.#leave().catch(() => {});
      clearTimeout(timer);
      ended.abort();
      if (!this.#options.fleet) this.#fleet.close();
      this.#setState('stopped');
    }
  }

  /** Who this node is: with a store that knows it, who it was. */
  async #open(stop: AbortSignal, end: AbortSignal): Promise<Session> {
    const { connection, backoff } = this.#options;
    const { keys, superlink } = connection;
    const stored = await this.#store.node?.();
    const here = stored?.superlink === superlink ? stored : undefined;
    const own = here?.privateKey === undefined ? undefined : { privateKey: here.privateKey };
    const identity = new NodeIdentity(keys ?? own);
    const known = here?.fingerprint === identity.fingerprint ? here : undefined;
    const { counters } = this;
    const membership: Membership = {
      identity,
      ownKey: keys === undefined,
      nodeId: known?.nodeId,
      selfRegistered: known?.selfRegistered ?? false,
    };
    const caller = new SuperLinkCaller({
      fleet: this.#fleet,
      identity,
      end,
      counters,
      events: this.#events,
      backoff,
    });
    return { membership, caller, stop, end };
  }

  /** Joins, or joins again; who calls while that is going on waits for it. */
  #join(session: Session): Promise<void> {
    const { membership, caller, stop } = session;
    const join = async () => {
      await joinFleet(membership, {
        ...callerFor(session, stop),
        onRetry: (retry) => caller.tellRetry(retry),
        heartbeatSeconds: this.#heartbeatSeconds,
      });
      caller.joined = true;
      this.counters.joins++;
      const { identity, ownKey, selfRegistered } = membership;
      await this.#store.keepNode?.({
        superlink: this.#options.connection.superlink,
        nodeId: membership.nodeId as bigint,
        fingerprint: identity.fingerprint,
        ...(ownKey && { privateKey: identity.privateKey }),
        selfRegistered,
      });
    };
    session.joining ??= join().finally(() => {
      session.joining = undefined;
    });
    return session.joining;
  }

  /** Unless answers are left that only this node can give, the SuperLink forgets a node that registered itself. */
  async #leave(): Promise<void> {
    if (this.#session?.membership.nodeId === undefined) return;
    this.#setState('leaving');
    const { membership, caller, end } = this.#session;
    const left = (await this.#store.pending()).length;
    const gone = await leaveFleet(membership, left === 0, (method, request) =>
      caller.ask(method, request, { until: end, tries: 2, timeoutMs: 5000 }),
    );
    if (gone) await this.#store.keepNode?.(undefined);
  }

  async #beat(session: Session): Promise<void> {
    const { membership, caller, stop } = session;
    const heartbeatInterval = this.#heartbeatSeconds;
    for (let interval = heartbeatInterval; ; ) {
      try {
        await sleep(interval * (0.6 + Math.random() * 0.1), stop);
        const request = { node: { nodeId: idOf(membership) }, heartbeatInterval };
        const once = { until: stop, tries: 1, timeoutMs: 10_000 };
        const { success } = await caller.ask('sendNodeHeartbeat', request, once);
        interval = heartbeatInterval;
        if (!success) await this.#join(session);
      } catch (error) {
        if (stop.aborted) return;
        if (hasStatus(error, 'UNAUTHENTICATED')) await this.#join(session);
        else if (isPassing(error) || isBroken(error)) interval = Math.min(interval, 5);
        else throw error;
      }
    }
  }

  async #poll(session: Session): Promise<void> {
    const { pollSeconds = 3, pollGate = (work) => work() } = this.#options;
    const { membership, caller, stop } = session;
    const ask = () => caller.ask('pullMessages', { node: { nodeId: idOf(membership) } }, { until: stop });
    for (let refusals = 0; ; ) {
      this.#setState('waiting');
      throwIfAborted(stop, 'The node');
      await session.joining;
      let answer: PullMessagesResponse;
      try {
        answer = await pollGate(ask);
        refusals = 0;
      } catch (error) {
        if (isBroken(error)) continue;
        if (!hasStatus(error, 'UNAUTHENTICATED') || ++refusals > REJOINS) throw error;
        await this.#join(session);
        continue;
      }
      const messages = received(answer);
      for (const message of messages) await this.#process(session, message);
      if (messages.length === 0) await sleep(pollSeconds * (0.8 + Math.random() * 0.4), stop);
    }
  }

  /** Whatever happens on the way, the message is answered or nobody waits for it. */
  async #process(session: Session, message: StoredMessage): Promise<void> {
    const { gate = (work) => work(), backoff } = this.#options;
    const { id, metadata } = message;
    const started = performance.now();
    const seconds = () => (performance.now() - started) / 1000;
    const end = (outcome: MessageOutcome['outcome'], reason?: string) => {
      this.counters[outcome === 'error' ? 'errors' : outcome]++;
      const told = { id, type: metadata.messageType, outcome, seconds: seconds() };
      this.#events.onMessage?.(reason === undefined ? told : { ...told, reason });
    };
    this.counters.messages++;
    let reply = message.reply;
    for (let refusals = 0; ; ) {
      try {
        checkTime(message, idOf(session.membership));
        const resumed = reply !== undefined;
        reply ??= await gate(() => this.#answer(session, message));
        this.#setState('pushing');
        checkTime(message, idOf(session.membership));
        await pushReply(callerFor(session, session.end), reply, {
          seconds: seconds(),
          resumed,
          ...(backoff && { backoff }),
        });
        const { error } = reply.message;
        await this.#store.remove(id);
        return error ? end('error', error.reason) : end('answered');
      } catch (error) {
        if (hasStatus(error, 'UNAUTHENTICATED') && refusals++ < REJOINS) {
          await this.#join(session);
          continue;
        }
        if (!(error instanceof Rejected) && !(error instanceof FleetError)) throw error;
        await this.#store.remove(id);
        const over = hasStatus(error, 'PERMISSION_DENIED') ? 'its run is over: ' : '';
        return end('dropped', over + messageOf(error));
      }
    }
  }

  /** The answer, stored. */
  async #answer(session: Session, message: StoredMessage): Promise<StoredReply> {
    const { metadata, tree, id } = message;
    const leftMs = (metadata.createdAt + metadata.ttl) * 1000 - Date.now();
    const inTime = AbortSignal.any([
      session.stop,
      AbortSignal.timeout(Math.max(0, Math.min(Math.ceil(leftMs), LONGEST_TIMER_MS))),
    ]);
    let answer: Pick<FlowerMessage, 'content' | 'error'>;
    let code = MESSAGE_UNAVAILABLE;
    try {
      const request = await this.#request(session, message, inTime);
      code = APP_RAISED;
      checkType(request);
      this.#setState('working');
      answer = { content: await this.#options.handler.handle(request, inTime) };
    } catch (error) {
      if (hasStatus(error, 'PERMISSION_DENIED', 'UNAUTHENTICATED')) throw error;
      const reason = session.stop.aborted ? 'CANCELLED: the node was stopped' : reasonOf(error);
      answer = { error: { code, reason } };
    }
    try {
      const reply = encodeReply(message, answer);
      await this.#store.put({ ...message, reply });
      return reply;
    } catch (error) {
      const reply = encodeReply(message, { error: { code: APP_RAISED, reason: reasonOf(error) } });
      await this.#store.put({ id, metadata, tree, reply }).catch(() => {});
      return reply;
    }
  }

  /** The request with all of its content, which is stored before the SuperLink may forget it. */
  async #request(session: Session, message: StoredMessage, inTime: AbortSignal): Promise<FlowerMessage> {
    throwIfAborted(inTime, 'The node');
    const { id, metadata } = message;
    const caller = callerFor(session, inTime);
    let { objects } = message;
    if (!objects) {
      this.#setState('pulling');
      await this.#store.put(message);
      objects = await pullObjects(caller, message, this.#options.cache);
      await this.#store.put({ ...message, objects });
    }
    const node = { nodeId: caller.nodeId };
    const { runId } = metadata;
    await caller.call('confirmMessageReceived', { node, runId, messageObjectId: id }).catch((error) => {
      // It only lets the SuperLink free its memory.
      if (!isBroken(error)) throw error;
    });
    return { ...decodeMessage(id, objects, { verify: false }), metadata };
  }

  #setState(state: NodeState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#events.onState?.(state);
  }
}

/** One run of a node. */
interface Session {
  membership: Membership;
  caller: SuperLinkCaller;
  /** Nothing new is begun. */
  stop: AbortSignal;
  /** Everything ends: some time after `stop`. */
  end: AbortSignal;
  joining?: Promise<void> | undefined;
}

const idOf = (membership: Membership): bigint => membership.nodeId ?? 0n;

/** @param until ends waiting between tries */
function callerFor({ membership, caller }: Session, until: AbortSignal): Caller {
  return {
    nodeId: idOf(membership),
    get retries() {
      return caller.retries;
    },
    call: (method, request) => caller.ask(method, request, { until }),
    wait: (seconds) => sleep(seconds, until),
  };
}
