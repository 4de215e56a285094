/** A node that dies without warning, at a moment a test chooses. */

import type { FleetSource } from '../../src/federated/flower/fleet-source.js';
import type { MessageStore } from '../../src/federated/flower/message-store.js';
import type { NodeHandler } from '../../src/federated/flower/node.js';
import type { FleetMethod, FleetTransport } from '../../src/federated/flower/transport.js';

/** The moment at which a process is killed: from then on nothing it does has an effect. */
export class Death {
  readonly struck: Promise<void>;
  #tell: () => void = () => {};
  #dead = false;

  constructor() {
    this.struck = new Promise((resolve) => {
      this.#tell = resolve;
    });
  }

  /** Never comes back. */
  strike(): Promise<never> {
    this.#dead = true;
    this.#tell();
    return new Promise(() => {});
  }

  alive<T>(work: () => Promise<T>): Promise<T> {
    return this.#dead ? new Promise(() => {}) : work();
  }

  /** @param stage after which it dies */
  store(inner: MessageStore, stage?: string): MessageStore {
    return {
      put: (message) =>
        this.alive(async () => {
          await inner.put(message);
          const now = message.reply ? 'with its answer' : message.objects ? 'with its objects' : 'pulled';
          if (now === stage) await this.strike();
        }),
      pending: () => this.alive(() => inner.pending()),
      remove: (id) => this.alive(() => inner.remove(id)),
      node: () => this.alive(async () => inner.node?.()),
      keepNode: (node) => this.alive(async () => inner.keepNode?.(node)),
    };
  }

  handler(inner: NodeHandler): NodeHandler {
    return { handle: (request, signal) => this.alive(() => inner.handle(request, signal)) };
  }

  fleet(inner: FleetSource): FleetSource {
    return dying(inner, this, undefined, 'before', 0);
  }
}

/** A transport that ends with the process: at this call of a method, before it is sent or after it was answered. */
export function dying(
  inner: FleetSource,
  death: Death,
  method: FleetMethod | undefined,
  when: 'before' | 'after',
  call: number,
): FleetSource {
  let calls = 0;
  const wrap = (transport: FleetTransport): FleetTransport =>
    new Proxy(transport, {
      get(target, name) {
        const send = target[name as FleetMethod] as unknown;
        if (typeof send !== 'function') return send;
        return (...given: unknown[]) =>
          death.alive(async () => {
            const now = name === method && ++calls === call;
            if (now && when === 'before') await death.strike();
            const answer = await send.apply(target, given);
            if (now) await death.strike();
            return answer;
          });
      },
    });
  return {
    open: async (signal) => wrap(await inner.open(signal)),
    renew: () => {},
    close: () => {},
  };
}
