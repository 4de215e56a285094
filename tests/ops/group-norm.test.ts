// groupNorm with the SiLU after it and the vector per clip before it.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { checkOp, floats } from '../support/reference/check.js';
import { f32, normals } from '../support/reference/numbers.js';
import { type Grid, groupNorm, rowsOf } from '../support/reference/pictures.js';

const grid = (clips: number, frames: number, height: number, width: number): Grid => ({
  clips,
  frames,
  height,
  width,
});

const inputs = (at: Grid, channels: number) => ({
  x: f32([rowsOf(at), channels], 1),
  weight: f32([channels], normals(channels, 2, 0.5, 1)),
  bias: f32([channels], 3),
});

describe('groupNorm', () => {
  const cases: [string, Grid, number, number][] = [
    ['one pixel, one group', grid(1, 1, 1, 1), 5, 1],
    ['one channel', grid(1, 2, 3, 3), 1, 1],
    ['groups of one channel', grid(1, 2, 3, 5), 4, 4],
    ['odd pictures', grid(2, 3, 3, 5), 12, 4],
    ['channels beyond a vector', grid(1, 2, 4, 3), 34, 2],
    ['several chunks of rows', grid(2, 2, 9, 15), 6, 3],
  ];
  for (const compute of ['f32', 'bf16']) {
    for (const [name, at, channels, groups] of cases) {
      test.each([
        { silu: false, acrossFrames: false },
        { silu: true, acrossFrames: false },
        { silu: true, acrossFrames: true },
      ])(`${name}, ${compute}, silu $silu, across frames $acrossFrames`, async (options) => {
        await checkOp({
          op: 'groupNorm',
          inputs: inputs(at, channels),
          attributes: { ...at, ...options, groups, epsilon: 1e-5, compute },
          samples: 12,
          floor: 1, // dx is what is left of the upstream gradient without its mean and its share along x
          reference: ({ x, weight, bias }) =>
            groupNorm(x!, weight!, bias!, at, { ...options, groups, epsilon: 1e-5 }),
        });
      });
    }

    test.each([false, true])(`a vector for each clip, ${compute}, across frames %s`, async (acrossFrames) => {
      const at = grid(3, 2, 3, 4);
      await checkOp({
        op: 'groupNorm',
        inputs: { ...inputs(at, 6), shift: f32([3, 6], 4, 2) },
        attributes: { ...at, groups: 2, silu: true, acrossFrames, epsilon: 1e-5, compute },
        floor: 1,
        samples: 18,
        reference: ({ x, weight, bias, shift }) =>
          groupNorm(x!, weight!, bias!, at, { groups: 2, silu: true, acrossFrames, epsilon: 1e-5, shift }),
      });
    });
  }

  test('a mean far from 0 costs only the digits it takes from the input', async () => {
    const at = grid(1, 2, 12, 12); // three chunks of rows
    await checkOp({
      op: 'groupNorm',
      inputs: { ...inputs(at, 4), x: f32([rowsOf(at), 4], normals(rowsOf(at) * 4, 1, 1, 1000)) },
      attributes: { ...at, groups: 2, epsilon: 1e-5 },
      reference: ({ x, weight, bias }) => groupNorm(x!, weight!, bias!, at, { groups: 2, epsilon: 1e-5 }),
      floor: 1,
      tolerance: 3e-4,
    });
  });

  test('a NaN spoils its own group of its own picture and no other', async () => {
    const at = grid(1, 2, 2, 2);
    const { x, weight, bias } = inputs(at, 4);
    (x.data as Float32Array)[4 * 4 + 2] = Number.NaN; // first pixel of the second picture, second group
    const { out } = await native.runOp('groupNorm', { x, weight, bias }, { ...at, groups: 2 });
    expect(Array.from(floats(out), Number.isNaN)).toEqual(
      Array.from(floats(out), (_, i) => i >= 16 && i % 4 >= 2),
    );
  });
});
