/** The space the network works in. */

import { DiskCache } from '../data/disk-cache.js';
import { type DeviceName, resolveDevice } from '../device.js';
import { DuetError, throwIfAborted } from '../errors.js';
import { AutoencoderKl } from '../models/autoencoder.js';
import type { ComputeType } from '../native/core.js';
import { native } from '../native.js';

/** Sizes of clips outside of the network. */
export interface SpaceShape {
  clips: number;
  frames: number;
  /** Pixels. */
  height: number;
  /** Pixels. */
  width: number;
}

/** What of a batch of clips enters a space. */
export interface EnteringClips {
  /** [B, channels, frames, height, width] in [-1, 1] */
  values: Float32Array;
  /** Of the clips' pixels; of what has none nothing is kept. */
  fingerprints?: readonly string[];
}

/**
 * The space the network works in: the pixels themselves (3 or 4 channels, for small sizes and without an
 * autoencoder), or the latents of a frozen autoencoder, of which each clip is encoded once and sampled anew whenever
 * it is trained on, as published.
 */
export interface Space {
  /** Of the network's clips. */
  readonly channels: number;
  /** Pixels of a picture for one of the network's, along each side. */
  readonly reduction: number;
  /**
   * What the network learns from. Clips with a fingerprint are encoded once.
   * @param noise normal draws, as many as the result has; only spaces that sample look at them
   * @returns [B, channels, frames, h, w]
   */
  enter(
    batch: EnteringClips,
    shape: SpaceShape,
    noise: (length: number) => Float32Array,
    signal?: AbortSignal,
  ): Promise<Float32Array>;
  /** Back to values in about -1 .. 1, [B, 3 or 4, frames, height, width]. */
  leave(values: Float32Array, shape: SpaceShape, signal?: AbortSignal): Promise<Float32Array>;
  /** Names what decides the numbers; a resumed run must have the same. */
  fingerprint(): Promise<string>;
  /** Why encoded clips are no longer kept on disk; undefined while they are, and where none are. */
  readonly cacheProblem: string | undefined;
  /** Frees the native memory. */
  dispose(): void;
}

/**
 * The pixels themselves. With a patch of p, squares of p x p pixels become p * p times as many channels, which makes the network's
 * pictures smaller: attention over all frames costs p^4 times less.
 */
export class PixelSpace implements Space {
  readonly channels: number;
  readonly reduction: number;
  readonly cacheProblem = undefined;
  readonly #pixelChannels: 3 | 4;

  constructor(channels: 3 | 4, patch = 1) {
    this.#pixelChannels = channels;
    this.channels = channels * patch * patch;
    this.reduction = patch;
  }

  async enter(batch: EnteringClips, shape: SpaceShape): Promise<Float32Array> {
    return this.#moved(batch.values, shape, (out, values, patched, plain) => {
      out[patched] = values[plain] as number;
    });
  }

  async leave(values: Float32Array, shape: SpaceShape): Promise<Float32Array> {
    return this.#moved(values, shape, (out, from, patched, plain) => {
      out[plain] = from[patched] as number;
    });
  }

  async fingerprint(): Promise<string> {
    return `pixels, patches of ${this.reduction}`;
  }

  dispose(): void {}

  /** Goes through all values with their place in [B, p * p * C, F, H / p, W / p] and in [B, C, F, H, W]. */
  #moved(
    from: Float32Array,
    { clips, frames, height, width }: SpaceShape,
    move: (out: Float32Array, from: Float32Array, patched: number, plain: number) => void,
  ): Float32Array {
    const { reduction: p } = this;
    if (p === 1) return from;
    const out = new Float32Array(from.length);
    const [rows, columns] = [height / p, width / p];
    const channels = this.#pixelChannels;
    let plain = 0;
    for (let plane = 0; plane < clips * channels * frames; plane++) {
      const frame = plane % frames;
      const channel = Math.floor(plane / frames) % channels;
      const clip = Math.floor(plane / (frames * channels));
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++, plain++) {
          const part = (channel * p + (y % p)) * p + (x % p);
          const place = Math.floor(y / p) * columns + Math.floor(x / p);
          move(out, from, ((clip * this.channels + part) * frames + frame) * rows * columns + place, plain);
        }
      }
    }
    return out;
  }
}

/** Changes when the same clip and autoencoder would give other latents. */
const FORMAT = 1;

/** How a space of latents is opened. */
export interface LatentSpaceOptions {
  device?: DeviceName;
  compute?: ComputeType;
  threads?: number;
  /** Of encoded clips that are kept in memory; default 1 GiB. */
  cacheBytes?: number;
  /** Folder for encoded clips. Without it they are only kept in memory. */
  cache?: string | undefined;
}

export class LatentSpace implements Space {
  readonly channels: number;
  readonly reduction: number;
  readonly #autoencoder: AutoencoderKl;
  readonly #cacheBytes: number;
  readonly #files: DiskCache | undefined;
  /** What decides the bits of latents besides the clip. */
  readonly #maker: () => Promise<unknown>;
  readonly #moments = new Map<string, Float32Array>();
  #fingerprint: Promise<string> | undefined;
  #held = 0;

  private constructor(
    autoencoder: AutoencoderKl,
    files: DiskCache | undefined,
    { device = 'cpu', compute = 'fp32', threads = 0, cacheBytes = 2 ** 30 }: LatentSpaceOptions,
  ) {
    this.#autoencoder = autoencoder;
    this.channels = autoencoder.shape.latentChannels;
    this.reduction = autoencoder.reduction;
    this.#cacheBytes = cacheBytes;
    this.#files = files;
    const place = device === 'cpu' ? [] : [resolveDevice(device)];
    this.#maker = async () => [
      FORMAT,
      await this.fingerprint(),
      compute,
      threads,
      native.systemInfo(),
      ...place,
    ];
  }

  static async open(folder: string, options: LatentSpaceOptions = {}): Promise<LatentSpace> {
    const { device, compute, threads, cache } = options;
    const autoencoder = await AutoencoderKl.fromPretrained(folder, {
      ...(device !== undefined && { device }),
      ...(compute !== undefined && { compute }),
      ...(threads !== undefined && { threads }),
    });
    if (autoencoder.shape.inChannels !== 3) {
      autoencoder.dispose();
      throw new DuetError(
        'UNSUPPORTED',
        `Expected an autoencoder of RGB pictures in ${folder} but it takes ${autoencoder.shape.inChannels} channels`,
      );
    }
    const files = cache === undefined ? undefined : await DiskCache.open(cache, 'Latents', '.latents');
    return new LatentSpace(autoencoder, files, options);
  }

  get cacheProblem(): string | undefined {
    return this.#files?.problem;
  }

  async enter(
    { values, fingerprints }: EnteringClips,
    shape: SpaceShape,
    noise: (length: number) => Float32Array,
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const each = values.length / shape.clips;
    const encoded: Float32Array[] = [];
    for (let index = 0; index < shape.clips; index++) {
      throwIfAborted(signal, 'Encoding clips');
      const clip = values.subarray(index * each, (index + 1) * each);
      encoded.push(await this.#momentsOf(clip, { ...shape, clips: 1 }, fingerprints?.[index]));
    }
    return this.#sampled(encoded, shape, noise);
  }

  leave(values: Float32Array, shape: SpaceShape, signal?: AbortSignal): Promise<Float32Array> {
    return this.#autoencoder.decode(values, shape, signal ? { signal } : {});
  }

  fingerprint(): Promise<string> {
    this.#fingerprint ??= this.#autoencoder.fingerprint();
    return this.#fingerprint;
  }

  dispose(): void {
    this.#autoencoder.dispose();
  }

  /** Mean | log-variance of one clip: from memory, the disk, or the autoencoder. */
  async #momentsOf(values: Float32Array, shape: SpaceShape, fingerprint?: string): Promise<Float32Array> {
    if (fingerprint === undefined) return this.#autoencoder.moments(values, shape);
    const name = `${fingerprint} ${shape.frames}x${shape.height}x${shape.width}`;
    const there = this.#moments.get(name);
    if (there) return there;
    const moments = await this.#fromDisk(name, values, shape);
    if (this.#held + moments.byteLength <= this.#cacheBytes) {
      this.#moments.set(name, moments);
      this.#held += moments.byteLength;
    }
    return moments;
  }

  async #fromDisk(name: string, values: Float32Array, shape: SpaceShape): Promise<Float32Array> {
    if (!this.#files) return this.#autoencoder.moments(values, shape);
    const key = [name, await this.#maker()];
    const known = (await this.#files.get(key))?.content;
    const length = (2 * this.channels * values.length) / (3 * this.reduction ** 2);
    if (known?.byteLength === 4 * length) return new Float32Array(known.buffer);
    const moments = await this.#autoencoder.moments(values, shape);
    await this.#files.put(key, { about: {}, content: new Uint8Array(moments.buffer) });
    return moments;
  }

  /** scaling factor * (mean + deviation * noise), from [frames, c, h, w] of each clip to [B, c, frames, h, w]. */
  #sampled(
    encoded: readonly Float32Array[],
    { clips, frames, height, width }: SpaceShape,
    noise: (length: number) => Float32Array,
  ): Float32Array {
    const { channels, reduction } = this;
    const pixels = (height / reduction) * (width / reduction);
    const out = new Float32Array(clips * channels * frames * pixels);
    const draws = noise(out.length);
    const factor = this.#autoencoder.shape.scalingFactor;
    for (const [clip, moments] of encoded.entries()) {
      const { mean, deviation } = native.gaussianOfMoments(moments, frames);
      for (let frame = 0; frame < frames; frame++) {
        for (let channel = 0; channel < channels; channel++) {
          const from = (frame * channels + channel) * pixels;
          const to = ((clip * channels + channel) * frames + frame) * pixels;
          for (let i = 0; i < pixels; i++) {
            const value =
              (mean[from + i] as number) + (deviation[from + i] as number) * (draws[to + i] as number);
            out[to + i] = factor * value;
          }
        }
      }
    }
    return out;
  }
}
