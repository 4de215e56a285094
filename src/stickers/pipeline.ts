/** Stickers from a trained network. */

import { z } from 'zod';
import {
  invalid,
  requireBoolean,
  requireFunction,
  requireInstance,
  requireInteger,
  requireKnown,
  requireList,
  requireObject,
  requireText,
} from '../arguments.js';
import { computeSchema, type DeviceName, deviceSchema } from '../device.js';
import { DuetError, throwIfAborted } from '../errors.js';
import type { ComputeType } from '../native/core.js';
import { validated } from '../validation.js';
import { checkTiming } from './animation.js';
import { StickerCheckpoints } from './checkpoints.js';
import {
  DENOISING_HOOKS,
  type DenoisingHooks,
  denoise,
  SAMPLING_OPTIONS,
  type SamplingOptions,
} from './denoising.js';
import { type GivenFrame, knownFrames } from './known-frames.js';
import { openParts, type Parts, readPipeline, type SavedPipeline } from './parts.js';
import { Sticker } from './sticker.js';
import { applyMasks } from './tasks.js';

/** Where a pipeline computes. */
export interface PipelineOptions {
  /** Where it computes. Default `cpu`. */
  device?: DeviceName;
  /** Large products in fp32 (default), tf32 (GPUs alone) or bf16, which needs a processor with AVX-512. */
  compute?: ComputeType;
  /** 0 (default) takes one per physical processor. */
  threads?: number;
}

/** What a sticker is made from, and how. */
export interface GenerateOptions extends SamplingOptions {
  /** Absent or empty: the text is dropped. */
  prompt?: string;
  /** What the sticker should not show. Absent: no text, as the network saw it where the text was dropped. */
  negativePrompt?: string;
  /** Given frames by position: pictures of any size, or files. */
  keep?: Readonly<Record<number, GivenFrame>>;
  /** Frames of the sticker, up to the network's. Default: as many as the network has. */
  frames?: number;
  /** Put given frames back exactly, as the network only follows them. Default true. */
  restoreGiven?: boolean;
  /** Milliseconds a frame. Default 100. */
  delay?: number;
  /** Times it is played; 0 (default) = for ever. */
  loop?: number;
  /** Ends with CANCELLED between two steps. */
  signal?: AbortSignal;
  /** Told every `previewEvery` steps what the sticker would look like. */
  onPreview?: (sticker: Sticker, step: number, steps: number) => void | Promise<void>;
  /** Default 5. */
  previewEvery?: number;
  /** Told after every step. */
  onStep?: (step: number, steps: number) => void;
}

const GENERATE_OPTIONS = {
  ...SAMPLING_OPTIONS,
  prompt: true,
  negativePrompt: true,
  keep: true,
  frames: true,
  restoreGiven: true,
  delay: true,
  loop: true,
  signal: true,
  onPreview: true,
  previewEvery: true,
  onStep: true,
} as const satisfies Record<keyof GenerateOptions, true>;

const DENOISE_INPUT = { known: true, frames: true, prompts: true, negativePrompts: true };

const machineSchema = z.strictObject({
  device: deviceSchema,
  compute: computeSchema,
  threads: z.int().min(0).default(0),
});

/**
 * Stickers from a trained network: from a prompt, a picture, or any given frames (RDTF, arXiv 2503.17735).
 *
 * What is asked for follows from what is given: a prompt alone is text-to-sticker, frames without a prompt drop the
 * text as picture-to-sticker does in training, frames and a prompt are interpolation or prediction, depending on
 * where they are. It owns native memory: call `dispose()`, or declare it with `using`.
 */
export class StickerPipeline {
  /** How the parts are opened, as in pipeline.json. */
  readonly settings: SavedPipeline;
  /** Steps the network was trained for. */
  readonly trainedSteps: number;
  /** Network, space and text. */
  readonly parts: Parts;
  /** Newer checkpoints that could not be read. */
  readonly damaged: readonly string[];

  private constructor(
    settings: SavedPipeline,
    trainedSteps: number,
    parts: Parts,
    damaged: readonly string[],
  ) {
    this.settings = settings;
    this.trainedSteps = trainedSteps;
    this.parts = parts;
    this.damaged = damaged;
  }

  /**
   * Opens the newest checkpoint of a training's run folder that can be read, with the moving averages of its weights where they
   * are kept.
   * @throws DuetError NOT_FOUND when the folder has no pipeline or no checkpoint, CORRUPT when none can be read; as the parts' own `fromPretrained`
   */
  static async load(runDir: string, options: PipelineOptions = {}): Promise<StickerPipeline> {
    const { device, compute, threads } = validated(machineSchema, options, 'StickerPipeline.load');
    requireText(runDir, 'runDir');
    const settings = await readPipeline(runDir);
    const checkpoints = new StickerCheckpoints(runDir, true);
    const parts = await openParts({ ...settings, device, compute, threads, runDir });
    try {
      const step = await checkpoints.loadWeights(parts.network);
      return new StickerPipeline(settings, step, parts, checkpoints.damaged);
    } catch (error) {
      parts.dispose();
      throw error;
    }
  }

  /** Frames the network makes at once. */
  get frames(): number {
    return this.settings.network.num_frames;
  }

  /**
   * Makes one sticker. The same options give the same one.
   * @throws DuetError INVALID_ARGUMENT for impossible options and options there are not, CANCELLED
   */
  async generate(options: GenerateOptions = {}): Promise<Sticker> {
    const all = this.frames;
    const {
      keep = {},
      frames = all,
      prompt = '',
      negativePrompt,
      restoreGiven = true,
    } = requireKnown(options, 'options', GENERATE_OPTIONS);
    const { onPreview, previewEvery = 5, onStep } = options;
    const { size, channels } = this.settings;
    requireInteger(frames, 'frames (the network has the most)', 1, all);
    requireInteger(previewEvery, 'previewEvery', 1);
    requireText(prompt, 'prompt');
    if (Symbol.iterator in requireObject(keep, 'keep'))
      throw invalid('object of frames by position', 'keep', keep);
    requireBoolean(restoreGiven, 'restoreGiven');
    if (negativePrompt !== undefined) requireText(negativePrompt, 'negativePrompt');
    checkTiming(options);
    for (const [name, call] of Object.entries({ onPreview, onStep }))
      if (call !== undefined) requireFunction(call, name);
    throwIfAborted(options.signal, 'Generating');
    const outside = Object.keys(keep).find((key) => Number(key) >= frames);
    if (outside !== undefined) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected positions from 0 to ${frames - 1} in keep (frames of the sticker) but received ${outside}`,
      );
    }
    const known = await knownFrames(keep, { frames: all, size, channels });
    const shape = { channels, frames: all, height: size, width: size };
    const finish = async (values: Float32Array, restore: boolean) => {
      const clip = { clips: 1, frames: all, height: size, width: size };
      const pictures = await this.parts.space.leave(values, clip, options.signal);
      if (restore) putBack(pictures, known, channels, all);
      const { delay, loop } = options;
      const show = { frames, ...(delay !== undefined && { delay }), ...(loop !== undefined && { loop }) };
      return Sticker.fromValues(pictures, shape, show);
    };
    const values = await this.denoise(
      {
        known: [known],
        frames: [frames],
        ...(prompt.trim() !== '' && { prompts: [prompt] }),
        ...(negativePrompt !== undefined && { negativePrompts: [negativePrompt] }),
      },
      samplingOf(options),
      {
        signal: options.signal,
        onStep: async (original, index, steps) => {
          onStep?.(index + 1, steps);
          if (onPreview && (index + 1) % previewEvery === 0 && index + 1 < steps)
            await onPreview(await finish(original(), restoreGiven), index + 1, steps);
        },
      },
    );
    return finish(values, restoreGiven);
  }

  /**
   * Several clips at once, in the network's space.
   * @param input known frames, number of real frames and texts of each clip
   * @returns [B, channels of the space, frames, height, width]
   */
  async denoise(
    input: {
      known: readonly { mask: Uint8Array; values: Float32Array }[];
      frames: readonly number[];
      prompts?: readonly string[];
      negativePrompts?: readonly string[];
    },
    options: SamplingOptions = {},
    hooks: DenoisingHooks = {},
  ): Promise<Float32Array> {
    const { network, space, text } = this.parts;
    const { size, channels } = this.settings;
    const all = this.frames;
    requireKnown(options, 'sampling options', SAMPLING_OPTIONS);
    const { known } = requireKnown(input, 'input', DENOISE_INPUT);
    const clips = requireList(known, 'known', requireObject).length;
    requireList(input.frames, 'frames', (count, name) => requireInteger(count, name, 1, all));
    for (const [index, { mask, values }] of known.entries()) {
      requireInstance(mask, Uint8Array, `mask of known[${index}]`);
      const expected = channels * all * size * size;
      if (requireInstance(values, Float32Array, `values of known[${index}]`).length !== expected)
        throw invalid(`${expected} numbers`, `values of known[${index}]`, values);
    }
    const { signal } = requireKnown(hooks, 'hooks', DENOISING_HOOKS);
    throwIfAborted(signal, 'Generating');
    const values = new Float32Array(clips * (known[0]?.values.length ?? 0));
    for (const [index, one] of known.entries()) values.set(one.values, index * one.values.length);
    const shape = { clips, frames: all, height: size, width: size };
    // The mean of an autoencoder's distribution: no noise.
    const latents = await space.enter({ values }, shape, (length) => new Float32Array(length), signal);
    const frameMask = Uint8Array.from({ length: clips * all }, (_, i) =>
      i % all < (input.frames[Math.floor(i / all)] as number) ? 1 : 0,
    );
    const given = Uint8Array.from(known.flatMap(({ mask }) => [...mask]));
    return denoise(
      network,
      {
        clips,
        prediction: this.settings.prediction,
        height: size / space.reduction,
        width: size / space.reduction,
        imageLatents: applyMasks(
          latents,
          { batch: clips, channels: space.channels, frames: all },
          given.map((one, i) => one * (frameMask[i] as number)),
        ),
        frameMask,
        ...(input.prompts && { text: await text.encode(input.prompts, { signal }) }),
        ...(input.negativePrompts && { negative: await text.encode(input.negativePrompts, { signal }) }),
      },
      options,
      hooks,
    );
  }

  /** Frees the native memory. A second dispose does nothing. */
  dispose(): void {
    this.parts.dispose();
  }

  /** As `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function samplingOf(options: GenerateOptions): SamplingOptions {
  return Object.fromEntries(Object.entries(options).filter(([name]) => name in SAMPLING_OPTIONS));
}

function putBack(
  pictures: Float32Array,
  known: { mask: Uint8Array; values: Float32Array },
  channels: number,
  frames: number,
): void {
  const pixels = pictures.length / (channels * frames);
  for (let row = 0; row < channels * frames; row++) {
    if (!known.mask[row % frames]) continue;
    const piece = known.values.subarray(row * pixels, (row + 1) * pixels);
    pictures.set(piece, row * pixels);
  }
}
