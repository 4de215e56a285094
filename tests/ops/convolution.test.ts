// convolution: 3x3 and 1x1 kernels, stride 1 and 2, padding on all sides or at the right and bottom only.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { type Attributes, checkOp, expectClose, floats } from '../support/reference/check.js';
import { f32, inBf16 } from '../support/reference/numbers.js';
import {
  type Convolution,
  convolution,
  convolvedGrid,
  type Grid,
  rowsOf,
} from '../support/reference/pictures.js';

const grid = (clips: number, frames: number, height: number, width: number): Grid => ({
  clips,
  frames,
  height,
  width,
});

function problem(at: Grid, channels: number, outputs: number, size = 3) {
  const terms = size * size * channels;
  return {
    x: f32([rowsOf(at), channels], 1),
    weight: f32([outputs, terms], 2, 1 / Math.sqrt(terms)),
    bias: f32([outputs], 3),
  };
}

type Options = Omit<Convolution, 'channels'>;

function check(at: Grid, channels: number, outputs: number, compute: string, options: Options = {}) {
  return checkOp({
    op: 'convolution',
    inputs: problem(at, channels, outputs, options.size),
    attributes: { ...at, compute, ...options },
    samples: 12,
    ...(compute === 'bf16' ? { floor: 0.25 * Math.sqrt(rowsOf(at)) } : {}),
    reference: ({ x, weight, bias }) => convolution(x!, weight!, bias, at, { ...options, channels }),
  });
}

describe('convolution', () => {
  for (const compute of ['f32', 'bf16']) {
    describe(compute, () => {
      test.each([
        ['1x1 pictures', grid(1, 1, 1, 1), 3, 2],
        ['one row', grid(1, 2, 1, 5), 4, 3],
        ['one column', grid(2, 1, 4, 1), 1, 5],
        ['2x2 pictures', grid(1, 3, 2, 2), 5, 16],
        ['odd pictures', grid(2, 2, 5, 7), 8, 3],
        ['wide channels', grid(1, 2, 4, 4), 33, 17],
        ['several chunks of rows', grid(3, 4, 7, 9), 3, 4],
        ['channels in chunks of 16 bytes', grid(2, 2, 5, 7), 8, 24],
        ['channels of more than a tile', grid(1, 1, 9, 8), 40, 72],
        ["Winograd's method in f32, even pictures", grid(2, 8, 4, 4), 16, 32],
        ["Winograd's method in f32, odd pictures", grid(2, 2, 9, 7), 17, 35],
        ["Winograd's method in f32 with tiles of 4x4, even pictures", grid(2, 8, 8, 8), 16, 32],
        ["Winograd's method in f32 with tiles of 4x4, odd pictures", grid(2, 4, 11, 13), 35, 17],
        ["Winograd's method in f32, more than a run of tiles", grid(1, 1, 46, 47), 16, 16],
      ])('%s', async (_, at, channels, outputs) => {
        await check(at, channels, outputs, compute);
      });

      test.each([
        ['even', grid(2, 2, 6, 4), 5, 6],
        ['odd', grid(1, 3, 5, 7), 5, 6],
        ['one pixel', grid(1, 2, 1, 1), 5, 6],
        ['channels in chunks of 16 bytes', grid(1, 3, 5, 7), 16, 8],
      ])('stride 2, %s', async (_, at, channels, outputs) => {
        await check(at, channels, outputs, compute, { stride: 2 });
      });

      test.each([
        ['even', grid(1, 2, 6, 4), 5, 6],
        ['odd', grid(2, 1, 5, 3), 5, 6],
        ['channels in chunks of 16 bytes', grid(2, 1, 5, 3), 16, 8],
      ])('stride 2 with zeros at the right and bottom, %s', async (_, at, channels, outputs) => {
        await check(at, channels, outputs, compute, { stride: 2, padding: 'rightBottom' });
      });

      test('1x1 kernels', async () => {
        await check(grid(1, 2, 3, 5), 7, 9, compute, { size: 1 });
      });

      test('without a bias, with a residual', async () => {
        const at = grid(1, 2, 3, 5);
        const { x, weight } = problem(at, 6, 4);
        await checkOp({
          op: 'convolution',
          inputs: { x, weight, residual: f32([rowsOf(at), 4], 4) },
          attributes: { ...at, compute },
          reference: (v) =>
            convolution(v.x!, v.weight!, undefined, at, { channels: 6 }).map((y, i) => y + v.residual![i]!),
        });
      });
    });
  }

  test('the output in the compute type is the fp32 output, rounded', async () => {
    const at = grid(1, 2, 4, 5);
    const inputs = problem(at, 6, 7);
    const plain = await native.runOp('convolution', inputs, { ...at, compute: 'bf16' });
    const half = await native.runOp('convolution', inputs, { ...at, compute: 'bf16', out: 'compute' });
    expectClose(floats(half.out), inBf16(plain.out!).data as Float32Array, 2 ** -8, 'rounded output');
  });

  test('sizes of the output', async () => {
    for (const [height, width] of [
      [2, 2],
      [3, 8],
      [9, 5],
    ] as const)
      for (const options of [{}, { stride: 2 }, { stride: 2, padding: 'rightBottom' }] as Options[]) {
        const at = grid(1, 1, height, width);
        const { out } = await native.runOp('convolution', problem(at, 2, 3), {
          ...at,
          ...(options as Attributes),
        });
        expect(out!.shape).toEqual([rowsOf(convolvedGrid(at, options)), 3]);
      }
  });
});
