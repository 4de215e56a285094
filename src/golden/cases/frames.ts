/** frames: key frames, and pictures on their way to the network. */

import { z } from 'zod';
import { native } from '../../native.js';
import { equalPositions, keyFrames } from '../../stickers/key-frames.js';
import { Comparison, floats, type GoldenCase } from '../case.js';
import { readSettings, readTensors } from '../files.js';
import { EXACT, PICTURES } from '../tolerance.js';

/** First row and column of stored crops. */
const CROP = 100;

const schema = z.looseObject({
  by_k: z.record(
    z.string(),
    z.array(z.looseObject({ source_length: z.int(), padded_length: z.int(), indices: z.array(z.int()) })),
  ),
});

export async function frameCases(folder: string): Promise<GoldenCase[]> {
  const tensors = await readTensors(folder, 'preprocess.safetensors');
  const bytes = (name: string) => tensors[name]?.data as Uint8Array;
  const names = Object.keys(tensors).filter((name) => name.endsWith('.rgba'));
  const pictures = names.map((full) => {
    const name = full.slice(0, -'.rgba'.length);
    return {
      name: `frames/${name}`,
      async run() {
        const comparison = new Comparison(this.name);
        const [height = 0, width = 0] = tensors[full]?.shape ?? [];
        const [outHeight = 0, outWidth = 0] = tensors[`${name}.resized_rgba`]?.shape ?? [];
        const resized = await native.resizeRgba(bytes(full), 1, width, height, outWidth, outHeight);
        comparison.tensor('resized', resized, bytes(`${name}.resized_rgba`), EXACT);
        const rgb = await native.compositeOnWhite(resized, false);
        comparison.tensor('on white', rgb, bytes(`${name}.composited_rgb`), EXACT);
        const values = await native.stackClips([{ strip: rgb, frames: 1 }], 1, outHeight, outWidth, 3);
        const whole = tensors[`${name}.tensor`];
        if (whole) comparison.tensor('values', values, floats(whole), PICTURES);
        const crop = tensors[`${name}.tensor_crop`];
        if (crop) {
          const inner = cropOf(values, outHeight, outWidth, CROP, crop.shape.at(-1) ?? 0);
          comparison.tensor('values', inner, floats(crop), PICTURES);
        }
        return comparison.outcome();
      },
    };
  });
  const table: GoldenCase = {
    name: 'frames/composite_table',
    async run() {
      const comparison = new Comparison(this.name);
      const expected = bytes('composite_table');
      const rgba = Uint8Array.from({ length: 4 * expected.length }, (_, index) => {
        const cell = Math.floor(index / 4);
        return index % 4 === 3 ? cell % 256 : Math.floor(cell / 256);
      });
      const rgb = await native.compositeOnWhite(rgba, false);
      comparison.tensor(
        'red',
        rgb.filter((_, index) => index % 3 === 0),
        expected,
        EXACT,
      );
      return comparison.outcome();
    },
  };
  const keys: GoldenCase = {
    name: 'frames/keyframe_indices',
    async run() {
      const comparison = new Comparison(this.name);
      const { by_k } = await readSettings(schema, folder, 'keyframe_indices.json');
      for (const [k, rows] of Object.entries(by_k)) {
        for (const { source_length, padded_length, indices } of rows) {
          const features = Array.from({ length: source_length }, () => []);
          const what = `${k} of ${source_length}`;
          comparison.tensor(what, await keyFrames('equal', features, Number(k)), indices, EXACT);
          if (source_length >= Number(k))
            comparison.tensor(what, equalPositions(padded_length, Number(k)), indices, EXACT);
        }
      }
      return comparison.outcome();
    },
  };
  return [keys, table, ...pictures];
}

/** Rows and columns first..first+size-1 of planar values [3, height, width]. */
function cropOf(values: Float32Array, height: number, width: number, first: number, size: number): number[] {
  return Array.from({ length: 3 * size * size }, (_, index) => {
    const channel = Math.floor(index / (size * size));
    const row = first + (Math.floor(index / size) % size);
    return values[(channel * height + row) * width + first + (index % size)] as number;
  });
}
