/** What a set of animated stickers can be told. */

import { z } from 'zod';
import { KEY_FRAME_METHODS } from '../../stickers/key-frames.js';
import type { CaptionOptions, StickerSample } from './captions.js';
import type { ClipSpec } from './clip.js';
import { ANIMATION_LIMITS, type AnimationLimits } from './limits.js';

/**
 * How a folder of stickers is read. Defaults: 8 frames of 64 pixels a side, 3 channels, key frames at equal
 * distances, padding.
 */
export interface StickerOptions extends Partial<ClipSpec>, CaptionOptions {
  /** Folder for decoded clips, and for latents of a training. Without it they are only kept in memory. */
  cache?: string;
  /** Bytes of clips kept in memory. Default 1 GiB. */
  memoryBytes?: number;
  /** For messages. Default: the name of the folder. */
  name?: string;
  /** What one animation may ask of this machine; larger ones are skipped. */
  limits?: Partial<AnimationLimits>;
}

const limit = (most: number) => z.int().min(1).default(most);

/** The options with all defaults. */
export const stickerOptionsSchema = z.strictObject({
  frames: z.number().int().min(1).max(256).default(8),
  size: z.number().int().min(4).max(2048).default(64),
  channels: z.union([z.literal(3), z.literal(4)], 'Expected 3 or 4').default(3),
  keyFrames: z.enum(KEY_FRAME_METHODS).default('equal'),
  shortClips: z.enum(['pad', 'bounce']).default('pad'),
  minFrames: z.number().int().min(1).max(256).default(2),
  cache: z.string().min(1).optional(),
  memoryBytes: z
    .int()
    .min(0)
    .default(2 ** 30),
  name: z.string().optional(),
  captionField: z.string().optional(),
  allowMissingCaptions: z.boolean().optional(),
  limits: z
    .strictObject({
      maxFrames: limit(ANIMATION_LIMITS.maxFrames),
      maxPixels: limit(ANIMATION_LIMITS.maxPixels),
      maxTotalPixels: limit(ANIMATION_LIMITS.maxTotalPixels),
      maxFileBytes: limit(ANIMATION_LIMITS.maxFileBytes),
    })
    .prefault({}),
});

/** Which batches are made, in which order. */
export interface StickerBatchOptions {
  /** Clips a batch. */
  batchSize: number;
  /** Of the order. */
  seed: number;
  /** Number of the first batch, for resuming. Default 0. */
  first?: number;
  /** Number of batches; default without end. */
  count?: number;
  /** Batches prepared ahead. Default 2. */
  prefetch?: number;
  /** Ends with CANCELLED. */
  signal?: AbortSignal | undefined;
}

/** Which stickers are held out. */
export interface SplitOptions {
  /** Share of the stickers that is held out. Default 0.1. */
  heldOut?: number;
  /** Default 1. */
  seed?: number;
  /** Stickers for which this is equal stay together. Default: the caption, or the name where it is empty. */
  together?: (sample: StickerSample) => string;
}
