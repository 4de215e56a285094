/** From a batch of clips to what one training step takes: a task, its masks, captions, latents. Everything drawn is named by the batch's number. */

import { Random } from '../data/random.js';
import type { StickerBatch, StickerDataset } from '../data/stickers/dataset.js';
import type { DenoisingBatch } from '../native/stickers.js';
import { dropWords } from './captions.js';
import type { Space } from './space.js';
import { stickerStream } from './streams.js';
import { drawCondition, drawTask, type Task } from './tasks.js';
import type { TextSource } from './text-source.js';

export interface ConditioningOptions {
  space: Space;
  text: TextSource;
  seed: number;
  /** Chance of each caption word to become `#`. */
  wordDrop: number;
  /** false: the loss takes padded frames for real ones. */
  lossMask: boolean;
  signal?: AbortSignal | undefined;
}

export interface Conditioned {
  task: Task;
  /** Of the stickers. */
  names: string[];
  batch: DenoisingBatch;
}

/** @param weights of the tasks; or the task, where it is not drawn */
export async function conditioned(
  data: StickerDataset,
  given: StickerBatch,
  weights: readonly number[] | Task,
  options: ConditioningOptions,
): Promise<Conditioned> {
  const { seed, space, text, wordDrop, lossMask, signal } = options;
  const { frames, size } = data.spec;
  const random = (purpose: 'task' | 'mask' | 'words' | 'latents') =>
    new Random(seed, stickerStream(purpose, given.number));
  const task = typeof weights === 'string' ? weights : drawTask(weights, random('task'));
  const condition = drawCondition(task, given.realFrames, frames, random('mask'));
  const words = random('words');
  const captions = given.samples.map(({ caption }) => dropWords(caption, words, wordDrop));
  const clips = given.samples.length;
  const shape = { clips, frames, height: size, width: size };
  const draws = random('latents');
  const latents = await space.enter(given, shape, (length) => draws.normals(length), signal);
  const encoded = await text.encode(captions, { signal });
  const masked = lossMask ? given.frameMask : new Uint8Array(clips * frames).fill(1);
  // Frames that a clip does not have are never given as a condition, whatever the loss does with them.
  const infoMask = given.frameMask.map((real, index) => real * (condition.mask[index % frames] as number));
  return {
    task,
    names: given.samples.map(({ name }) => name),
    batch: {
      clips,
      height: size / space.reduction,
      width: size / space.reduction,
      latents,
      frameMask: masked,
      infoMask,
      dropText: new Uint8Array(clips).fill(condition.dropText ? 1 : 0),
      ...encoded,
    } as DenoisingBatch,
  };
}
