// Helpers of the tests of sites: small sites, and the rounds of a server that only averages.

import { join } from 'node:path';
import { Site, type SiteOptions, type SiteUpdate } from '../src/federated/site.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import type { Strategy } from '../src/federated/strategies/strategy.js';
import type { Tensors } from '../src/native/core.js';
import { temporaryFolder, tinyClients, tinyModel } from './federation-support.js';

/** The numbers of `tinyFederation`. */
export const tinyTraining = {
  batchSize: 2,
  learningRate: 1e-2,
  schedule: { kind: 'constant', warmup: 0 },
  seed: 5,
} as const;

export async function tinySite(options: Partial<SiteOptions> = {}): Promise<Site> {
  return Site.open({
    model: options.model ?? tinyModel(),
    strategy: new FedDat(),
    client: tinyClients(1)[0]!,
    runDir: join(await temporaryFolder(), 'site'),
    ...tinyTraining,
    ...options,
  });
}

export function valuesOf(site: Site): Tensors {
  return Object.fromEntries(
    Object.entries(site.initialShared()).map(([name, { data }]) => [name, data as Float32Array]),
  );
}

/** What a server makes of the updates of a round. */
export function aggregated(
  strategy: Strategy,
  before: Tensors,
  sites: readonly Site[],
  updates: readonly SiteUpdate[],
): Promise<Tensors> {
  const named = updates.map(({ samples, shared }, index) => ({
    client: sites[index]!.client.name,
    samples,
    shared,
  }));
  return strategy.aggregate(before, named);
}
