// The frozen autoencoder: against a plain double-precision one, layouts, many pictures at once, names in files, and what is
// refused.

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { AutoencoderKl, autoencoderShape } from '../src/models/autoencoder.js';
import type { PictureGrid } from '../src/native/stickers.js';
import { native } from '../src/native.js';
import { rejection } from './native-support.js';
import { AUTOENCODER as config, drawn, modelFolder, type TensorSet } from './support/encoder-folders.js';
import { AutoencoderReference, autoencoderShapes } from './support/reference/autoencoder.js';
import { BF16, expectClose, expectSame, FP32 } from './support/reference/check.js';
import { normals, roundToBf16 } from './support/reference/numbers.js';

const shape = autoencoderShape(config);
const shapes = autoencoderShapes(shape);
const { weights, tensors } = drawn(shapes);
const reference = new AutoencoderReference(shape, weights, shapes);
/** Two clips of two frames, not square. */
const grid: PictureGrid = { clips: 2, frames: 2, height: 12, width: 8 };
const pictures = normals(4 * 3 * 96, 5, 0.5);
const latentSize = 4 * 2 * 6;

const file = 'diffusion_pytorch_model.safetensors';
const opened = async (options = {}, set = tensors, settings: object = config) =>
  AutoencoderKl.fromPretrained(await modelFolder(settings, set, file), options);
const pictureOf = (all: Float32Array, i: number, size: number) => all.subarray(i * size, (i + 1) * size);

/** [clips, channels, frames, pixels] of values given as [clips * frames, channels, pixels]. */
function asLatents(values: ArrayLike<number>): Float64Array {
  const [frames, channels, pixels] = [2, 2, 6];
  return Float64Array.from({ length: values.length }, (_, at) => {
    const [clip, channel] = [
      Math.floor(at / (frames * channels * pixels)),
      Math.floor(at / (frames * pixels)) % 2,
    ];
    const [frame, pixel] = [Math.floor(at / pixels) % frames, at % pixels];
    return values[((clip * frames + frame) * channels + channel) * pixels + pixel]!;
  });
}

describe('against the reference', () => {
  const moments = Float64Array.from(
    [0, 1, 2, 3].flatMap((i) => [...reference.encode(pictureOf(pictures, i, 288), 12, 8)]),
  );
  const part = (of: 0 | 1) => moments.filter((_, i) => Math.floor(i / 12) % 2 === of);
  const mean = part(0);
  const deviation = part(1).map((value) => Math.exp(value / 2));

  test('moments, mean and deviation', async () => {
    using model = await opened();
    const found = await model.moments(pictures, grid);
    expectClose(found, moments, FP32, 'moments');
    const gaussian = native.gaussianOfMoments(found, 4);
    expectClose(gaussian.mean, mean, FP32, 'mean');
    expectClose(gaussian.deviation, deviation, FP32, 'deviation');
  });

  test('the mode and a sample, scaled, frames of a clip beside each other', async () => {
    using model = await opened();
    const scaled = (values: ArrayLike<number>) => asLatents(values).map((value) => value * 0.5);
    expectClose(await model.encode(pictures, grid), scaled(mean), FP32, 'mode');
    const noise = normals(latentSize, 6);
    const spread = asLatents(deviation);
    const sample = asLatents(mean).map((value, i) => 0.5 * (value + spread[i]! * noise[i]!));
    expectClose(await model.encode(pictures, grid, { noise }), sample, FP32, 'sample');
  });

  test('pictures from latents', async () => {
    using model = await opened();
    const latents = normals(latentSize, 7);
    // The inverse of asLatents is itself: frames and channels are two of each.
    const frames = asLatents(latents).map((value) => value / 0.5);
    const expected = [0, 1, 2, 3].flatMap((i) => [
      ...reference.decode(frames.subarray(i * 12, i * 12 + 12), 3, 2),
    ]);
    expectClose(await model.decode(latents, grid), expected, 2 * FP32, 'pictures');
  });
});

test('the log-variance is held between -30 and 20', () => {
  const { mean, deviation } = native.gaussianOfMoments(Float32Array.of(1, 2, 3, -1e9, 1e9, 0), 1);
  expect([...mean]).toEqual([1, 2, 3]);
  expectClose(deviation, [Math.exp(-15), Math.exp(10), 1], 1e-6, 'deviation');
  expect(() => native.gaussianOfMoments(new Float32Array(6), 2)).toThrow(/divisible into 2 pictures .* 6/);
});

test('many pictures are worked on in parts and come out the same', async () => {
  using model = await opened();
  // 68 pictures of 32 x 32 are more than are worked on at one time.
  const one = normals(3 * 32 * 32, 8, 0.5);
  const many = new Float32Array(68 * one.length);
  for (let i = 0; i < 68; i++) many.set(one, i * one.length);
  const square = { frames: 1, height: 32, width: 32 };
  const alone = await model.encode(one, { clips: 1, ...square });
  const together = await model.encode(many, { clips: 68, ...square });
  const last = together.slice(-alone.length);
  expectClose(last, alone, FP32, 'the last latents');
  const decoded = await model.decode(together, { clips: 68, ...square });
  const back = await model.decode(last, { clips: 1, ...square });
  expectClose(decoded.slice(-back.length), back, FP32, 'the last picture');
});

test('compute in bf16', async () => {
  if (native.systemInfo().isa !== 'avx512') {
    console.log('skipped: compute in bf16 needs AVX-512');
    return;
  }
  using exact = await opened();
  using quick = await opened({ compute: 'bf16' });
  const [mode, fast] = [await exact.encode(pictures, grid), await quick.encode(pictures, grid)];
  expectClose(fast, mode, 8 * BF16, 'mode'); // about ten convolutions, each rounding its input
  expect([...fast]).not.toEqual([...mode]);
  expectClose(await quick.decode(mode, grid), await exact.decode(mode, grid), 8 * BF16, 'pictures');
});

describe('names in files', () => {
  const old: Record<string, string> = {
    'to_q.': 'query.',
    'to_k.': 'key.',
    'to_v.': 'value.',
    'to_out.0.': 'proj_attn.',
  };
  test('older files call the attention layers query, key, value and proj_attn, here as 1x1 convolutions', async () => {
    const renamed: TensorSet = {};
    for (const [name, tensor] of Object.entries(tensors)) {
      const now = Object.keys(old).find((part) => name.includes(`attentions.0.${part}`));
      const wide = now && name.endsWith('weight');
      renamed[now ? name.replace(now, old[now]!) : name] = wide
        ? { ...tensor, shape: [...tensor.shape, 1, 1] }
        : tensor;
    }
    using today = await opened();
    using before = await opened({}, renamed);
    expectSame(await before.encode(pictures, grid), await today.encode(pictures, grid), 'latents');
  });

  test('stored in bf16', async () => {
    const half: TensorSet = {};
    const rounded: TensorSet = {};
    for (const [name, tensor] of Object.entries(tensors)) {
      const values = (tensor.data as Float32Array).map(roundToBf16);
      const bits = Uint16Array.from(new Uint32Array(values.buffer), (word) => word >>> 16);
      half[name] = { ...tensor, dtype: 'bf16', data: bits };
      rounded[name] = { ...tensor, data: values };
    }
    using stored = await opened({}, half);
    using plain = await opened({}, rounded);
    expectSame(await stored.encode(pictures, grid), await plain.encode(pictures, grid), 'latents');
  });

  test('what does not fit is listed', async () => {
    const { 'quant_conv.bias': _gone, ...rest } = tensors;
    const error = await rejection(
      opened({}, { ...rest, 'loss.logvar': { dtype: 'f32', shape: [1], data: new Float32Array(1) } }),
    );
    expect(error).toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(/Missing: quant_conv\.bias\. Unexpected: loss\.logvar\./),
    });
    const narrow = await rejection(opened({}, tensors, { ...config, latent_channels: 4 }));
    expect(narrow.message).toMatch(
      /Wrong shape: encoder\.conv_out\.weight is \[4, 8, 3, 3\], expected \[8, 8, 3, 3\]/,
    );
  });
});

describe('what is refused', () => {
  test.each([
    [{ act_fn: 'relu' }, /"silu".*act_fn.*"relu"/],
    [{ down_block_types: ['AttnDownEncoderBlock2D'] }, /"DownEncoderBlock2D"/],
    [{ up_block_types: ['UpDecoderBlock2D'] }, /as many up_block_types as block_out_channels \(3\) .* 1/],
    [{ use_quant_conv: false }, /true.*use_quant_conv/],
    [{ shift_factor: 0.1 }, /shift_factor/],
    [{ latents_mean: [0, 0] }, /latents_mean/],
    [{ mid_block_add_attention: false }, /mid_block_add_attention/],
    [{ block_out_channels: [] }, /block_out_channels/],
    [{ scaling_factor: 0 }, /scaling_factor/],
    [{ _class_name: 'VQModel' }, /"AutoencoderKL".*"VQModel"/],
  ])('config %j', (changes, says) => {
    expect(() => autoencoderShape({ ...config, ...changes })).toThrow(says);
  });

  test('groups that do not divide the channels', async () => {
    const error = await rejection(opened({}, tensors, { ...config, norm_num_groups: 3 }));
    expect(error.message).toMatch(/block_out_channels divisible by norm_num_groups 3 but received 4/);
  });

  test('folders without weights', async () => {
    const folder = await modelFolder(config);
    expect(await rejection(AutoencoderKl.fromPretrained(folder))).toMatchObject({ code: 'NOT_FOUND' });
    expect(await rejection(AutoencoderKl.fromPretrained(join(folder, 'nowhere')))).toMatchObject({
      code: 'NOT_FOUND',
    });
  });

  test('sizes that do not fit', async () => {
    using model = await opened();
    const says = async (call: Promise<unknown>) => (await rejection(call)).message;
    expect(await says(model.encode(pictures, { ...grid, width: 9 }))).toMatch(
      /multiples of 4 but received 12x9/,
    );
    expect(await says(model.encode(pictures.slice(1), grid))).toMatch(
      /1152 values for 4 pictures of 3 x 12 x 8 .* 1151/,
    );
    expect(await says(model.encode(pictures, grid, { noise: new Float32Array(3) }))).toMatch(
      /48 values of noise.* 3/,
    );
    expect(await says(model.encode(pictures, grid, { noise: new Float32Array() }))).toMatch(/empty/);
    expect(await says(model.decode(new Float32Array(47), grid))).toMatch(/48 latent values .* 47/);
    expect(await says(model.decode(new Float32Array(48), { ...grid, clips: 0 }))).toMatch(/clips/);
    const huge = { clips: 2 ** 20, frames: 2 ** 4, height: 65536, width: 65536 };
    expect(await says(model.encode(pictures, huge))).toMatch(/at most 68719476736 pixels/);
  });

  test('calls before weights are loaded', async () => {
    const bare = new native.AutoencoderKl(shape, {});
    await expect(bare.encode(pictures, grid)).rejects.toThrow(/Expected weights; load them first/);
    bare.dispose();
  });
});

describe('life', () => {
  const large = { clips: 4, frames: 1, height: 256, width: 256 };

  test('an aborted signal cancels; the model goes on', async () => {
    using model = await opened();
    const stop = new AbortController();
    const call = model.encode(new Float32Array(4 * 3 * 65536), large, { signal: stop.signal });
    stop.abort();
    expect((await rejection(call)).code).toBe('CANCELLED');
    const later = model.decode(new Float32Array(latentSize), grid, { signal: stop.signal });
    expect((await rejection(later)).code).toBe('CANCELLED');
    expect((await model.encode(pictures, grid)).length).toBe(latentSize);
  });

  test('dispose: what was asked for before still comes, later calls say so', async () => {
    const model = await opened();
    const pending = model.encode(pictures, grid);
    model.dispose();
    model.dispose();
    expect((await pending).length).toBe(latentSize);
    expect(() => model.moments(pictures, grid)).toThrow(/disposed of/);
  });

  test('memory of the work does not grow with the number of pictures', async () => {
    using model = await opened();
    const peakOf = async (clips: number) => {
      await model.encode(new Float32Array(clips * 3 * 65536), { ...large, clips });
      return model.memory().arenaPeakBytes;
    };
    const one = await peakOf(1);
    expect(await peakOf(4)).toBe(one);
  });
});
