/** The parts that training and generation share: network, space, text. A run folder's `pipeline.json` says how to open them again. */

import { join } from 'node:path';
import { z } from 'zod';
import { readJson } from '../data/files.js';
import type { DeviceName } from '../device.js';
import { DuetError } from '../errors.js';
import { Dfgn } from '../models/dfgn.js';
import { type DfgnConfig, dfgnConfig, dfgnConfigSchema } from '../models/dfgn-config.js';
import type { ComputeType } from '../native/core.js';
import { writeAtomic } from '../run/files.js';
import { validated } from '../validation.js';
import { CaptionText } from './caption-text.js';
import { CaptionVocabulary } from './caption-vocabulary.js';
import { PREDICTIONS } from './prediction.js';
import { LatentSpace, PixelSpace, type Space } from './space.js';
import { PretrainedText, type TextSource } from './text-source.js';

const VOCABULARY = 'vocab.txt';
const PIPELINE = 'pipeline.json';

const pipelineSchema = z.strictObject({
  network: dfgnConfigSchema,
  space: z.union([z.literal('pixels'), z.strictObject({ autoencoder: z.string() })]),
  /** Pixels a side that become channels. */
  patch: z.int().min(1).max(4),
  text: z.union([
    z.literal('captions'),
    z.strictObject({ encoder: z.string(), second: z.string().optional(), length: z.int().optional() }),
  ]),
  prediction: z.enum(PREDICTIONS),
  /** Pixels a side of the clips. */
  size: z.int().min(1).max(2048),
  channels: z.union([z.literal(3), z.literal(4)]),
});

/**
 * How a pipeline is opened: pipeline.json of a run folder.
 * @interface
 */
export type SavedPipeline = z.output<typeof pipelineSchema>;

export interface MachineSettings {
  device: DeviceName;
  compute: ComputeType;
  threads: number;
}

export type PipelineSettings = SavedPipeline & MachineSettings;

/** What a pipeline is made of, opened. */
export interface Parts {
  /** Predicts the noise. */
  network: Dfgn;
  /** What the network works in: pixels, or latents of an autoencoder. */
  space: Space;
  /** Where its text states come from. */
  text: TextSource;
  /** Names what decides the numbers of space and text. */
  fingerprint(): Promise<Record<string, string>>;
  /** Frees the native memory of all parts. */
  dispose(): void;
}

/** Layers and heads of the text encoder that is trained with a network. */
const CAPTION_ENCODER = { num_layers: 2, num_heads: 4 };

/**
 * Opens everything.
 * @param settings with captions to make a vocabulary from, or the run folder that has one; `cache`: folder for latents
 */
export async function openParts(
  settings: PipelineSettings & {
    seed?: number;
    captions?: readonly string[];
    runDir?: string;
    cache?: string | undefined;
  },
): Promise<Parts> {
  const { network: config, seed = 0, compute, threads, device } = settings;
  const opened: { dispose(): void }[] = [];
  const keep = <T extends { dispose(): void }>(part: T): T => {
    opened.push(part);
    return part;
  };
  const dispose = () => {
    for (const part of opened.splice(0)) part.dispose();
  };
  try {
    const text = keep(await openText(settings));
    const whole = text instanceof CaptionText ? withCaptionEncoder(config, text) : config;
    const space = keep(await openSpace(settings));
    const network = keep(Dfgn.create(whole, { seed, compute, threads, device }));
    const fingerprint = async () => ({ space: await space.fingerprint(), text: await text.fingerprint() });
    return { network, space, text, fingerprint, dispose };
  } catch (error) {
    dispose();
    throw error;
  }
}

/** Writes what `readPipeline` reads. */
export async function writePipeline(runDir: string, settings: PipelineSettings, parts: Parts): Promise<void> {
  const { device: _, compute: _c, threads: _t, ...saved } = settings;
  if (parts.text instanceof CaptionText) await parts.text.vocabulary.save(join(runDir, VOCABULARY));
  const pipeline: SavedPipeline = { ...saved, network: parts.network.config };
  await writeAtomic(join(runDir, PIPELINE), `${JSON.stringify(pipeline, null, 2)}\n`);
}

/** @throws DuetError NOT_FOUND when the folder is not one of a sticker run, CORRUPT when its file is damaged */
export async function readPipeline(runDir: string): Promise<SavedPipeline> {
  const path = join(runDir, PIPELINE);
  const json = await readJson(path, 'sticker pipeline', 'duet stickers train makes such a folder');
  const saved = validated(pipelineSchema, json, path, 'CORRUPT');
  const { space, patch, size, channels } = saved;
  const network = dfgnConfig(saved.network, path);
  const fits = network.in_channels === channels * patch ** 2 && size % patch === 0;
  if (space === 'pixels' && !fits) {
    throw new DuetError(
      'CORRUPT',
      `Expected in_channels of channels * patch^2 and a size that patch divides in ${path} but received in_channels ` +
        `${network.in_channels}, channels ${channels}, patch ${patch}, size ${size}; put back the file as the training wrote it`,
    );
  }
  return { ...saved, network };
}

function withCaptionEncoder(config: DfgnConfig, { vocabulary, length }: CaptionText): DfgnConfig {
  const encoder = { ...CAPTION_ENCODER, vocab_size: vocabulary.size, max_length: length };
  return dfgnConfig({ ...config, t5_dim: null, caption_encoder: encoder });
}

async function openText(
  settings: PipelineSettings & { captions?: readonly string[]; runDir?: string },
): Promise<TextSource> {
  const { text, network, captions, runDir, device, compute, threads } = settings;
  if (text !== 'captions') {
    const widths = { text: network.cross_attention_dim, t5: network.t5_dim };
    return PretrainedText.open(text, widths, { device, compute, threads });
  }
  if (runDir !== undefined) {
    const vocabulary = await CaptionVocabulary.load(join(runDir, VOCABULARY));
    const length = network.caption_encoder?.max_length ?? 8;
    return new CaptionText(vocabulary, length);
  }
  const vocabulary = CaptionVocabulary.fromCaptions(captions ?? []);
  return new CaptionText(vocabulary, CaptionText.lengthFor(vocabulary, captions ?? []));
}

async function openSpace(settings: PipelineSettings & { cache?: string | undefined }): Promise<Space> {
  const { space, patch, channels, device, compute, threads, cache } = settings;
  return space === 'pixels'
    ? new PixelSpace(channels, patch)
    : LatentSpace.open(space.autoencoder, { device, compute, threads, cache });
}
