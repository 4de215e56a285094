// temporalAttention: every pixel attends over the frames of its clip.

import { describe, expect, test } from 'vitest';
import { native } from '../../src/native.js';
import { BF16, checkOp, expectSame, floats } from '../support/reference/check.js';
import { f32, u8 } from '../support/reference/numbers.js';
import { rowsOf, temporalAttention } from '../support/reference/pictures.js';

const cases = [
  // clips, frames, height, width, heads, head size
  [1, 1, 1, 1, 1, 1],
  [2, 8, 2, 3, 2, 4],
  [1, 8, 3, 3, 3, 16],
  [1, 5, 2, 1, 2, 17],
  [2, 16, 1, 2, 1, 64],
  [3, 3, 3, 5, 8, 5],
  [1, 8, 1, 2, 1, 72],
  [1, 11, 1, 1, 1, 67],
] as const;

describe('temporalAttention', () => {
  for (const compute of ['f32', 'bf16'])
    test.each(cases)(
      `${compute}: %i clips of %i frames of %i x %i, %i heads of %i`,
      async (clips, frames, height, width, heads, size) => {
        const at = { clips, frames, height, width };
        await checkOp({
          op: 'temporalAttention',
          inputs: { qkv: f32([rowsOf(at), 3 * heads * size], 1) },
          attributes: { ...at, heads, compute },
          reference: ({ qkv }) => temporalAttention(qkv!, at, heads),
          ...(compute === 'bf16' ? { tolerance: 2 * BF16 } : {}),
        });
      },
    );

  test('hidden frames are no keys, and each clip has its own', async () => {
    const at = { clips: 2, frames: 4, height: 1, width: 3 };
    const keep = [1, 0, 1, 1, 0, 0, 1, 0];
    const results = await checkOp({
      op: 'temporalAttention',
      inputs: { qkv: f32([rowsOf(at), 18], 1), keep: u8(keep) },
      attributes: { ...at, heads: 2 },
      gradients: ['qkv'],
      samples: 60,
      reference: ({ qkv }) => temporalAttention(qkv!, at, 2, keep),
    });
    const gradient = floats(results['grad.qkv']);
    for (let row = 0; row < rowsOf(at); row++)
      if (!keep[Math.floor(row / 3)])
        expect([...gradient.slice(row * 18 + 6, row * 18 + 18)].every((g) => g === 0)).toBe(true);
  });

  test('hidden frames of clips of more than eight', async () => {
    const at = { clips: 2, frames: 17, height: 1, width: 2 };
    const keep = Array.from({ length: 34 }, (_, i) => (i < 9 || i % 3 === 0 ? 0 : 1));
    await checkOp({
      op: 'temporalAttention',
      inputs: { qkv: f32([rowsOf(at), 24], 1), keep: u8(keep) },
      attributes: { ...at, heads: 2 },
      gradients: ['qkv'],
      reference: ({ qkv }) => temporalAttention(qkv!, at, 2, keep),
    });
  });

  test('a clip whose frames are all hidden is refused', async () => {
    const at = { clips: 2, frames: 2, height: 1, width: 1 };
    const call = native.runOp('temporalAttention', { qkv: f32([4, 3], 1), keep: u8([1, 0, 0, 0]) }, at);
    await expect(call).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/visible frame in clip 1/),
    });
  });

  test('a frame mask of ones changes no bit', async () => {
    const at = { clips: 1, frames: 8, height: 2, width: 2, heads: 2 };
    const qkv = f32([32, 24], 1);
    const plain = await native.runOp('temporalAttention', { qkv }, at);
    const masked = await native.runOp('temporalAttention', { qkv, keep: u8(new Array(8).fill(1)) }, at);
    expectSame(floats(masked.out), floats(plain.out), 'out');
  });
});
