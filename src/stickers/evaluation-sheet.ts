/**
 * A picture of clips and what was filled in for them: one band a clip and task, with the true frames, the network's and the
 * baselines'. Or only what the network made, for data that may not be passed on.
 */

import { imageLibrary } from '../data/image-library.js';
import { native } from '../native.js';
import { writeAtomic } from '../run/files.js';
import { FILLERS, FILLING_TASKS, type Filler, type FillingTask } from './evaluate.js';
import type { ClipShape } from './evaluation/metrics.js';

interface SheetClip {
  name: string;
  task: FillingTask;
  truth: Float32Array;
  filled: Record<Filler, Float32Array>;
  made: readonly number[];
}

export interface EvaluationSheet {
  /** Keeps the first clips of each task. */
  add(clip: SheetClip): void;
  /** Writes a PNG. Rows: truth, network, nearest, blend; or the network's alone, with gaps for given frames. */
  save(path: string): Promise<void>;
}

const GAP = 4;

/**
 * @param most clips shown of each task
 * @param madeOnly leaves out everything that comes from the data
 */
export function evaluationSheet(shape: ClipShape, most: number, madeOnly = false): EvaluationSheet {
  const clips: SheetClip[] = [];
  return {
    add(clip) {
      if (clips.filter(({ task }) => task === clip.task).length < most) {
        const filled = Object.fromEntries(FILLERS.map((filler) => [filler, clip.filled[filler].slice()]));
        clips.push({ ...clip, truth: clip.truth.slice(), filled: filled as Record<Filler, Float32Array> });
      }
    },
    async save(path) {
      const sharp = await imageLibrary();
      const { channels, frames, height, width } = shape;
      const ordered = FILLING_TASKS.flatMap((task) => clips.filter((clip) => clip.task === task));
      const rows = madeOnly ? 1 : 1 + FILLERS.length;
      const band = rows * height + GAP;
      const pictures: {
        input: Buffer;
        raw: { width: number; height: number; channels: 4 };
        left: number;
        top: number;
      }[] = [];
      for (const [index, { truth, filled, made }] of ordered.entries()) {
        const shown = madeOnly ? [filled.network] : [truth, ...FILLERS.map((filler) => filled[filler])];
        for (const [row, values] of shown.entries()) {
          const rgba = await native.framesFromValues(values, frames, height, width, channels);
          for (let frame = 0; frame < frames; frame++) {
            if (madeOnly && !made.includes(frame)) continue;
            const bytes = width * height * 4;
            pictures.push({
              input: Buffer.from(rgba.subarray(frame * bytes, (frame + 1) * bytes)),
              raw: { width, height, channels: 4 },
              left: frame * (width + 1),
              top: index * band + row * height,
            });
          }
        }
      }
      const canvas = {
        width: frames * (width + 1),
        height: Math.max(ordered.length * band, 1),
        channels: 3 as const,
        background: '#ffffff',
      };
      await writeAtomic(path, await sharp({ create: canvas }).composite(pictures).png().toBuffer());
    },
  };
}
