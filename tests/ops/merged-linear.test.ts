// The last layer of a transformer's block and its projection out, which are one product where the block is wider than its input and
// the rows are many: the same numbers as with both.

import { expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import { BF16, expectClose, FP32, floats } from '../support/reference/check.js';
import { f32 } from '../support/reference/numbers.js';

const [CHANNELS, INNER, FRAMES, WIDTH] = [6, 20, 2, 4];
const ROWS_THAT_MERGE = (INNER * CHANNELS) / (INNER - CHANNELS);

function parameters(): Record<string, TensorData> {
  const block = 'transformer_blocks.0.';
  const norm = (name: string, size: number) => ({ [`${name}.weight`]: [size], [`${name}.bias`]: [size] });
  const layer = (name: string, out: number, into: number) => ({
    [`${name}.weight`]: [out, into],
    [`${name}.bias`]: [out],
  });
  const attention = (name: string) => ({
    [`${name}.to_q.weight`]: [INNER, INNER],
    [`${name}.to_k.weight`]: [INNER, INNER],
    [`${name}.to_v.weight`]: [INNER, INNER],
    ...layer(`${name}.to_out.0`, INNER, INNER),
  });
  const shapes = {
    ...norm('norm', CHANNELS),
    ...layer('proj_in', INNER, CHANNELS),
    ...norm(`${block}norm1`, INNER),
    ...attention(`${block}attn1`),
    ...norm(`${block}norm2`, INNER),
    ...attention(`${block}attn2`),
    ...norm(`${block}norm3`, INNER),
    ...layer(`${block}ff.net.0.proj`, 8 * INNER, INNER),
    ...layer(`${block}ff.net.2`, INNER, 4 * INNER),
    ...layer('proj_out', CHANNELS, INNER),
  };
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape], i) => [
      `param.${name}`,
      f32(shape, 10 + i, shape.length === 2 ? 1 / Math.sqrt(shape[1] as number) : 0.5),
    ]),
  );
}

/** Pictures whose first rows are repeated below one another: statistics of the norms stay, and so does every pixel's result. */
function repeated(picture: TensorData, times: number): TensorData {
  const [n = 0, channels = 0, height = 0, width = 0] = picture.shape;
  const plane = height * width;
  const data = new Float32Array(n * channels * times * plane);
  for (let one = 0; one < n * channels; one++)
    for (let copy = 0; copy < times; copy++)
      data.set(
        (picture.data as Float32Array).subarray(one * plane, (one + 1) * plane),
        (one * times + copy) * plane,
      );
  return { dtype: 'f32', shape: [n, channels, height * times, width], data };
}

async function run(times: number, compute: string): Promise<Record<string, TensorData>> {
  const shape = [FRAMES, CHANNELS, 1, WIDTH];
  const inputs = { x: repeated(f32(shape, 1), times), ...parameters() };
  const gradOutput = repeated(f32(shape, 2, 1 / times), times);
  return native.runOp(
    'temporalTransformer',
    inputs,
    { compute, heads: 4, groups: 2, frames: FRAMES },
    gradOutput,
  );
}

test.each(['f32', 'bf16'])('the merged layer gives the same values and gradients, %s', async (compute) => {
  const times = 3;
  const fewRows = FRAMES * WIDTH;
  expect(fewRows).toBeLessThan(ROWS_THAT_MERGE);
  expect(times * fewRows).toBeGreaterThan(ROWS_THAT_MERGE);
  const [plain, merged] = [await run(1, compute), await run(times, compute)];
  const tolerance = compute === 'bf16' ? 4 * BF16 : FP32;
  expect(Object.keys(merged).sort()).toEqual(Object.keys(plain).sort());
  for (const [name, expected] of Object.entries(plain)) {
    const picture = name === 'out' || name === 'grad.x';
    const wanted = picture ? repeated(expected, times) : expected;
    const scale = name === 'grad.x' ? 1 / times : 1;
    expectClose(
      floats(merged[name]),
      floats(wanted).map((value) => value * scale),
      tolerance,
      name,
    );
  }
});
