// Reference numbers of the published frame generation network: layers, blocks, the whole network, three training steps.

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { findCases } from '../src/golden/run.js';

const shared = process.env.DUET_SHARED ?? fileURLToPath(new URL('../../shared', import.meta.url));
const folders = ['sti_layer', 'blocks', 'dfgn_tiny', 'train_steps'].map(
  (name) => `${shared}/golden/rdtf/${name}`,
);
const missing = folders.filter((folder) => !existsSync(folder));
if (missing.length > 0) console.log(`skipped: ${missing.join(', ')} not found (set DUET_SHARED)`);

describe.skipIf(missing.length > 0)('reference numbers', async () => {
  const cases = (
    await Promise.all(
      folders.map((folder) =>
        existsSync(folder) ? findCases({ folder, device: 'cpu', threads: 1 }) : Promise.resolve([]),
      ),
    )
  ).flat();

  test.each(cases.map((one) => [one.name, one] as const))('%s', async (_name, one) => {
    const outcome = await one.run();
    expect(outcome).toMatchObject({ status: 'pass' });
    expect(outcome.compared).toBeGreaterThan(10);
  });
});
