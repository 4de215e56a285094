// Helpers of the federation tests: a tiny model, clients with batches in memory, and a run's numbers without its times.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';
import { Random } from '../src/data/random.js';
import { FixedBatches, type LabelledBatch } from '../src/federated/batch-source.js';
import type { FederatedClient } from '../src/federated/client.js';
import { Federation } from '../src/federated/federation.js';
import type { FederationOptions } from '../src/federated/options.js';
import type { RoundReport } from '../src/federated/report.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import { viltPreset } from '../src/models/config.js';
import { Vilt } from '../src/models/vilt.js';

export const CLASSES = 4;
const VOCABULARY = 20;
const EDGE = 32;

/** A ViLT that steps in a few milliseconds, with adapters of width 4 and the head `vqa`. */
export function tinyModel(seed = 1): Vilt {
  const config = viltPreset('tiny', {
    vocab_size: VOCABULARY,
    hidden_size: 32,
    intermediate_size: 64,
    image_size: EDGE,
    max_position_embeddings: 8,
  });
  return Vilt.create(config, { answers: CLASSES, adapters: { reduction: 8 }, seed, threads: 1 });
}

/** A batch whose right answer can be read off its first token and its brightness. */
export function madeBatch(seed: number, size = 2, classes = CLASSES): LabelledBatch {
  const random = new Random(seed, 77);
  const textLength = 4;
  const batch: LabelledBatch = {
    batch: size,
    textLength,
    height: EDGE,
    width: EDGE,
    inputIds: new Int32Array(size * textLength),
    tokenTypeIds: new Int32Array(size * textLength),
    attentionMask: new Uint8Array(size * textLength).fill(1),
    pixelValues: new Float32Array(size * 3 * EDGE * EDGE),
    pixelMask: new Uint8Array(size * EDGE * EDGE).fill(1),
    targets: new Float32Array(size * classes),
    questionTypes: [],
  };
  const types: string[] = [];
  for (let row = 0; row < size; row++) {
    const answer = random.below(classes);
    for (let token = 0; token < textLength; token++)
      batch.inputIds[row * textLength + token] = random.below(VOCABULARY);
    batch.inputIds[row * textLength] = answer;
    const values = batch.pixelValues.subarray(row * 3 * EDGE * EDGE, (row + 1) * 3 * EDGE * EDGE);
    for (let index = 0; index < values.length; index++)
      values[index] = random.between(-0.5, 0.5) + answer / classes;
    batch.targets[row * classes + answer] = 1;
    types.push(answer % 2 === 0 ? 'even' : 'odd');
  }
  batch.questionTypes = types;
  return batch;
}

/** Clients with 2, 3, ... training batches of two samples and one evaluation batch. */
export function tinyClients(count = 2): FederatedClient[] {
  return Array.from({ length: count }, (_, client) => ({
    name: `client${client}`,
    train: new FixedBatches(
      Array.from({ length: 2 + client }, (_, batch) => madeBatch(100 * client + batch)),
    ),
    evaluation: new FixedBatches([madeBatch(1000 + client, 6)]),
  }));
}

/** A federation on a model of its own, which the caller need not dispose of: it is small. */
export function tinyFederation(options: Partial<FederationOptions> = {}): Federation {
  return new Federation({
    model: tinyModel(),
    strategy: new FedDat(),
    clients: tinyClients(),
    rounds: 2,
    batchSize: 2,
    learningRate: 1e-2,
    schedule: { kind: 'constant', warmup: 0 },
    seed: 5,
    ...options,
  });
}

export async function allRounds(federation: Federation): Promise<RoundReport[]> {
  const reports: RoundReport[] = [];
  for await (const report of federation.run()) reports.push(report);
  return reports;
}

/** What must be the same for the same seed. */
export function withoutTiming<T extends { timing: unknown }>(reports: readonly T[]): Omit<T, 'timing'>[] {
  return reports.map(({ timing: _, ...rest }) => rest);
}

const folders: string[] = [];
afterAll(() => Promise.all(folders.map((folder) => rm(folder, { recursive: true, force: true }))));

/** A temporary folder that goes after the tests of the file. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'duet-run-'));
  folders.push(folder);
  return folder;
}
