// Real Flower from PyPI: a stock SuperLink and ServerApp, stock Python nodes, and duet clients as processes of their own.

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { temporaryFolder } from './federation-support.js';
import { endFlower, FLOWER_VERSIONS, flowerEnvironment, SuperLink } from './support/flower.js';
import { arraysOf, distance, makeApp, makeSites, PYTHON, type Sites } from './support/flower-sites.js';

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
  describe.concurrent(`Flower ${version}`, () => {
    for (const legacy of [false, true]) {
      test(`a stock node alone, ${legacy ? 'older strategy' : 'Message API'}`, async (context) => {
        const folder = await temporaryFolder();
        const app = await makeApp(sites, join(folder, 'app'), { python: true, legacy });
        const link = await SuperLink.start(environment);
        const node = await link.node();
        const run = await link.run(app, {
          rounds: 2,
          'min-nodes': 1,
          'fraction-evaluate': 0,
          output: folder,
        });
        link.showOnFailure(context, node, run);
        expect(await run.ended).toBe(0);
        const initial = await arraysOf(join(app, 'initial.safetensors'));
        const after = await arraysOf(join(folder, 'round-0002.safetensors'));
        const moved = Object.entries(initial).map(([name, values]) => [
          name,
          values.map((value) => value + 2 * PYTHON.step),
        ]);
        expect(distance(after, Object.fromEntries(moved))).toBeLessThan(1e-6);
      });
    }
  });
}
