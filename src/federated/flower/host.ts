/**
 * Many nodes of one SuperLink in one process, for load tests and simulations of large federations: they share a few connections and the
 * objects they pull (equal arrays are one object, whoever pulls them), a few of them work at a time, and they beat seldom.
 */

import { requireInteger } from '../../arguments.js';
import type { ObjectCache } from './exchange.js';
import { fleetSource } from './fleet-source.js';
import type { MessageStore } from './message-store.js';
import { FlowerNode, type Gate, type NodeHandler } from './node.js';
import { type NodeCounters, type NodeEvents, noCounts } from './node-events.js';
import type { Backoff } from './retry.js';
import type { FlowerConnection } from './transport.js';

/** Many nodes in one process. */
export interface FlowerHostOptions {
  /** Every node makes its own key. */
  connection: Omit<FlowerConnection, 'keys'>;
  /** How many. */
  nodes: number;
  /** What a node does. @param index of the node, from 0 */
  handler(index: number): NodeHandler;
  /** Default: in memory. */
  store?(index: number): MessageStore;
  /** Told of what a node does. */
  events?(index: number): NodeEvents;
  /** How many nodes pull, handle and encode at a time. Default 16. */
  atOnce?: number;
  /** TCP connections. Default: one for 100 nodes, 16 at most. */
  connections?: number;
  /** Of objects that are kept for other nodes. Default 256 MiB. */
  cacheBytes?: number;
  /** Default 300. */
  heartbeatSeconds?: number;
  /** Default: one for 100 nodes, 3 at least, which is some 100 questions a second. */
  pollSeconds?: number;
  /** Pauses between tries. */
  backoff?: Backoff;
}

/** Nodes of one SuperLink that share a process, a few connections and the objects they pull: load tests, simulations. */
export class FlowerHost {
  readonly nodes: readonly FlowerNode[];
  readonly #close: () => void;

  constructor(options: FlowerHostOptions) {
    const { connection, nodes, handler, store, events, backoff } = options;
    requireInteger(nodes, 'nodes', 1, 100_000);
    const { connections = Math.min(16, Math.ceil(nodes / 100)), cacheBytes = 256 * 2 ** 20 } = options;
    const fleet = fleetSource(connection, { connections });
    const gate = limitTo(options.atOnce ?? 16);
    const pollGate = limitTo(Math.ceil(connections / 2));
    const cache = new SharedObjects(cacheBytes);
    this.nodes = Array.from(
      { length: nodes },
      (_, index) =>
        new FlowerNode({
          connection,
          handler: handler(index),
          ...(store && { store: store(index) }),
          ...(events && { events: events(index) }),
          ...(backoff && { backoff }),
          heartbeatSeconds: options.heartbeatSeconds ?? 300,
          pollSeconds: options.pollSeconds ?? Math.max(3, nodes / 100),
          fleet,
          cache,
          gate,
          pollGate,
        }),
    );
    this.#close = () => fleet.close();
  }

  /** The sum of all nodes. */
  get counters(): NodeCounters {
    const sum = noCounts();
    const names = Object.keys(sum) as (keyof NodeCounters)[];
    for (const { counters } of this.nodes) for (const name of names) sum[name] += counters[name];
    return sum;
  }

  /**
   * Runs all nodes until the signal is aborted.
   * @throws the first error that ended a node; the others are stopped
   */
  async run(signal: AbortSignal): Promise<void> {
    const failed = new AbortController();
    const until = AbortSignal.any([signal, failed.signal]);
    const start = async (node: FlowerNode) => {
      try {
        await node.run(until);
      } catch (error) {
        failed.abort();
        throw error;
      }
    };
    const ended = await Promise.allSettled(this.nodes.map(start));
    this.#close();
    const failure = ended.find((one) => one.status === 'rejected');
    if (failure?.status === 'rejected') throw failure.reason;
  }
}

/** At most so many at a time, in the order in which they came. */
export function limitTo(most: number): Gate {
  let running = 0;
  const waiting: (() => void)[] = [];
  return async (work) => {
    if (running >= most) await new Promise<void>((resolve) => waiting.push(resolve));
    else running++;
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else running--;
    }
  };
}

/** Objects by id, the least recently used ones forgotten first. One that is being pulled is not pulled twice. */
export class SharedObjects implements ObjectCache {
  readonly #objects = new Map<string, Uint8Array>();
  readonly #pulling = new Map<string, Promise<Uint8Array>>();
  #bytes = 0;

  constructor(readonly maxBytes: number) {}

  async get(id: string, pull: () => Promise<Uint8Array>): Promise<Uint8Array> {
    const known = this.#objects.get(id);
    if (known) {
      this.#objects.delete(id);
      this.#objects.set(id, known);
      return known;
    }
    const pulling = this.#pulling.get(id) ?? pull().finally(() => this.#pulling.delete(id));
    this.#pulling.set(id, pulling);
    const bytes = await pulling;
    this.#keep(id, bytes);
    return bytes;
  }

  #keep(id: string, bytes: Uint8Array): void {
    if (this.#objects.has(id)) return;
    this.#objects.set(id, bytes);
    this.#bytes += bytes.length;
    for (const [oldest, { length }] of this.#objects) {
      if (this.#bytes <= this.maxBytes) return;
      this.#objects.delete(oldest);
      this.#bytes -= length;
    }
  }
}
