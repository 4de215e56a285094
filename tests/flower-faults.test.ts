// What goes wrong between duet clients and a real SuperLink: clients killed at any point of a round, damaged objects, slow lines, a
// SuperLink that starts anew. A proxy sees the calls, so things happen at the moment they are meant to.

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { temporaryFolder } from './federation-support.js';
import { FleetProxy } from './support/fleet-proxy.js';
import {
  endFlower,
  FLOWER_VERSIONS,
  flowerEnvironment,
  type Process,
  SuperLink,
  succeeded,
} from './support/flower.js';
import {
  arraysOf,
  distance,
  inOneProcess,
  makeApp,
  makeSites,
  type Sites,
  startClient,
} from './support/flower-sites.js';

const TOLERANCE = 1e-6;

const version = FLOWER_VERSIONS.find((one) => Number(one.split('.')[1]) >= 40);
const environment =
  version === undefined ? 'no version of Flower with HTTP' : await flowerEnvironment(version);
const skipped = typeof environment === 'string';
let sites: Sites;

beforeAll(async () => {
  if (!skipped) sites = await makeSites(await temporaryFolder());
});
afterAll(endFlower);

/** One site behind a proxy, one without; begins when both are there. */
async function federation(config: Record<string, string | number> = {}) {
  const folder = await temporaryFolder();
  const app = await makeApp(sites, join(folder, 'app'));
  const link = await SuperLink.start(environment as Exclude<typeof environment, string>);
  const proxy = await FleetProxy.start(link.fleet);
  const client = (site: number, address: string, ...more: string[]) =>
    startClient(sites, site, address, ['--insecure', '--run', join(folder, `site-${site}`), ...more]);
  const settings = { rounds: 2, 'fraction-evaluate': 0, output: folder, ...config };
  return {
    folder,
    link,
    proxy,
    watched: (...more: string[]) => client(0, proxy.address, ...more),
    other: (...more: string[]) => client(1, link.fleet, ...more),
    run: (more = {}) => link.run(app, { ...settings, ...more }),
    after: (round: number) => arraysOf(join(folder, `round-000${round}.safetensors`)),
  };
}

describe.skipIf(skipped).concurrent('faults', { timeout: 300_000 }, () => {
  /** Where a client dies: at the first call of this method, before it is passed on or when its answer is there. */
  const phases = [
    { name: 'while it pulls', at: 'before pull-object' },
    { name: 'when it has everything', at: 'before confirm-message-received' },
    { name: 'while it trains', at: 'after confirm-message-received' },
    { name: 'with its answer ready', at: 'before push-messages' },
    { name: 'between its answer and the objects of it', at: 'before push-object' },
    { name: 'in the middle of the objects', at: 'after push-object' },
  ];

  for (const { name, at } of phases) {
    test(`a client killed ${name} comes back and loses nothing`, async (context) => {
      const { link, proxy, watched, other, run, after } = await federation();
      const first = watched();
      const dies = async (moment: string) => {
        if (moment !== at) return undefined;
        proxy.hooks = {};
        await first.crash();
        return 'drop' as const;
      };
      proxy.hooks = {
        before: (method) => dies(`before ${method}`),
        after: async (method) => {
          await dies(`after ${method}`);
          return undefined;
        },
      };
      const second = other();
      const started = await run();
      link.showOnFailure(context, started, first, second);
      await first.ended;
      const again = watched('--resume');
      link.showOnFailure(context, again);
      await succeeded(started, again, second);
      expect(started.output).not.toMatch(/[1-9]\d* failures/);
      expect(distance(await after(2), (await inOneProcess(sites, 2, false)).shared)).toBeLessThan(TOLERANCE);
    });
  }

  test('an object that arrives damaged is pulled again', async (context) => {
    const { link, proxy, watched, other, run, after } = await federation();
    let damaged = 0;
    proxy.hooks.after = (method, body) => {
      if (method !== 'pull-object' || damaged++ > 0) return undefined;
      const other = Buffer.from(body);
      other[other.length - 1] = (other.at(-1) as number) ^ 1;
      return other;
    };
    const clients: Process[] = [watched(), other()];
    const started = await run();
    link.showOnFailure(context, started, ...clients);
    await succeeded(started, ...clients);
    expect(damaged).toBeGreaterThan(1);
    expect(distance(await after(2), (await inOneProcess(sites, 2, false)).shared)).toBeLessThan(TOLERANCE);
  });

  test('a site whose objects stay damaged answers with an error and the round goes on', async (context) => {
    const { link, proxy, watched, other, run } = await federation({ rounds: 1 });
    proxy.hooks.after = (method, body) => {
      if (method !== 'pull-object') return undefined;
      const other = Buffer.from(body);
      other[other.length - 1] = (other.at(-1) as number) ^ 1;
      return other;
    };
    const clients: Process[] = [watched(), other()];
    const started = await run();
    link.showOnFailure(context, started, ...clients);
    await succeeded(started, ...clients);
    expect(started.output).toMatch(/1 results and 1 failures/);
  });

  test('a slow line makes a round late, not wrong', async (context) => {
    const { link, proxy, watched, other, run, after } = await federation({ rounds: 1 });
    proxy.hooks.before = async (method) => {
      if (method.endsWith('-object')) await new Promise((resolve) => setTimeout(resolve, 150));
      return undefined;
    };
    const clients: Process[] = [watched(), other()];
    const started = await run();
    link.showOnFailure(context, started, ...clients);
    await succeeded(started, ...clients);
    expect(distance(await after(1), (await inOneProcess(sites, 1, false)).shared)).toBeLessThan(TOLERANCE);
  });

  test('a round does not wait for a site longer than its deadline', async (context) => {
    const { link, proxy, watched, other, run } = await federation({ rounds: 1, 'round-timeout': 8 });
    const held = new Promise<undefined>(() => {});
    proxy.hooks.before = (method) => (method === 'push-messages' ? held : undefined);
    const clients: Process[] = [watched(), other()];
    const started = await run();
    link.showOnFailure(context, started, ...clients);
    await succeeded(started, ...clients);
    expect(started.output).toMatch(/Received 1 results/);
  });

  test('clients find a SuperLink again that starts anew, and the next run goes on from the last arrays', async (context) => {
    const { folder, link, watched, other, run, after } = await federation();
    const clients: Process[] = [watched(), other()];
    const first = await run({ rounds: 1 });
    link.showOnFailure(context, first, ...clients);
    await succeeded(first, ...clients);
    await link.restart();
    const last = join(folder, 'round-0001.safetensors');
    const next = await run({ rounds: 1, 'rounds-done': 1, 'initial-arrays': last });
    link.showOnFailure(context, next);
    await succeeded(next, ...clients);
    expect(distance(await after(2), (await inOneProcess(sites, 2, false)).shared)).toBeLessThan(TOLERANCE);
  });
});
