// Real Flower from PyPI: a stock SuperLink and ServerApp, a stock Python node, and duet clients as processes of their own. What the
// server averages must be what a federation in one process makes of the same sites.

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { temporaryFolder } from './federation-support.js';
import { Authority } from './support/certificates.js';
import { endFlower, FLOWER_VERSIONS, flowerEnvironment, SuperLink, succeeded } from './support/flower.js';
import {
  arraysOf,
  distance,
  inOneProcess,
  makeApp,
  makeKey,
  makeSites,
  type Sites,
  startClient,
} from './support/flower-sites.js';

const ROUNDS = 3;
/** Of a shared value after three rounds: orders of fp32 sums differ. */
const TOLERANCE = 1e-6;
/** Of what a site keeps, which AdamW moves by its own length however small the gradient. */
const OWN_TOLERANCE = 1e-4;
/** Exit code of a command that was asked to stop. */
const STOPPED = 130;

const environments = await Promise.all(FLOWER_VERSIONS.map(flowerEnvironment));
let sites: Sites;

beforeAll(async () => {
  if (environments.every((environment) => typeof environment === 'string')) return;
  sites = await makeSites(await temporaryFolder());
});
afterAll(endFlower);

for (const [index, version] of FLOWER_VERSIONS.entries()) {
  const environment = environments[index];
  if (environment === undefined || typeof environment === 'string') {
    test.skip(`Flower ${version}`);
    continue;
  }
  describe.concurrent(`Flower ${version}`, { timeout: 300_000 }, () => {
    for (const legacy of [false, true]) {
      const api = legacy ? 'older strategy' : 'Message API';
      test(`two duet clients and a stock node, ${api}`, async (context) => {
        const folder = await temporaryFolder();
        const app = await makeApp(sites, join(folder, 'app'), { python: true, legacy });
        const link = await SuperLink.start(environment);
        const clients = sites.names.map((name, site) =>
          startClient(sites, site, link.fleet, ['--insecure', '--run', join(folder, name)]),
        );
        const node = await link.node();
        const run = await link.run(app, { rounds: ROUNDS, 'min-nodes': 3, output: folder });
        link.showOnFailure(context, node, run, ...clients);
        await succeeded(run, node, ...clients);
        expect(run.output).toMatch(/eval_acc/);
        expect(run.output).not.toMatch(/[1-9]\d* failures/);
        const reference = await inOneProcess(sites, ROUNDS, true);
        const after = await arraysOf(join(folder, `round-000${ROUNDS}.safetensors`));
        expect(distance(after, reference.shared)).toBeLessThan(TOLERANCE);
        await Promise.all(clients.map((client) => client.stop()));
        for (const [site, name] of sites.names.entries()) {
          const own = await arraysOf(join(folder, name, 'export', `${name}.safetensors`));
          expect(distance(own, reference.sites[site] ?? {}), name).toBeLessThan(OWN_TOLERANCE);
        }
        for (const client of clients) expect(await client.ended).toBe(STOPPED);
        expect(link.log.count(/Deactivated node_id/)).toBe(2);
      });
    }

    test('over TLS with registered keys; a key that is not registered is refused', async (context) => {
      const folder = await temporaryFolder();
      const app = await makeApp(sites, join(folder, 'app'));
      const authority = new Authority();
      const link = await SuperLink.start(environment, { authority, authentication: true });
      const keys = [...sites.names, 'stranger'].map((name) => makeKey(join(folder, `${name}.key`)));
      for (const key of keys.slice(0, -1)) await link.register(`${key}.pub`, app);
      const client = (site: number, key: string, ca: string, run: string) =>
        startClient(sites, site, link.fleet, [
          '--root-certificates',
          ca,
          '--key',
          key,
          '--run',
          join(folder, run),
        ]);
      const stranger = client(0, keys.at(-1) as string, authority.certFile, 'stranger');
      const clients = sites.names.map((name, site) =>
        client(site, keys[site] as string, authority.certFile, name),
      );
      const misled = client(0, keys[0] as string, new Authority().certFile, 'misled');
      const run = await link.run(app, { rounds: 1, 'fraction-evaluate': 0, output: folder });
      link.showOnFailure(context, run, stranger, misled, ...clients);
      expect(await stranger.ended).toBe(1);
      expect(stranger.output).toMatch(/register/);
      expect(await misled.ended).toBe(1);
      expect(misled.output).toMatch(/certificate/);
      await succeeded(run, ...clients);
      const after = await arraysOf(join(folder, 'round-0001.safetensors'));
      expect(distance(after, (await inOneProcess(sites, 1, false)).shared)).toBeLessThan(TOLERANCE);
    });
  });
}
