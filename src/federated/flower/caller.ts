/** How a node asks its SuperLink: signed, counted, and again when something in between fails. */

import { codeOf, messageOf, throwIfAborted } from '../../errors.js';
import type { NodeIdentity } from './authentication.js';
import { hasStatus, isBroken, isPassing } from './fleet-error.js';
import type { FleetSource } from './fleet-source.js';
import type { NodeCounters, NodeEvents, Retry } from './node-events.js';
import { type Backoff, backoffSeconds, sleep } from './retry.js';
import type { FleetMethod, FleetRequest, FleetResponse, FleetTransport } from './transport.js';

export interface AskOptions {
  /** Ends the waiting between tries, and further tries. */
  until: AbortSignal;
  /** Of errors that may pass. Default: as long as there is time. */
  tries?: number;
  timeoutMs?: number;
}

/** How often a server that answers with an error of its own is asked: for about a minute. */
const BROKEN_TRIES = 8;
/** Failures after which what the SuperLink speaks is found out anew. */
const RENEW_EVERY = 4;

export class SuperLinkCaller {
  /** Once true, whatever keeps the SuperLink from being reached is taken for passing. */
  joined = false;
  readonly #fleet: FleetSource;
  readonly #identity: NodeIdentity;
  readonly #end: AbortSignal;
  readonly #counters: NodeCounters;
  readonly #events: NodeEvents;
  readonly #backoff: Backoff | undefined;

  /** @param options.end cuts off calls under way */
  constructor(options: {
    fleet: FleetSource;
    identity: NodeIdentity;
    end: AbortSignal;
    counters: NodeCounters;
    events?: NodeEvents | undefined;
    backoff?: Backoff | undefined;
  }) {
    this.#fleet = options.fleet;
    this.#identity = options.identity;
    this.#end = options.end;
    this.#counters = options.counters;
    this.#events = options.events ?? {};
    this.#backoff = options.backoff;
  }

  get retries(): number {
    return this.#counters.retries;
  }

  /**
   * @throws FleetError for an answer that is none and will not be one; DuetError CANCELLED when there is no time left, and what openFleet throws
   *   before the node has joined
   */
  async ask<M extends FleetMethod>(
    method: M,
    request: FleetRequest<M>,
    { until, tries = Number.POSITIVE_INFINITY, timeoutMs }: AskOptions,
  ): Promise<FleetResponse<M>> {
    for (let failures = 1; ; failures++) {
      let transport: FleetTransport | undefined;
      try {
        throwIfAborted(until, method);
        transport = await this.#fleet.open(until);
        const send = transport[method] as unknown as (...of: unknown[]) => Promise<FleetResponse<M>>;
        return await send(request, {
          identity: this.#identity,
          signal: this.#end,
          ...(timeoutMs !== undefined && { timeoutMs }),
          onBytes: (up: number, down: number) => this.#count(up, down),
        });
      } catch (error) {
        if (codeOf(error) === 'CANCELLED' || !this.#mayPass(error, failures, tries, transport)) throw error;
        const seconds = backoffSeconds(failures, this.#backoff);
        this.tellRetry({ what: method, reason: messageOf(error), seconds });
        await sleep(seconds, until);
      }
    }
  }

  tellRetry(retry: Retry): void {
    this.#counters.retries++;
    this.#events.onRetry?.(retry);
  }

  #mayPass(error: unknown, failures: number, tries: number, transport: FleetTransport | undefined): boolean {
    if (failures >= tries) return false;
    if (transport === undefined) return isPassing(error) || this.joined;
    // Perhaps another version of Flower runs there now.
    const changed = failures === 1 && hasStatus(error, 'UNIMPLEMENTED');
    if (changed || failures % RENEW_EVERY === 0) this.#fleet.renew(transport);
    return changed || isPassing(error) || (isBroken(error) && failures < BROKEN_TRIES);
  }

  #count(up: number, down: number): void {
    this.#counters.bytesUp += up;
    this.#counters.bytesDown += down;
    this.#events.onBytes?.(up, down);
  }
}
