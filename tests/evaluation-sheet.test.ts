/** Contact sheets of an evaluation: everything side by side, or nothing that comes from the data. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { evaluationSheet } from '../src/stickers/evaluation-sheet.js';

const SHAPE = { channels: 3, frames: 3, height: 2, width: 2 } as const;
const VALUES = SHAPE.channels * SHAPE.frames * SHAPE.height * SHAPE.width;
/** -1 is black: nothing of a true frame is white as the ground of the sheet is. */
const clip = {
  name: 'a',
  task: 'interpolation',
  truth: new Float32Array(VALUES).fill(-1),
  filled: {
    network: new Float32Array(VALUES).fill(-1),
    nearest: new Float32Array(VALUES).fill(-1),
    blend: new Float32Array(VALUES).fill(-1),
  },
  made: [1],
} as const;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'duet-sheet-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function blackFrames(madeOnly: boolean): Promise<{ height: number; columns: boolean[] }> {
  const sheet = evaluationSheet(SHAPE, 1, madeOnly);
  sheet.add(clip);
  sheet.add({ ...clip, name: 'one too many' });
  const path = join(folder, `${madeOnly}.png`);
  await sheet.save(path);
  const { data, info } = await sharp(path).raw().toBuffer({ resolveWithObject: true });
  const columns = [0, 1, 2].map((frame) => data[frame * (SHAPE.width + 1) * info.channels] === 0);
  return { height: info.height, columns };
}

test('truth, network and baselines in all frames, of as many clips as asked for', async () => {
  expect(await blackFrames(false)).toEqual({ height: 4 * SHAPE.height + 4, columns: [true, true, true] });
});

test('made frames alone', async () => {
  expect(await blackFrames(true)).toEqual({ height: SHAPE.height + 4, columns: [false, true, false] });
});
