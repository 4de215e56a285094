/** The clients of a data folder, ready for a model folder. */

import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { AnswerVocabulary } from '../data/answers.js';
import { loadClients } from '../data/clients.js';
import { ImageProcessor } from '../data/image-processor.js';
import type { VqaDataset } from '../data/vqa.js';
import { DuetError } from '../errors.js';
import type { FederatedClient } from '../federated/client.js';
import { type Encoders, encodersOf, vqaClients } from '../federated/vqa-source.js';
import { Vilt } from '../models/vilt.js';

export interface DataFlags {
  view: string;
  clients?: string[];
  except?: string[];
  trainSplit: string;
  evalSplit: string;
  answers?: string;
  topAnswers: number;
}

export interface FederationData {
  clients: FederatedClient[];
  answers: AnswerVocabulary;
}

/** Reads clients and answers, and encodes them as the model in `modelFolder` wants it. */
export async function loadFederation(
  folder: string,
  modelFolder: string,
  flags: DataFlags,
): Promise<FederationData> {
  const train = await readClients(folder, flags, flags.trainSplit);
  const { evalSplit } = flags;
  const evaluation = evalSplit === 'none' ? undefined : await readClients(folder, flags, evalSplit);
  const answers = await chooseAnswers(folder, modelFolder, flags, [...train.values()]);
  const encoders = await encodersFor(modelFolder, answers);
  return { answers, clients: vqaClients(encoders, train, evaluation) };
}

async function readClients(
  folder: string,
  flags: DataFlags,
  split: string,
): Promise<Map<string, VqaDataset>> {
  const { view, clients: wanted, except } = flags;
  const all = await loadClients(folder, { view, split, ...(except && { except }) });
  if (!wanted) return all;
  const missing = wanted.filter((name) => !all.has(name));
  if (missing.length > 0) {
    throw new DuetError(
      'NOT_FOUND',
      `Expected clients among ${[...all.keys()].join(', ')} (view ${view}, split ${split}) but received ${missing.join(', ')}`,
    );
  }
  return new Map([...all].filter(([name]) => wanted.includes(name)));
}

/** The file given, the data folder's, the model's, or the most frequent answers of the training questions. */
async function chooseAnswers(
  folder: string,
  modelFolder: string,
  flags: DataFlags,
  train: readonly VqaDataset[],
): Promise<AnswerVocabulary> {
  if (flags.answers !== undefined) return AnswerVocabulary.load(flags.answers);
  for (const place of [folder, modelFolder]) {
    const path = join(place, 'answers.json');
    if (await isThere(path)) return AnswerVocabulary.load(path);
  }
  const samples = train.flatMap((dataset) => dataset.samples);
  return AnswerVocabulary.fromSamples(samples, { top: flags.topAnswers });
}

async function encodersFor(modelFolder: string, answers: AnswerVocabulary): Promise<Encoders> {
  using model = await Vilt.fromPretrained(modelFolder, { answers });
  const encoders = encodersOf(model);
  return { ...encoders, images: new ImageProcessor(encoders.images.spec, { cacheBytes: 1024 ** 3 }) };
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
