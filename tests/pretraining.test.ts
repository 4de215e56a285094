// Pretraining as a program uses it: stopped at any batch it can go on, in one process or from its folder, with the same numbers.

import { describe, expect, test } from 'vitest';
import { FixedBatches } from '../src/federated/batch-source.js';
import { isAdapter } from '../src/models/names.js';
import type { Vilt } from '../src/models/vilt.js';
import {
  type EpochReport,
  Pretraining,
  type PretrainingOptions,
  type PretrainingProgress,
} from '../src/pretraining/pretraining.js';
import { madeBatch, temporaryFolder, tinyClients, tinyModel, withoutTiming } from './federation-support.js';

const { train, evaluation } = tinyClients()[0]!;

function pretraining(model: Vilt, changes: Partial<PretrainingOptions> = {}): Pretraining {
  return new Pretraining({
    model,
    train,
    evaluation: evaluation!,
    epochs: 2,
    learningRate: 1e-2,
    ...changes,
  });
}

async function finished(one: Pretraining): Promise<EpochReport[]> {
  const reports: EpochReport[] = [];
  for await (const report of one.run()) reports.push(report);
  return reports;
}

const weightsOf = (model: Vilt) => model.read(model.names((name) => !isAdapter(name)));

/** Aborts after the second batch of an epoch and runs again. */
async function stoppedIn(epoch: number, changes: Partial<PretrainingOptions>) {
  const model = tinyModel();
  const stop = new AbortController();
  const onProgress = ({ phase, epoch: now, batch }: PretrainingProgress) => {
    if (phase === 'training' && now === epoch && batch === 2) stop.abort();
  };
  const one = pretraining(model, { onProgress, ...changes });
  const before = await weightsOf(model);
  const reports: EpochReport[] = [];
  const stopped = (async () => {
    for await (const report of one.run({ signal: stop.signal })) reports.push(report);
  })();
  await expect(stopped).rejects.toMatchObject({ code: 'CANCELLED' });
  if (epoch === 1) expect(await weightsOf(model)).toEqual(before);
  reports.push(...(await finished(one)));
  return { model, reports };
}

describe('a stopped pretraining', () => {
  test.each([
    ['the first epoch', 1, false],
    ['the second epoch', 2, false],
    ['the first epoch, with a folder', 1, true],
    ['the second epoch, with a folder', 2, true],
  ])('in %s runs again to the same numbers', async (_, epoch, kept) => {
    const whole = tinyModel();
    const expected = await finished(pretraining(whole));
    const { model, reports } = await stoppedIn(epoch, kept ? { runDir: await temporaryFolder() } : {});
    expect(withoutTiming(reports)).toEqual(withoutTiming(expected));
    expect(await weightsOf(model)).toEqual(await weightsOf(whole));
  });
});

test('a loss that is not finite stops it with the batch named and the weights before it', async () => {
  const batch = madeBatch(1);
  batch.targets[0] = Number.NaN;
  const model = tinyModel();
  const before = await weightsOf(model);
  const one = pretraining(model, { train: new FixedBatches([madeBatch(2), batch]) });
  await expect(finished(one)).rejects.toMatchObject({
    code: 'NOT_FINITE',
    message: expect.stringMatching(/round 1, batch 2 of 2/),
  });
  expect(await weightsOf(model)).toEqual(before);
});
