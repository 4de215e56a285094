// The reference cases of the frozen encoders, where the reference numbers are at hand.

import { describe, expect, test } from 'vitest';
import { findCases, runCase } from '../src/golden/run.js';
import { hasShared, sharedPath } from './data-support.js';

const folder = ['golden', 'rdtf', 'encoders'];

describe.skipIf(!hasShared(...folder))('reference cases of the encoders', () => {
  test.each(['clip_text', 'bert', 't5', 'vae'])('%s', async (name) => {
    const cases = await findCases({ folder: sharedPath(...folder), device: 'cpu', threads: 1 });
    const found = cases.find((one) => one.name === `encoders/${name}`)!;
    expect(await runCase(found)).toMatchObject({ status: 'pass' });
  });
});
