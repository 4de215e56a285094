/** The frozen autoencoder of latent diffusion from diffusers' folders. */

import { join } from 'node:path';
import { z } from 'zod';
import { requireInteger, requireObject, requireText } from '../arguments.js';
import { readJson } from '../data/files.js';
import { computeSchema, type DeviceName, deviceSchema, resolveDevice } from '../device.js';
import { DuetError, throwIfAborted } from '../errors.js';
import type { ComputeType } from '../native/core.js';
import type { AutoencoderShape, NativeAutoencoderKl, PictureGrid } from '../native/stickers.js';
import { guarded, native } from '../native.js';
import { validated } from '../validation.js';
import { fileFingerprints, settingsFingerprint } from './folder.js';
import { weightFiles } from './weight-files.js';

const count = z.int().min(1);
const only = <T extends string | boolean>(value: T, why: string) =>
  z.literal(value, `Expected ${JSON.stringify(value)}, ${why},`).optional();
const kind = 'the only kind there is';
const none = z.null('Expected null, for shifted latents are not in this version,').optional();

/** `config.json` as diffusers writes it. */
const configSchema = z.looseObject({
  _class_name: only('AutoencoderKL', 'for other autoencoders are not in this version'),
  in_channels: count.default(3),
  out_channels: count.default(3),
  latent_channels: count.default(4),
  block_out_channels: z.array(count).min(1).max(8).default([64]),
  layers_per_block: count.default(1),
  norm_num_groups: count.default(32),
  scaling_factor: z.number().gt(0).default(0.18215),
  act_fn: only('silu', kind),
  down_block_types: z
    .array(z.literal('DownEncoderBlock2D', `Expected "DownEncoderBlock2D", ${kind},`))
    .optional(),
  up_block_types: z.array(z.literal('UpDecoderBlock2D', `Expected "UpDecoderBlock2D", ${kind},`)).optional(),
  mid_block_add_attention: only(true, kind),
  use_quant_conv: only(true, kind),
  use_post_quant_conv: only(true, kind),
  shift_factor: none,
  latents_mean: none,
  latents_std: none,
});

/** @throws DuetError INVALID_ARGUMENT naming what is not supported or cannot be */
export function autoencoderShape(value: unknown, source = 'autoencoder config'): AutoencoderShape {
  const config = validated(configSchema, value, source);
  const levels = config.block_out_channels.length;
  for (const [name, types] of [
    ['down_block_types', config.down_block_types],
    ['up_block_types', config.up_block_types],
  ] as const) {
    if (types === undefined || types.length === levels) continue;
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected as many ${name} as block_out_channels (${levels}) but received ${types.length} (in ${source})`,
    );
  }
  return {
    inChannels: config.in_channels,
    outChannels: config.out_channels,
    latentChannels: config.latent_channels,
    channels: config.block_out_channels,
    layersPerBlock: config.layers_per_block,
    groups: config.norm_num_groups,
    scalingFactor: config.scaling_factor,
  };
}

/** Reads `config.json` from an autoencoder's folder. */
export async function readAutoencoderShape(folder: string): Promise<AutoencoderShape> {
  const path = join(folder, 'config.json');
  const hint = 'an autoencoder folder holds config.json and diffusion_pytorch_model.safetensors';
  return autoencoderShape(await readJson(path, 'model config', hint), path);
}

const optionsSchema = z.strictObject({
  device: deviceSchema,
  compute: computeSchema,
  threads: z.int().min(0).default(0),
});

/** How an autoencoder is opened. */
export interface AutoencoderOptions {
  /** Where it computes. Default `cpu`. */
  device?: DeviceName;
  /** Products in fp32 (default), tf32 (GPUs alone) or bf16, which on the CPU needs AVX-512. */
  compute?: ComputeType;
  /** 0 (default) takes one per physical processor. */
  threads?: number;
}

/** How pictures are encoded. */
export interface EncodeOptions {
  /** One normal draw a latent value, in the layout of the latents; without it the mode is taken. */
  noise?: Float32Array;
  /** Aborting cancels every call of this autoencoder that has not settled. */
  signal?: AbortSignal;
}

/**
 * The frozen autoencoder of latent diffusion (arXiv 2112.10752) from diffusers' folders (class AutoencoderKL):
 * pictures to smaller latents, and back. It owns native memory: call `dispose()`, or declare it with `using`.
 *
 * Pictures are RGB in -1 .. 1, [clips * frames, channels, height, width]; latents are [clips, channels, frames,
 * height / reduction, width / reduction], multiplied by the config's scaling factor, which brings them to about unit
 * variance.
 */
export class AutoencoderKl {
  /** Sizes. */
  readonly shape: AutoencoderShape;
  /** Pixels of a picture for one latent pixel, along each side. */
  readonly reduction: number;
  #native: NativeAutoencoderKl | undefined;
  readonly #files: readonly string[];

  private constructor(
    shape: AutoencoderShape,
    options: z.output<typeof optionsSchema>,
    files: readonly string[],
  ) {
    this.shape = shape;
    this.reduction = 2 ** (shape.channels.length - 1);
    this.#files = files;
    const device = resolveDevice(options.device);
    this.#native = guarded(() => new native.AutoencoderKl(shape, { ...options, device }));
  }

  /**
   * Opens a folder: config.json and diffusion_pytorch_model.safetensors (or model.safetensors).
   * @throws DuetError NOT_FOUND, CORRUPT, UNSUPPORTED, INVALID_ARGUMENT (settings that are not supported, tensors that do
   *   not fit; their names are listed)
   */
  static async fromPretrained(folder: string, options: AutoencoderOptions = {}): Promise<AutoencoderKl> {
    requireText(folder, 'folder');
    const settings = validated(optionsSchema, options, 'AutoencoderKl.fromPretrained');
    const shape = await readAutoencoderShape(folder);
    const files = await weightFiles(folder);
    const model = new AutoencoderKl(shape, settings, files);
    try {
      await model.#call((handle) => handle.load(files));
      return model;
    } catch (error) {
      model.dispose();
      throw error;
    }
  }

  /** The grid of the latents of pictures. */
  latentGrid(grid: PictureGrid): PictureGrid {
    const { reduction } = this;
    const { height, width } = requireObject(grid, 'grid');
    requireInteger(height, 'height', 1);
    requireInteger(width, 'width', 1);
    return { ...grid, height: height / reduction, width: width / reduction };
  }

  /**
   * Scaled latents of pictures.
   * @throws DuetError INVALID_ARGUMENT when sizes do not fit (sides must be multiples of `reduction`), CANCELLED
   */
  async encode(
    pictures: Float32Array,
    grid: PictureGrid,
    options: EncodeOptions = {},
  ): Promise<Float32Array> {
    const { signal, noise } = requireObject(options, 'options');
    return this.#cancellable(signal, (model) => model.encode(pictures, grid, noise));
  }

  /** Mean | log-variance of unscaled latents, [clips * frames, 2 * latent channels, h, w]. */
  moments(pictures: Float32Array, grid: PictureGrid): Promise<Float32Array> {
    return this.#call((model) => model.moments(pictures, grid));
  }

  /** Pictures of scaled latents; `grid` is that of the pictures. Values may lie slightly outside of -1 .. 1. */
  async decode(
    latents: Float32Array,
    grid: PictureGrid,
    options: { signal?: AbortSignal } = {},
  ): Promise<Float32Array> {
    const { signal } = requireObject(options, 'options');
    return this.#cancellable(signal, (model) => model.decode(latents, grid));
  }

  /** Names sizes and weights: SHA-256 of the settings that matter and of the files. */
  async fingerprint(): Promise<string> {
    return [settingsFingerprint(this.shape), ...(await fileFingerprints(this.#files))].join('+');
  }

  /** Bytes of weights with their packed copies, and the most that activations have taken. */
  memory(): { parameterBytes: number; arenaPeakBytes: number } {
    return this.#call((model) => model.memory());
  }

  /** Calls that have not settled reject with CANCELLED. */
  cancel(): void {
    this.#native?.cancel();
  }

  /** Frees the native memory. Calls afterwards throw; a second dispose does nothing. */
  dispose(): void {
    this.#native?.dispose();
    this.#native = undefined;
  }

  /** True once `dispose` was called. */
  get disposed(): boolean {
    return this.#native === undefined;
  }

  /** As `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  async #cancellable<T>(
    signal: AbortSignal | undefined,
    work: (model: NativeAutoencoderKl) => Promise<T>,
  ): Promise<T> {
    throwIfAborted(signal, 'The autoencoder');
    const cancel = () => this.cancel();
    signal?.addEventListener('abort', cancel, { once: true });
    try {
      return await this.#call(work);
    } finally {
      signal?.removeEventListener('abort', cancel);
    }
  }

  #call<T>(work: (model: NativeAutoencoderKl) => T): T {
    const model = this.#native;
    if (!model) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        'Expected a live autoencoder but this one has been disposed of',
      );
    }
    return guarded(() => work(model));
  }
}
