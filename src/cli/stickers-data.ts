/** Decoding stickers in a command: how far it is, and what had to be skipped. */

import type { StickerDataset } from '../data/stickers/dataset.js';
import type { ProgressLine } from '../run/progress.js';

/** @throws DuetError CANCELLED, INVALID_ARGUMENT when no sticker can be used */
export async function decoded(
  data: StickerDataset,
  progress: ProgressLine,
  signal: AbortSignal,
): Promise<StickerDataset> {
  const usable = await data.prepare({
    signal,
    onProgress: (done, total) => progress.update(`decoding sticker ${done}/${total}`),
  });
  const { skipped, cacheProblem } = data;
  if (cacheProblem !== undefined) progress.note(cacheProblem);
  if (skipped.size > 0) progress.note(`${data.name}: ${skipped}; for example ${skipped.examples[0]}`);
  return usable;
}
