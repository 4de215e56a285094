// DuetServer and DuetClient: rounds over the network are those of weightedMean, whatever happens on the way.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { FedAvg } from '../src/federated/strategies/fedavg.js';
import { weightedMean } from '../src/federated/strategies/strategy.js';
import type { Tensors } from '../src/native/core.js';
import { temporaryFolder } from './federation-support.js';
import { smallShared, startClient, startServer, trained } from './support/duet-server.js';

/** The shared parameters after these rounds, by the rules alone. @param sites of each round */
async function byTheRules(
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

function values(tensors: Record<string, { data: unknown }>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(tensors).map(([name, { data }]) => [name, data]));
}

test.each(['samples', 'uniform'] as const)(
  'three sites, two rounds: the weighted mean by %s, to the bit',
  async (weights) => {
    const runDir = await temporaryFolder();
    const { server, url, rounds } = await startServer({
      runDir,
      minClients: 3,
      strategy: new FedAvg({ weights }),
    });
    // Joined in another order than their numbers.
    await Promise.all([2, 0, 1].map((site) => startClient(url, site)));
    const reports = await rounds;
    expect(values(server.shared)).toEqual(
      await byTheRules(
        [
          [0, 1, 2],
          [0, 1, 2],
        ],
        weights,
      ),
    );
    expect(reports.map(({ number }) => number)).toEqual([1, 2]);
    const [first] = reports;
    expect(first?.clients.map(({ client, samples }) => [client, samples])).toEqual([
      ['site0', 10],
      ['site1', 11],
      ['site2', 12],
    ]);
    expect(first?.metrics.loss).toBeCloseTo((1 + 1 / 2 + 1 / 3) / 3, 12);
    expect(first?.metrics.accuracy?.shared).toBeCloseTo((1 / 2 + 2 / 3 + 3 / 4) / 3, 12);
    expect(first?.bytes.up).toBeGreaterThan(3 * 16 * 4);
    expect(Object.keys(first?.bytes.nodes ?? {})).toEqual(['site0', 'site1', 'site2']);
    expect(first?.failures).toEqual([]);
    expect((await readFile(join(runDir, 'metrics.jsonl'), 'utf8')).trim().split('\n')).toHaveLength(2);
  },
);
