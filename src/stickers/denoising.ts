/** The sampling loop around the network. */

import {
  invalid,
  requireFunction,
  requireInstance,
  requireInteger,
  requireKnown,
  requireNumber,
  requireObject,
} from '../arguments.js';
import { Random } from '../data/random.js';
import { DuetError, shown } from '../errors.js';
import { Dfgn } from '../models/dfgn.js';
import type { PredictionBatch } from '../native/stickers.js';
import { noiseOf, originalOf, type Prediction } from './prediction.js';
import { Ddim } from './samplers/ddim.js';
import { DpmSolver } from './samplers/dpm-solver.js';
import { type Sampler, type Spacing, sample } from './samplers/sampler.js';
import { NoiseSchedule } from './samplers/schedule.js';
import { stickerStream } from './streams.js';
import type { CaptionInput } from './text-source.js';

/** All samplers: DPM-Solver++ (2M) and DDIM. */
export const SAMPLERS = ['dpm-solver', 'ddim'] as const;
/** Name of a sampler. */
export type SamplerName = (typeof SAMPLERS)[number];

/** How noise becomes a clip. */
export interface SamplingOptions {
  /** Default `dpm-solver` (DPM-Solver++ 2M); `ddim` is the published one. */
  sampler?: SamplerName;
  /** Evaluations of the network. Default 25 for dpm-solver, 50 for ddim. */
  steps?: number;
  /** DDIM's share of fresh noise, 0 to 1. Default 0. */
  eta?: number;
  /** Which timesteps are visited. Default `log-snr` for dpm-solver, `leading` for ddim. */
  spacing?: Spacing;
  /** Strength of the text; 1 leaves out the unconditional pass. Default 4. */
  guidance?: number;
  /** Of the initial noise. Default 0. */
  seed?: number;
}

/** All of SamplingOptions. */
export const SAMPLING_OPTIONS = {
  sampler: true,
  steps: true,
  eta: true,
  spacing: true,
  guidance: true,
  seed: true,
} as const satisfies Record<keyof SamplingOptions, true>;

/** What clips are made from. */
export interface DenoisingInput {
  /** Number of clips. */
  clips: number;
  /** What the network predicts. Default `epsilon`, the noise. */
  prediction?: Prediction;
  /** Of the network's space. */
  height: number;
  /** As height. */
  width: number;
  /** [clips, channels, frames, height, width], zeros where nothing is given */
  imageLatents: Float32Array;
  /** [clips, frames]; absent: all frames are real */
  frameMask?: Uint8Array;
  /** Of `clips` texts; absent: zero states, as the network saw them where the text was dropped. */
  text?: CaptionInput;
  /** Of `clips` texts, for guidance; absent: the text is dropped there too. */
  negative?: CaptionInput;
}

/** Watching and stopping a sampling. */
export interface DenoisingHooks {
  /** The clip as the network sees it after a step, x0: for previews. */
  onStep?: (original: () => Float32Array, index: number, steps: number) => void | Promise<void>;
  /** Ends with CANCELLED between two steps. */
  signal?: AbortSignal | undefined;
}

const DENOISING_INPUT = {
  clips: true,
  prediction: true,
  height: true,
  width: true,
  imageLatents: true,
  frameMask: true,
  text: true,
  negative: true,
} as const satisfies Record<keyof DenoisingInput, true>;

/** All of DenoisingHooks. */
export const DENOISING_HOOKS = {
  onStep: true,
  signal: true,
} as const satisfies Record<keyof DenoisingHooks, true>;

/**
 * The sampling loop around the network: from noise to clips, with guidance (arXiv 2207.12598), for any number of
 * clips at once. As published, a batch goes through the network with the unconditional text first; the native pass
 * shares what does not depend on the text. Where both texts are dropped both halves would be equal, so guidance is left
 * out.
 * @returns [clips, channels, frames, height, width] in the network's space
 * @throws DuetError INVALID_ARGUMENT for options that cannot work, CANCELLED
 */
export async function denoise(
  network: Dfgn,
  input: DenoisingInput,
  options: SamplingOptions = {},
  hooks: DenoisingHooks = {},
): Promise<Float32Array> {
  requireInstance(network, Dfgn, 'network');
  const { guidance = 4, seed = 0 } = requireKnown(options, 'sampling options', SAMPLING_OPTIONS);
  const { onStep, signal } = requireKnown(hooks, 'hooks', DENOISING_HOOKS);
  requireNumber(guidance, 'guidance');
  requireInstance(requireKnown(input, 'input', DENOISING_INPUT).imageLatents, Float32Array, 'imageLatents');
  requireInteger(input.clips, 'clips', 1);
  for (const text of ['text', 'negative'] as const)
    if (input[text] !== undefined)
      requireInteger(requireObject(input[text], text).textTokens, `textTokens of ${text}`, 1);
  const schedule = new NoiseSchedule();
  const sampler = samplerOf(schedule, options);
  const guided = (input.text ?? input.negative) !== undefined && guidance !== 1;
  const texts = textsOf(network, input, guided);
  const { clips, height, width, imageLatents } = input;
  const initial = new Random(seed, stickerStream('initial', 0)).normals(imageLatents.length);
  if (onStep !== undefined) requireFunction(onStep, 'onStep');
  let output: Float32Array = initial;
  const predict = async (current: Float32Array, timestep: number): Promise<Float32Array> => {
    const batch = {
      clips,
      height,
      width,
      ...texts,
      noisyLatents: current,
      imageLatents,
      timesteps: new Float32Array(clips).fill(timestep),
      ...(input.frameMask && { frameMask: input.frameMask }),
    } as PredictionBatch;
    const predicted = await network.predict(batch, guided ? guidance : undefined);
    output = noiseOf(input.prediction ?? 'epsilon', schedule, current, predicted, timestep);
    return output;
  };
  let before = initial;
  return sample(sampler, initial, predict, {
    noise: (length, index) => new Random(seed, stickerStream('initial', index + 1)).normals(length),
    ...(signal && { signal }),
    onStep: async (current, index, timestep) => {
      const noisy = before;
      before = current;
      const original = () => originalOf(schedule, noisy, output, timestep);
      await onStep?.(original, index, sampler.timesteps.length);
    },
  });
}

function samplerOf(schedule: NoiseSchedule, options: SamplingOptions): Sampler {
  const { sampler = 'dpm-solver', steps, eta, spacing } = options;
  const common = { ...(steps !== undefined && { steps }), ...(spacing !== undefined && { spacing }) };
  switch (sampler) {
    case 'ddim':
      return new Ddim(schedule, { ...common, ...(eta !== undefined && { eta }) });
    case 'dpm-solver':
      if (eta) {
        throw new DuetError(
          'INVALID_ARGUMENT',
          `Expected eta 0 for dpm-solver but received ${shown(eta)}; use ddim`,
        );
      }
      return new DpmSolver(schedule, { steps: 25, spacing: 'log-snr', ...common });
    default:
      throw invalid(`one of ${SAMPLERS.join(', ')}`, 'the sampler', sampler);
  }
}

/** The texts of a pass; with guidance the unconditional ones first. */
function textsOf(
  network: Dfgn,
  { clips, text, negative }: DenoisingInput,
  guided: boolean,
): CaptionInput & { dropText?: Uint8Array } {
  if (!guided) return text ?? emptyStates(network, clips, { textTokens: 1, t5Tokens: 1 });
  const one = (text ?? negative) as CaptionInput;
  if (text && negative) return joined(negative, text);
  if (one.tokens === undefined) {
    const none = emptyStates(network, clips, one);
    return joined(negative ?? none, text ?? none);
  }
  // The network's own text encoder: any text will do where its states are dropped.
  const dropped = (row: number) => (row < clips ? !negative : !text);
  const dropText = Uint8Array.from({ length: 2 * clips }, (_, row) => (dropped(row) ? 1 : 0));
  return { ...joined(one, one), dropText };
}

function emptyStates(
  { config }: Dfgn,
  clips: number,
  { textTokens, t5Tokens = 1 }: { textTokens: number; t5Tokens?: number },
): CaptionInput {
  const text = new Float32Array(clips * textTokens * config.cross_attention_dim);
  if (config.t5_dim === null) return { textTokens, text };
  return { textTokens, text, t5Tokens, t5: new Float32Array(clips * t5Tokens * config.t5_dim) };
}

function joined(first: CaptionInput, second: CaptionInput): CaptionInput {
  if (first.textTokens !== second.textTokens || first.t5Tokens !== second.t5Tokens) {
    throw new DuetError('INVALID_ARGUMENT', 'Expected texts of equal numbers of tokens for guidance');
  }
  const both = (a?: Float32Array, b?: Float32Array) => {
    if (!a || !b) return undefined;
    const out = new Float32Array(a.length + b.length);
    out.set(a);
    out.set(b, a.length);
    return out;
  };
  const text = both(first.text, second.text);
  const t5 = both(first.t5, second.t5);
  const tokens =
    first.tokens && second.tokens ? Int32Array.from([...first.tokens, ...second.tokens]) : undefined;
  return {
    textTokens: second.textTokens,
    ...(text && { text }),
    ...(tokens && { tokens }),
    ...(t5 && second.t5Tokens !== undefined && { t5, t5Tokens: second.t5Tokens }),
  };
}
