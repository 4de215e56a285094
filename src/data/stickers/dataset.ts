/** Animated stickers with captions as clips for the network. */

import { availableParallelism } from 'node:os';
import { basename, resolve } from 'node:path';
import {
  requireFunction,
  requireInteger,
  requireKnown,
  requireList,
  requireNumber,
  requireObject,
  requireText,
} from '../../arguments.js';
import { DuetError, throwIfAborted } from '../../errors.js';
import { native } from '../../native.js';
import { validated } from '../../validation.js';
import { forEachAtOnce } from '../concurrency.js';
import { SkipReport } from '../report.js';
import { listStickers, type StickerSample } from './captions.js';
import { type Clip, type ClipSpec, clipOf } from './clip.js';
import { ClipCache } from './clip-cache.js';
import {
  type SplitOptions,
  type StickerBatchOptions,
  type StickerOptions,
  stickerOptionsSchema,
} from './dataset-options.js';
import { decodeSticker, readSticker } from './decode.js';
import { type AnimationLimits, StickerError, type StickerSkipReason } from './limits.js';
import { EndlessOrder, rankOf } from './order.js';

/** What was found in a folder, in plain data. */
export interface StickerCounts {
  /** Of the data set. */
  name: string;
  /** Stickers that are used. */
  kept: number;
  /** Stickers left out, by reason. */
  skipped: Partial<Record<StickerSkipReason, number>>;
  /** Up to three messages a reason. */
  examples: string[];
  /** Of the training part of a `split`: the share held out and the seed that chose it. */
  split?: { heldOut: number; seed: number };
}

/** A batch as the network takes it. */
export interface StickerBatch {
  /** From 0, over all epochs. */
  number: number;
  /** Row i of the arrays is sample i. */
  samples: readonly StickerSample[];
  /** Of the clips' pixels. */
  fingerprints: readonly string[];
  /** [B, channels, frames, size, size] in [-1, 1]; 0 in frames that are not real */
  values: Float32Array;
  /** [B, frames], 1 on real frames */
  frameMask: Uint8Array;
  /** Of the shortest clip: what condition masks are drawn for. */
  realFrames: number;
}

const captionOrName = ({ caption, name }: StickerSample) => caption.toLowerCase() || name;

const BATCH_OPTIONS = {
  batchSize: true,
  seed: true,
  first: true,
  count: true,
  prefetch: true,
  signal: true,
} satisfies Record<keyof StickerBatchOptions, true>;

interface Shared {
  cache: ClipCache | undefined;
  limits: AnimationLimits;
  memoryBytes: number;
  clips: Map<string, Clip>;
  pending: Map<string, Promise<Clip>>;
  /** By path, of all clips made so far. */
  fingerprints: Map<string, string>;
  held: number;
}

/**
 * Animated stickers with captions, as clips for the network.
 *
 * Files are listed at once and decoded when they are first needed, on worker threads, a few batches ahead of the
 * training. Decoded clips stay in memory up to a number of bytes, and on disk when a cache folder is given. Batch n
 * depends on (seed, n) alone, so a resumed run sees what the first one saw. Bad stickers are skipped and counted.
 */
export class StickerDataset {
  /** For messages and reports. */
  readonly name: string;
  /** In alphabetical order. */
  readonly samples: readonly StickerSample[];
  /** How animations become clips. */
  readonly spec: Readonly<ClipSpec>;
  /** What was left out so far; shared with the parts of this set. */
  readonly skipped: SkipReport<StickerSkipReason>;
  readonly #shared: Shared;
  #split: { heldOut: number; seed: number } | undefined;

  private constructor(
    name: string,
    samples: readonly StickerSample[],
    spec: ClipSpec,
    skipped: SkipReport<StickerSkipReason>,
    shared: Shared,
  ) {
    this.name = name;
    this.samples = samples;
    this.spec = spec;
    this.skipped = skipped;
    this.#shared = shared;
    if (samples.length === 0) {
      const why = skipped.size > 0 ? `: ${skipped}; for example ${skipped.examples[0]}` : '';
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected at least 1 usable sticker in ${name} but found 0${why}`,
      );
    }
  }

  /**
   * Lists a folder: GIF, animated WebP, animated PNG, subfolders of numbered PNGs, with `captions.jsonl` or a text file
   * `<name>.txt` each.
   * @throws DuetError NOT_FOUND or IO when the folder cannot be read, INVALID_ARGUMENT for impossible options or a folder
   *   without one usable sticker
   */
  static async fromFolder(folder: string, options: StickerOptions = {}): Promise<StickerDataset> {
    requireText(folder, 'folder');
    const { cache, memoryBytes, name, limits, captionField, allowMissingCaptions, ...spec } = validated(
      stickerOptionsSchema,
      options,
      'the options of the stickers',
    );
    const skipped = new SkipReport<StickerSkipReason>();
    const samples = await listStickers(folder, skipped, { captionField, allowMissingCaptions });
    return new StickerDataset(name ?? basename(resolve(folder)), samples, spec, skipped, {
      cache: cache === undefined ? undefined : await ClipCache.open(cache),
      limits,
      memoryBytes,
      clips: new Map(),
      pending: new Map(),
      fingerprints: new Map(),
      held: 0,
    });
  }

  /** Number of samples, bad ones that are not yet known included. */
  get size(): number {
    return this.samples.length;
  }

  /** What is used and what was skipped so far (bad files are found when they are decoded, at the latest by `prepare`). */
  get report(): StickerCounts {
    const bad = this.samples.filter(({ name }) => this.skipped.has(name)).length;
    const { counts, examples } = this.skipped;
    const split = this.#split && { split: this.#split };
    return { name: this.name, kept: this.size - bad, skipped: counts, examples, ...split };
  }

  /** Of the clips decoded so far, by name: equal for the same clip under another name or in another format. */
  get fingerprints(): Record<string, string> {
    const { fingerprints } = this.#shared;
    return Object.fromEntries(
      this.samples.flatMap(({ name, path }) => {
        const fingerprint = fingerprints.get(path);
        return fingerprint === undefined ? [] : [[name, fingerprint]];
      }),
    );
  }

  /** Where decoded clips are kept on disk. */
  get cacheFolder(): string | undefined {
    return this.#shared.cache?.folder;
  }

  /** Why decoded clips are no longer kept on disk; undefined while they are. */
  get cacheProblem(): string | undefined {
    return this.#shared.cache?.problem;
  }

  /** The samples for which `wanted` is true; decoded clips are shared. */
  where(wanted: (sample: StickerSample) => boolean, name = this.name): StickerDataset {
    requireFunction(wanted, 'wanted');
    return new StickerDataset(
      requireText(name, 'name'),
      this.samples.filter(wanted),
      this.spec,
      this.skipped,
      this.#shared,
    );
  }

  /**
   * Divides by name: which stickers are held out depends on their names and the seed, not on their order. Stickers
   * with one caption stay on one side: often they are the same one in other colours, and would tell on each other. At
   * least one is on either side.
   * @throws DuetError INVALID_ARGUMENT for another share or when all stickers belong together
   */
  split(options: SplitOptions = {}): { training: StickerDataset; heldOut: StickerDataset } {
    const known = { heldOut: true, seed: true, together: true } satisfies Record<keyof SplitOptions, true>;
    const { heldOut = 0.1, seed = 1, together = captionOrName } = requireKnown(options, 'options', known);
    requireNumber(heldOut, 'heldOut');
    requireInteger(seed, 'seed', 0);
    requireFunction(together, 'together');
    const groups = new Map<string, StickerSample[]>();
    for (const sample of this.samples) {
      const name = together(sample);
      const members = groups.get(name);
      if (members) members.push(sample);
      else groups.set(name, [sample]);
    }
    if (!(heldOut > 0 && heldOut < 1) || groups.size < 2) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected a share between 0 and 1 and stickers of at least 2 captions to hold some out but received ${heldOut} of ${this.size} with ${groups.size}`,
      );
    }
    const out = new Set<StickerSample>();
    const wanted = Math.max(Math.round(heldOut * this.size), 1);
    const ranked = [...groups]
      .map(([name, members]) => ({ name, members, rank: rankOf(name, seed) }))
      .sort((a, b) => a.rank - b.rank || (a.name < b.name ? -1 : 1));
    for (const { members } of ranked.slice(0, -1)) {
      if (out.size >= wanted) break;
      for (const member of members) out.add(member);
    }
    const training = this.where((sample) => !out.has(sample), `${this.name} (training)`);
    training.#split = { heldOut, seed };
    return { training, heldOut: this.where((sample) => out.has(sample), `${this.name} (held out)`) };
  }

  /**
   * The clip of a sticker, from memory, the cache or its file. Its bytes are shared: do not write to them.
   * @throws StickerError for a sticker that cannot be used
   */
  async clip(sample: StickerSample): Promise<Clip> {
    for (const field of ['name', 'path'] as const) requireText(requireObject(sample, 'sample')[field], field);
    const { clips, pending } = this.#shared;
    const there = clips.get(sample.path) ?? pending.get(sample.path);
    if (there) return there;
    const making = this.#make(sample);
    pending.set(sample.path, making);
    try {
      const clip = await making;
      this.#shared.fingerprints.set(sample.path, clip.fingerprint);
      // The first ones that fit stay: batches go through all of them in turn, so the last used is not the next one.
      if (this.#shared.held + clip.strip.length <= this.#shared.memoryBytes) {
        clips.set(sample.path, clip);
        this.#shared.held += clip.strip.length;
      }
      return clip;
    } finally {
      pending.delete(sample.path);
    }
  }

  /**
   * Decodes all stickers now and gives the data set without the bad ones, which are counted.
   * @throws DuetError CANCELLED, INVALID_ARGUMENT when none is left
   */
  async prepare(
    options: { signal?: AbortSignal | undefined; onProgress?: (done: number, total: number) => void } = {},
  ): Promise<StickerDataset> {
    const { signal, onProgress } = requireKnown(options, 'options', { signal: true, onProgress: true });
    if (onProgress !== undefined) requireFunction(onProgress, 'onProgress');
    let done = 0;
    await forEachAtOnce(this.samples, Math.min(availableParallelism(), 4), async (sample) => {
      throwIfAborted(signal, 'Decoding stickers');
      await this.#clipOrSkip(sample);
      onProgress?.(++done, this.size);
    });
    return this.where(({ name }) => !this.skipped.has(name));
  }

  /** One batch of these stickers; undefined when none of them can be used. */
  async batch(samples: readonly StickerSample[], number = 0): Promise<StickerBatch | undefined> {
    const { frames, size, channels } = this.spec;
    const loaded = await Promise.all(
      requireList(samples, 'samples', requireObject).map((sample) => this.#clipOrSkip(sample)),
    );
    const clips = loaded.filter((clip) => clip !== undefined);
    if (clips.length === 0) return undefined;
    const values = await native.stackClips(clips, frames, size, size, channels);
    const frameMask = new Uint8Array(clips.length * frames);
    for (const [row, clip] of clips.entries()) frameMask.fill(1, row * frames, row * frames + clip.frames);
    return {
      number,
      samples: samples.filter((_, index) => loaded[index] !== undefined),
      fingerprints: clips.map(({ fingerprint }) => fingerprint),
      values,
      frameMask,
      realFrames: Math.min(...clips.map((clip) => clip.frames)),
    };
  }

  /**
   * Batches in shuffled order, epoch after epoch, each full: an epoch's rest opens the next one's first batch. Stickers
   * that turn out bad make their batch smaller; a batch of bad ones only is left out.
   * @throws DuetError CANCELLED, CORRUPT when no sticker at all can be used
   */
  async *batches(options: StickerBatchOptions): AsyncGenerator<StickerBatch, void, undefined> {
    const {
      batchSize,
      seed,
      first = 0,
      count = Number.POSITIVE_INFINITY,
      prefetch = 2,
      signal,
    } = requireKnown(options, 'options', BATCH_OPTIONS);
    requireInteger(batchSize, 'batchSize', 1);
    for (const [name, value] of Object.entries({ first, prefetch, seed })) requireInteger(value, name, 0);
    if (count !== Number.POSITIVE_INFINITY) requireInteger(count, 'count', 0);
    const order = new EndlessOrder(this.samples, seed);
    const ahead: Promise<StickerBatch | undefined>[] = [];
    let next = first;
    try {
      for (let yielded = 0, empty = 0; yielded < count; ) {
        throwIfAborted(signal, 'Preparing batches');
        while (ahead.length < prefetch + 1 && next < first + count) {
          const samples = Array.from({ length: batchSize }, (_, i) => order.at(next * batchSize + i));
          const making = this.batch(samples, next++);
          // A failure is met when its turn comes; until then it must not count as unhandled.
          making.catch(() => {});
          ahead.push(making);
        }
        const making = ahead.shift();
        if (making === undefined) return;
        const batch = await making;
        if (batch !== undefined) {
          yielded++;
          yield batch;
        } else if (++empty * batchSize >= 2 * this.size + batchSize && yielded === 0) {
          throw new DuetError(
            'CORRUPT',
            `Expected at least 1 usable sticker in ${this.name} but found none: ${this.skipped}; for example ${this.skipped.examples[0]}`,
          );
        }
      }
    } finally {
      // Nothing may still read files once the caller has moved on.
      await Promise.allSettled(ahead);
    }
  }

  async #make({ name, path }: StickerSample): Promise<Clip> {
    const { cache, limits } = this.#shared;
    const bytes = await readSticker(path, limits);
    const known = await cache?.get(bytes.hash, this.spec);
    if (known) return known;
    const clip = await clipOf(`the sticker ${name}`, await decodeSticker(bytes, limits), this.spec);
    await cache?.put(bytes.hash, this.spec, clip);
    return clip;
  }

  async #clipOrSkip(sample: StickerSample): Promise<Clip | undefined> {
    if (this.skipped.has(sample.name)) return undefined;
    try {
      return await this.clip(sample);
    } catch (error) {
      // A bad sticker costs itself; anything else (a bug, a broken addon) ends the run.
      if (!(error instanceof StickerError)) throw error;
      this.skipped.note(sample.name, error.reason, error.message);
      return undefined;
    }
  }
}
