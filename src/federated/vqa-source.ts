/** Picture questions as the training and evaluation data of clients. */

import { createHash } from 'node:crypto';
import { requireInstance, requireInteger, requireList, requireObject } from '../arguments.js';
import { AnswerVocabulary } from '../data/answers.js';
import { Batcher, requireEncoders } from '../data/batches.js';
import { ImageProcessor } from '../data/image-processor.js';
import type { DatasetCounts, SkipReport } from '../data/report.js';
import type { Tokenizer } from '../data/tokenizer.js';
import { VqaDataset } from '../data/vqa.js';
import { DuetError } from '../errors.js';
import { Vilt } from '../models/vilt.js';
import type { BatchOptions, BatchSource, LabelledBatch } from './batch-source.js';
import type { FederatedClient } from './client.js';

/** What turns samples into batches; one for all clients, so that pictures are decoded once. */
export interface Encoders {
  /** Of the questions. */
  tokenizer: Tokenizer;
  /** Of the pictures. */
  images: ImageProcessor;
  /** Of the targets. */
  answers: AnswerVocabulary;
  /** Tokens a question. */
  maxTextLength: number;
}

/** Picture questions as the training or evaluation data of a client. Batches have soft targets and question types. */
export class VqaSource implements BatchSource {
  /** The questions. */
  readonly dataset: VqaDataset;
  readonly #encoders: Encoders;
  #fingerprint: string | undefined;
  #unanswerable: number | undefined;
  #batcher: Batcher | undefined;

  /**
   * @param encoders shared by all sources of a federation, so that pictures are decoded once
   * @throws DuetError INVALID_ARGUMENT
   */
  constructor(dataset: VqaDataset, encoders: Encoders) {
    this.dataset = requireInstance(dataset, VqaDataset, 'dataset');
    requireEncoders(encoders);
    this.#encoders = encoders;
  }

  get size(): number {
    return this.dataset.size;
  }

  get report(): DatasetCounts {
    this.#unanswerable ??= this.dataset.countUnanswerable(this.#encoders.answers);
    return { ...this.dataset.report, unanswerable: this.#unanswerable };
  }

  get unassigned(): SkipReport {
    return this.dataset.unassigned;
  }

  /** SHA-256 of questions, answers and picture ids, in order. */
  get fingerprint(): string {
    if (this.#fingerprint === undefined) {
      const hash = createHash('sha256');
      for (const { questionId, imageId, question, counts } of this.dataset.samples) {
        hash.update(JSON.stringify([questionId, imageId, question, counts]));
      }
      this.#fingerprint = hash.digest('hex').slice(0, 16);
    }
    return this.#fingerprint;
  }

  batchCount(batchSize: number): number {
    return Math.ceil(this.size / requireInteger(batchSize, 'batchSize', 1));
  }

  async *batches(options: BatchOptions): AsyncGenerator<LabelledBatch> {
    const { batchSize, order, signal } = requireObject(options, 'options');
    requireInteger(batchSize, 'batchSize', 1);
    // Kept for the next epoch: it has the token ids of the questions.
    if (this.#batcher?.batchSize !== batchSize)
      this.#batcher = new Batcher(this.dataset, { ...this.#encoders, batchSize });
    const epoch = this.#batcher.epoch({ ...(order && { shuffle: order }), ...(signal && { signal }) });
    for await (const { data, samples } of epoch) {
      yield {
        ...data,
        targets: data.targets as Float32Array,
        questionTypes: samples.map((sample) => sample.questionType),
      };
    }
  }

  join(others: readonly BatchSource[]): VqaSource {
    const datasets = requireList(others, 'others').map((other) => {
      if (other instanceof VqaSource) return other.dataset;
      throw new DuetError('INVALID_ARGUMENT', 'Expected picture questions to join with picture questions');
    });
    return new VqaSource(VqaDataset.merge('all clients', [this.dataset, ...datasets]), this.#encoders);
  }
}

/**
 * The encoders of a model opened with a vocabulary and answers.
 * @throws DuetError INVALID_ARGUMENT when it has none
 */
export function encodersOf(model: Vilt): Encoders {
  const { tokenizer, answers, pictures } = requireInstance(
    model,
    Vilt,
    'model',
    'open one with Vilt.fromPretrained',
  );
  if (!tokenizer || !answers) {
    const what = tokenizer ? 'answers' : 'a tokenizer';
    const mend = tokenizer
      ? 'open it with { answers }'
      : 'put the vocab.txt of its tokenizer into the model folder';
    throw new DuetError('INVALID_ARGUMENT', `Expected a model with ${what}; ${mend}`);
  }
  const maxTextLength = model.config.max_position_embeddings;
  return { tokenizer, answers, images: new ImageProcessor(pictures), maxTextLength };
}

/**
 * Clients from data sets by name (see `loadClients`). Training questions without a known answer are left out; evaluation
 * keeps them, as wrong.
 * @param encode a model with tokenizer and answers, or its encoders, to share the pictures decoded for it
 */
export function vqaClients(
  encode: Vilt | Encoders,
  train: ReadonlyMap<string, VqaDataset>,
  evaluation: ReadonlyMap<string, VqaDataset> = new Map(),
): FederatedClient[] {
  const encoders = encode instanceof Vilt ? encodersOf(encode) : encode;
  requireEncoders(encoders);
  requireInstance(encoders.answers, AnswerVocabulary, 'answers');
  for (const [name, sets] of Object.entries({ train, evaluation })) requireInstance(sets, Map, name);
  return [...train].map(([name, dataset]) => {
    const client: FederatedClient = {
      name,
      train: new VqaSource(dataset.forTraining(encoders.answers), encoders),
    };
    const held = evaluation.get(name);
    return held ? { ...client, evaluation: new VqaSource(held, encoders) } : client;
  });
}
