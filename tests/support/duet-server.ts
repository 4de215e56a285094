// Helpers of the server's tests: small shared parameters, sites that need no model, and runs of servers and clients.

import { setTimeout as sleep } from 'node:timers/promises';
import { DuetClient, type DuetClientOptions } from '../../src/federated/server/client.js';
import type { RoundHandler } from '../../src/federated/server/handler.js';
import type { DuetServerOptions, ServerRound } from '../../src/federated/server/options.js';
import { DuetServer } from '../../src/federated/server/server.js';
import { FedAvg } from '../../src/federated/strategies/fedavg.js';
import type { TensorData, Tensors } from '../../src/native/core.js';

export const NAMES = [
  'encoder.layer.0.output.adapter.adapter_1_down.weight',
  'encoder.layer.0.output.adapter.adapter_1_down.bias',
] as const;

/** Two parameters of an adapter. */
export function smallShared(): Record<string, TensorData> {
  const [weight, bias] = NAMES;
  return {
    [weight]: { dtype: 'f32', shape: [4, 3], data: Float32Array.from({ length: 12 }, (_, i) => i / 7) },
    [bias]: { dtype: 'f32', shape: [4], data: new Float32Array(4) },
  };
}

/** What a site of this number makes of the shared parameters in a round. */
export function trained(shared: Tensors, site: number, round: number): Tensors {
  const entries = Object.entries(shared).map(([name, values]): [string, Float32Array] => [
    name,
    values.map((value, place) => value * 0.9 + Math.sin(site * 31 + round * 7 + place)),
  ]);
  return Object.fromEntries(entries);
}

/** A site of this number; `over` replaces some of its work. */
export function madeHandler(site: number, over: Partial<RoundHandler> = {}): RoundHandler {
  return {
    train: async ({ shared, round }) => ({
      samples: 10 + site,
      shared: trained(shared, site, round),
      metrics: { loss: 1 / (site + round) },
    }),
    evaluate: async ({ round }) => ({ samples: 4, accuracy: { shared: 1 - 1 / (round + site + 1) } }),
    ...over,
  };
}

/** Never ends by itself. */
export const slow: Partial<RoundHandler> = {
  train: async (_, { signal }) => {
    await sleep(600_000, undefined, { signal });
    throw new Error('not reached');
  },
};

export interface StartedServer {
  server: DuetServer;
  url: string;
  events: ({ event: string } & Record<string, unknown>)[];
  /** Its rounds, once it is done. */
  rounds: Promise<ServerRound[]>;
  stop(): Promise<void>;
}

/** A server that listens. */
export async function startServer(
  options: Partial<DuetServerOptions> & { runDir: string },
): Promise<StartedServer> {
  const events: StartedServer['events'] = [];
  const stop = new AbortController();
  let listening = () => {};
  const listens = new Promise<void>((resolve) => {
    listening = resolve;
  });
  const server = new DuetServer({
    strategy: new FedAvg(),
    initial: smallShared(),
    rounds: 2,
    heartbeatSeconds: 0.2,
    deadlineSeconds: 20,
    ...options,
    onEvent: (event) => {
      events.push(event);
      if (event.event === 'listening') listening();
      options.onEvent?.(event);
    },
  });
  const rounds = (async () => {
    const all: ServerRound[] = [];
    for await (const round of server.run({ signal: stop.signal })) all.push(round);
    return all;
  })();
  rounds.catch(() => {});
  await Promise.race([listens, rounds]);
  return {
    server,
    url: server.url as string,
    events,
    rounds,
    async stop() {
      stop.abort();
      await rounds.catch(() => {});
    },
  };
}

/** A client of this number in this process. */
export function startClient(
  url: string,
  site: number,
  options: Partial<DuetClientOptions> = {},
): Promise<void> {
  const run = DuetClient.run({
    server: url,
    name: `site${site}`,
    index: site,
    handler: madeHandler(site),
    ...options,
  });
  run.catch(() => {});
  return run;
}
