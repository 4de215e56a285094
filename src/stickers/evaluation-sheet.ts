/** A picture of clips and what was filled in for them: one band a clip and task, with the true frames, the network's and the baselines'. */

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
}

export interface EvaluationSheet {
  /** Keeps the first clips of each task. */
  add(clip: SheetClip): void;
  /** Writes a PNG. Rows: truth, network, nearest, blend. */
  save(path: string): Promise<void>;
}

const GAP = 4;

/** @param most clips shown of each task */
export function evaluationSheet(shape: ClipShape, most: number): EvaluationSheet {
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
      const band = (1 + FILLERS.length) * height + GAP;
      const pictures: {
        input: Buffer;
        raw: { width: number; height: number; channels: 4 };
        left: number;
        top: number;
      }[] = [];
      for (const [index, { truth, filled }] of ordered.entries()) {
        for (const [row, values] of [truth, ...FILLERS.map((filler) => filled[filler])].entries()) {
          const rgba = await native.framesFromValues(values, frames, height, width, channels);
          for (let frame = 0; frame < frames; frame++) {
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
