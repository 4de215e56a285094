/** Samples to batches, beside the training. */

import { requireInstance, requireInteger, requireList, requireObject } from '../arguments.js';
import { DuetError, throwIfAborted } from '../errors.js';
import type { ViltBatch } from '../native/federated.js';
import { AnswerVocabulary } from './answers.js';
import { ImageProcessor, type ResizedPicture } from './image-processor.js';
import { PictureError } from './pictures.js';
import { shuffledOrder } from './random.js';
import { Tokenizer } from './tokenizer.js';
import { noteBadPicture, VqaDataset, type VqaSample } from './vqa.js';

/** What batches are made with. `encodersOf(model)` gives the first four as a model wants them. */
export interface BatcherOptions {
  /** Of the questions. */
  tokenizer: Tokenizer;
  /** Of the pictures; share one between data sets, so that pictures are decoded once. */
  images: ImageProcessor;
  /** When given, batches have soft targets. */
  answers?: AnswerVocabulary;
  /** Samples a batch. */
  batchSize: number;
  /** Tokens a question, `[CLS]` and `[SEP]` included. Default 40. */
  maxTextLength?: number;
  /** Batches prepared ahead. Default 2. */
  prefetch?: number;
}

/** How one pass goes over the samples. */
export interface EpochOptions {
  /**
   * Shuffle with this seed and stream (e.g. one stream per client and epoch). Without it the order is that of
   * the samples.
   */
  shuffle?: { seed: number; stream: number };
  /** Number of the first batch wanted, for resuming. Default 0. */
  firstBatch?: number;
  /** Ends the epoch with CANCELLED. */
  signal?: AbortSignal;
}

/** A batch and the samples it was made of. */
export interface VqaBatch {
  /** Position in the epoch, from 0. */
  number: number;
  /** Row i of `data` is sample i. */
  samples: readonly VqaSample[];
  /**
   * Samples that belong here but have a picture that could not be used; also in the report of the data set.
   */
  skipped: readonly VqaSample[];
  /** As the model takes it; with soft targets where there are answers. */
  data: ViltBatch;
}

/**
 * Makes the batches of one data set, beside the training.
 *
 * An epoch visits the samples in an order named by (seed, stream), or as they stand. While one batch is trained on,
 * the next few are prepared: pictures are decoded and resized on libuv's threads (once, then cached), text is padded
 * to the longest of the batch, pictures to the largest. The order and the content of batch n depend on (seed, stream,
 * n) alone, so a resumed run asks for `firstBatch` and sees what the first run saw.
 */
export class Batcher {
  /** What the batches are made of; its `skipped` grows by bad pictures met on the way. */
  readonly dataset: VqaDataset;
  /** Samples a batch. */
  readonly batchSize: number;
  /** Batches in an epoch; the last one may be smaller. */
  readonly batchesPerEpoch: number;
  readonly #options: Required<Omit<BatcherOptions, 'answers'>> & Pick<BatcherOptions, 'answers'>;
  readonly #ids = new WeakMap<VqaSample, Int32Array>();

  /** @throws DuetError INVALID_ARGUMENT for impossible numbers */
  constructor(dataset: VqaDataset, options: BatcherOptions) {
    this.dataset = requireInstance(dataset, VqaDataset, 'dataset');
    this.#options = { maxTextLength: 40, prefetch: 2, ...requireObject(options, 'options') };
    requireEncoders(this.#options);
    requireInteger(this.#options.batchSize, 'batchSize', 1);
    requireInteger(this.#options.prefetch, 'prefetch', 0);
    this.batchSize = options.batchSize;
    this.batchesPerEpoch = Math.ceil(dataset.size / options.batchSize);
  }

  /**
   * Makes one batch of the given samples; samples with unusable pictures are left out and noted in the data
   * set's report.
   */
  async make(samples: readonly VqaSample[], number = 0): Promise<VqaBatch | undefined> {
    const { images, tokenizer, answers } = this.#options;
    const loaded = await Promise.all(
      requireList(samples, 'samples', requireObject).map((sample) => this.#pictureOf(sample)),
    );
    const kept: VqaSample[] = [];
    const pictures: ResizedPicture[] = [];
    for (const [index, picture] of loaded.entries()) {
      if (picture === undefined) continue;
      kept.push(samples[index]!);
      pictures.push(picture);
    }
    if (kept.length === 0) return undefined;
    const prepared = await images.collate(pictures);
    const text = tokenizer.pad(kept.map((sample) => this.#idsOf(sample)));
    const data: ViltBatch = {
      batch: kept.length,
      textLength: text.length,
      height: prepared.height,
      width: prepared.width,
      inputIds: text.inputIds,
      tokenTypeIds: text.tokenTypeIds,
      attentionMask: text.attentionMask,
      pixelValues: prepared.pixelValues,
      pixelMask: prepared.pixelMask,
    };
    if (answers !== undefined) data.targets = answers.softTargets(kept);
    const skipped = samples.filter((_, index) => loaded[index] === undefined);
    return { number, samples: kept, skipped, data };
  }

  /**
   * The batches of one epoch, in order; the next `prefetch` are prepared while the caller works on one. A
   * batch without a single usable picture is left out.
   * @throws DuetError CANCELLED when the signal is aborted, CORRUPT when no batch had a usable picture
   */
  async *epoch(options: EpochOptions = {}): AsyncGenerator<VqaBatch, void, undefined> {
    const { shuffle, firstBatch = 0, signal } = requireObject(options, 'options');
    requireInteger(firstBatch, 'firstBatch', 0);
    throwIfAborted(signal, 'Preparing batches');
    const { samples } = this.dataset;
    const order = shuffle
      ? shuffledOrder(samples.length, requireObject(shuffle, 'shuffle').seed, shuffle.stream)
      : undefined;
    const samplesOf = (number: number) => {
      const from = number * this.batchSize;
      const count = Math.min(this.batchSize, samples.length - from);
      return Array.from({ length: count }, (_, i) => samples[order ? order[from + i]! : from + i]!);
    };

    const ahead: Promise<VqaBatch | undefined>[] = [];
    let next = firstBatch;
    const fill = (depth: number) => {
      while (ahead.length < depth && next < this.batchesPerEpoch) {
        const making = this.make(samplesOf(next), next);
        // A failure is met when its turn comes; until then it must not count as unhandled.
        making.catch(() => {});
        ahead.push(making);
        next++;
      }
    };
    let yielded = 0;
    try {
      const { prefetch } = this.#options;
      fill(prefetch + 1);
      for (let current = ahead.shift(); current !== undefined; current = ahead.shift()) {
        fill(prefetch);
        const batch = await unlessAborted(current, signal);
        if (batch !== undefined) {
          yielded++;
          yield batch;
        }
        fill(prefetch + 1);
      }
    } finally {
      // Nothing may still read the pictures once the caller has moved on.
      await Promise.allSettled(ahead);
    }
    if (yielded === 0 && firstBatch < this.batchesPerEpoch) {
      throw new DuetError(
        'CORRUPT',
        `Expected at least 1 usable picture in ${this.dataset.name} but found none: ${this.dataset.skipped}; ` +
          `for example ${this.dataset.skipped.examples[0]}`,
      );
    }
  }

  #idsOf(sample: VqaSample): Int32Array {
    let ids = this.#ids.get(sample);
    if (ids === undefined) {
      ids = this.#options.tokenizer.idsOf(sample.question, this.#options.maxTextLength);
      this.#ids.set(sample, ids);
    }
    return ids;
  }

  async #pictureOf(sample: VqaSample): Promise<ResizedPicture | undefined> {
    try {
      return await this.#options.images.resized(sample.picture);
    } catch (error) {
      // A bad picture costs its question; anything else (a bug, a broken addon) ends the run.
      if (!(error instanceof PictureError)) throw error;
      noteBadPicture(this.dataset.skipped, sample, error);
      return undefined;
    }
  }
}

/** Settles as `work` does, or rejects with CANCELLED as soon as the signal is aborted. */
async function unlessAborted<T>(work: Promise<T>, signal?: AbortSignal): Promise<T> {
  throwIfAborted(signal, 'Preparing batches');
  if (signal === undefined) return work;
  let onAbort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => {
      try {
        throwIfAborted(signal, 'Preparing batches');
      } catch (error) {
        reject(error);
      }
    };
    signal.addEventListener('abort', onAbort, { once: true });
  });
  try {
    return await Promise.race([work, aborted]);
  } finally {
    signal.removeEventListener('abort', onAbort);
  }
}

/** Checks what makes batches of samples. */
export function requireEncoders(
  encoders: Pick<BatcherOptions, 'tokenizer' | 'images' | 'answers' | 'maxTextLength'>,
): void {
  const { tokenizer, images, answers, maxTextLength } = requireObject(encoders, 'encoders');
  requireInstance(tokenizer, Tokenizer, 'tokenizer', 'open one with Tokenizer.load');
  requireInstance(images, ImageProcessor, 'images', 'make one with new ImageProcessor(model.pictures)');
  if (answers !== undefined) requireInstance(answers, AnswerVocabulary, 'answers');
  requireInteger(maxTextLength, 'maxTextLength', 2);
}
