// detailBranch against a chain of plain convolutions and norms, and weightedSum.

import { describe, expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import { checkOp, EXACT_ARITHMETIC, floats } from '../support/reference/check.js';
import { f32, normals } from '../support/reference/numbers.js';
import { detailBranch, type Grid, rowsOf } from '../support/reference/pictures.js';

const epsilon = 1e-6;

function inputs(at: Grid, channels: number): Record<string, TensorData> {
  const { frames } = at;
  const all: Record<string, TensorData> = { x: f32([rowsOf(at), channels], 1) };
  for (const [i, block] of ['conv_layers.0', 'conv_layers.1'].entries())
    for (const [j, layer] of ['1', '2'].entries()) {
      const seed = 10 * (2 * i + j + 1);
      all[`${block}.norm${layer}.weight`] = f32([frames], normals(frames, seed, 0.3, 1));
      all[`${block}.norm${layer}.bias`] = f32([frames], seed + 1, 0.5);
      all[`${block}.conv${layer}.weight`] = f32([frames, frames, 3, 3], seed + 2, 1 / Math.sqrt(9 * frames));
      all[`${block}.conv${layer}.bias`] = f32([frames], seed + 3, 0.5);
    }
  return all;
}

describe('detailBranch', () => {
  test.each([
    // clips, frames, height, width, channels
    [1, 8, 2, 2, 1],
    [2, 8, 5, 7, 3],
    [1, 8, 4, 4, 16],
    [2, 8, 3, 2, 17],
    [1, 8, 1, 1, 33],
    [1, 8, 2, 6, 20],
    [1, 1, 3, 3, 2],
    [1, 3, 4, 5, 5],
    [2, 5, 2, 3, 18],
    [1, 11, 2, 9, 2],
    [2, 2, 1, 2, 33],
    [1, 4, 47, 46, 1], // more than fits into the shared memory of a GPU
  ])('%i clips of %i frames of %i x %i with %i channels', async (clips, frames, height, width, channels) => {
    const at = { clips, frames, height, width };
    await checkOp({
      op: 'detailBranch',
      inputs: inputs(at, channels),
      attributes: { ...at, epsilon },
      samples: 10,
      floor: 1, // a pixel or two leave next to no variance, and gradients are what is left of large terms
      tolerance: 2e-5, // four convolutions and norms one after another
      reference: ({ x, ...parameters }) => detailBranch(x!, parameters, at, epsilon),
    });
  });
});

test('a NaN spoils its own channel of its own clip and no other', async () => {
  const at = { clips: 2, frames: 8, height: 2, width: 3 };
  const given = inputs(at, 5);
  (given.x!.data as Float32Array)[(rowsOf(at) - 1) * 5 + 3] = Number.NaN;
  const { out } = await native.runOp('detailBranch', given, { ...at, epsilon });
  expect(Array.from(floats(out), Number.isNaN)).toEqual(
    Array.from(floats(out), (_, i) => i >= (rowsOf(at) / 2) * 5 && i % 5 === 3),
  );
});

describe('weightedSum', () => {
  const w1 = f32([1], [0.3]);
  const w2 = f32([1], [-1.7]);

  test.each([1, 15, 5000])('%i values', async (count) => {
    await checkOp({
      op: 'weightedSum',
      inputs: { a: f32([count, 1], 1), b: f32([count, 1], 2), w1, w2 },
      reference: (v) => v.a!.map((a, i) => v.w1![0]! * a + v.w2![0]! * v.b![i]!),
      gradientTolerance: 10 * EXACT_ARITHMETIC,
    });
  });

  test('one value twice', async () => {
    await checkOp({
      op: 'weightedSum',
      inputs: { a: f32([7, 3], 1), w1, w2 },
      reference: (v) => v.a!.map((a) => (v.w1![0]! + v.w2![0]!) * a),
    });
  });
});
