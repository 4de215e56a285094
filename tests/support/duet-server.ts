// Helpers of the server's tests: small shared parameters, sites that need no model, runs of servers and clients, and the bare protocol.

import { createHash } from 'node:crypto';
import http2 from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';
import { DuetClient, type DuetClientOptions } from '../../src/federated/server/client.js';
import type { RoundHandler } from '../../src/federated/server/handler.js';
import type { DuetServerOptions, ServerRound } from '../../src/federated/server/options.js';
import { encodeBody } from '../../src/federated/server/safetensors.js';
import { DuetServer } from '../../src/federated/server/server.js';
import { FedAvg } from '../../src/federated/strategies/fedavg.js';
import { weightedMean } from '../../src/federated/strategies/strategy.js';
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

/** The shared parameters after these rounds, by the rules alone. @param sites of each round */
export async function byTheRules(
  sites: readonly number[][],
  weights: 'samples' | 'uniform' = 'samples',
): Promise<Tensors> {
  let shared: Tensors = Object.fromEntries(
    Object.entries(smallShared()).map(([name, { data }]) => [name, data as Float32Array]),
  );
  for (const [index, those] of sites.entries()) {
    const updates = those.map((site) => {
      return { client: `site${site}`, samples: 10 + site, shared: trained(shared, site, index + 1) };
    });
    shared = await weightedMean(shared, updates, weights);
  }
  return shared;
}

export function values(tensors: Record<string, { data: unknown }>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(tensors).map(([name, { data }]) => [name, data]));
}

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

/** A client that speaks the protocol by hand. */
export class BareClient {
  readonly #session: http2.ClientHttp2Session;
  session = '';

  private constructor(url: string) {
    this.#session = http2.connect(url);
    this.#session.on('error', () => {});
  }

  static async join(url: string, site: number, task = 'vqa'): Promise<BareClient> {
    const client = new BareClient(url);
    const body = { name: `site${site}`, task, codecs: ['fp32'], index: site };
    const { json } = await client.call('POST', '/v1/join', body);
    client.session = json.session as string;
    return client;
  }

  /** @param cut breaks the connection after so many bytes of the body; @param pauseMs between the halves of the body */
  async call(
    method: string,
    path: string,
    body?: Uint8Array | object,
    headers: Record<string, string> = {},
    cut?: number,
    pauseMs = 0,
  ): Promise<{ status: number; headers: http2.IncomingHttpHeaders; json: Record<string, unknown> }> {
    const stream = this.#session.request({
      ':method': method,
      ':path': path,
      ...(this.session !== '' && { 'duet-session': this.session }),
      ...headers,
    });
    stream.on('error', () => {});
    const bytes = body instanceof Uint8Array ? body : Buffer.from(body ? JSON.stringify(body) : '');
    // Of a GET Node itself ends the body.
    const half = pauseMs > 0 ? bytes.length / 2 : 0;
    if (half > 0) stream.write(bytes.subarray(0, half));
    if (cut === undefined && method !== 'GET') setTimeout(() => stream.end(bytes.subarray(half)), pauseMs);
    if (cut !== undefined)
      stream.write(bytes.subarray(0, cut), () =>
        setTimeout(() => stream.close(http2.constants.NGHTTP2_CANCEL), 200),
      );
    return new Promise((resolve, reject) => {
      let received: http2.IncomingHttpHeaders = {};
      let text = '';
      stream.setEncoding('utf8');
      stream.on('response', (fields) => {
        received = fields;
      });
      stream.on('data', (chunk: string) => {
        text += chunk;
      });
      stream.on('close', () => {
        if (received[':status'] === undefined) reject(new Error('no answer'));
        else
          resolve({
            status: Number(received[':status']),
            headers: received,
            json: text.startsWith('{') ? JSON.parse(text) : {},
          });
      });
    });
  }

  /** The next task. */
  async task(): Promise<{ kind: string; id: string; round: number; shared: string }> {
    for (;;) {
      const { status, json } = await this.call('GET', '/v1/task');
      if (status === 200) return json as { kind: string; id: string; round: number; shared: string };
    }
  }

  upload(
    id: string,
    body: Uint8Array,
    { offset = 0, cut, digest = sha256(body) }: { offset?: number; cut?: number; digest?: string } = {},
  ) {
    const headers = {
      'upload-sha256': digest,
      'upload-length': String(body.length),
      'upload-offset': String(offset),
    };
    return this.call('PUT', `/v1/update/${id}`, body.subarray(offset), headers, cut);
  }

  close(): void {
    this.#session.destroy();
  }
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** An update as a client writes it. */
export function updateBody(tensors: Record<string, TensorData>, samples = 10): Uint8Array {
  return encodeBody(tensors, { duet: JSON.stringify({ samples, codec: 'fp32', metrics: { loss: 1 } }) });
}
