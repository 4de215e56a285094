/** One transport for all who need it, found out anew when the SuperLink no longer speaks what it spoke. */

import { type OpenOptions, openFleet } from './probe.js';
import type { FleetTransport, FlowerConnection } from './transport.js';

/** A transport that nodes share. */
export interface FleetSource {
  /** The transport, opened once; fails as openFleet does, and is tried again by the next call. */
  open(signal?: AbortSignal): Promise<FleetTransport>;
  /** Forgets a transport that does not work any more. */
  renew(transport: FleetTransport): void;
  /** Ends it for all. */
  close(): void;
}

export function fleetSource(connection: FlowerConnection, options: OpenOptions = {}): FleetSource {
  let opening: Promise<FleetTransport> | undefined;
  let current: FleetTransport | undefined;
  const forget = () => {
    current?.close();
    [current, opening] = [undefined, undefined];
  };
  return {
    open(signal) {
      opening ??= openFleet(connection, { ...options, ...(signal && { signal }) }).then(
        (transport) => (current = transport),
        (error) => {
          opening = undefined;
          throw error;
        },
      );
      return opening;
    },
    renew(transport) {
      if (transport === current) forget();
    },
    close: forget,
  };
}
