// The frame generation network: parameters, files, sizes, guidance, hidden padding, gradients, checkpointing.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Dfgn } from '../src/models/dfgn.js';
import { type DfgnConfigInput, dfgnConfig, dfgnPreset, STI_VARIANTS } from '../src/models/dfgn-config.js';
import type { PredictionBatch } from '../src/native/stickers.js';
import { native } from '../src/native.js';
import {
  type Config,
  joined,
  largestDifference,
  PIXELS,
  predictionBatch,
  smallConfig,
  smallNetwork,
  valuesOf,
} from './dfgn-support.js';
import { rejection } from './native-support.js';
import { normals } from './support/reference/numbers.js';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'duet-dfgn-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe('config', () => {
  test('presets are the published network, and sizes that can be trained', () => {
    expect(dfgnPreset('full')).toEqual(dfgnConfig({}));
    expect(dfgnPreset('small', { in_channels: 3 }).in_channels).toBe(3);
    expect(dfgnPreset('tiny').t5_dim).toBeNull();
  });

  test.each<[DfgnConfigInput, RegExp]>([
    [{ block_out_channels: [30], norm_num_groups: 4, attention_head_dim: 2 }, /divisible by norm_num_groups/],
    [
      { block_out_channels: [32], norm_num_groups: 4, attention_head_dim: 5 },
      /divisible by attention_head_dim/,
    ],
    [{ num_frames: 0 }, /num_frames/],
    [{ out_channels: 8 }, /out_channels equal to in_channels \(4\) but received 8/],
    [{ down_block_types: ['DownBlock3D'] }, /down_block_types/],
    [{ sti: 'both' as 'detail' }, /sti/],
  ])('%j is refused', (changes, words) => {
    expect(() => dfgnConfig(changes)).toThrow(words);
  });
});

describe('keys of published files', () => {
  const published = {
    _class_name: 'DFGN',
    _diffusers_version: '0.27.2',
    _name_or_path: 'x',
    act_fn: 'silu',
    norm_eps: 1e-5,
    mid_block_scale_factor: 1,
    downsample_padding: 1,
    dropout: 0,
    num_attention_heads: null,
    time_cond_proj_dim: null,
  };

  test('are kept where they say what is computed', () => {
    expect(dfgnConfig(published)).toMatchObject(published);
  });

  test.each([
    ['act_fn', 'gelu', '"silu"'],
    ['norm_eps', 1e-6, '0.00001'],
    ['mid_block_scale_factor', 2, '1'],
    ['downsample_padding', 0, '1'],
    ['dropout', 0.1, '0'],
    ['num_attention_heads', 8, 'null'],
    ['time_cond_proj_dim', 64, 'null'],
  ])('%s of another value is refused', (key, value, expected) => {
    const run = () => dfgnConfig({ ...published, [key]: value }, 'x/config.json');
    expect(run).toThrow(
      `Expected ${expected} for ${key} but received ${JSON.stringify(value)} (in x/config.json)`.replace(
        '1e-6',
        '0.000001',
      ),
    );
    expect(run).toThrow(expect.objectContaining({ code: 'UNSUPPORTED' }));
  });
});

describe('parameters', () => {
  test('initial values: uniform within 1 / sqrt(inputs), norms 1 and 0, w1 = 0, w2 = 1, named by the seed', async () => {
    using first = Dfgn.create(smallConfig(), { seed: 1, threads: 1 });
    using again = Dfgn.create(smallConfig(), { seed: 1, threads: 1 });
    using other = Dfgn.create(smallConfig(), { seed: 2, threads: 1 });
    const values = await first.read();
    expect(await again.read()).toEqual(values);
    expect(await other.read()).not.toEqual(values);
    expect([...(values['mid_block.temp_convs.0.w1'] ?? [])]).toEqual([0]);
    expect([...(values['mid_block.temp_convs.0.w2'] ?? [])]).toEqual([1]);
    expect(new Set(values['conv_norm_out.weight'])).toEqual(new Set([1]));
    expect(new Set(values['conv_norm_out.bias'])).toEqual(new Set([0]));
    const bound = 1 / Math.sqrt(8 * 9);
    const kernel = values['conv_in.weight'] ?? new Float32Array();
    const largest = Math.max(...kernel.map(Math.abs));
    expect(largest).toBeLessThanOrEqual(bound);
    expect(largest).toBeGreaterThan(0.98 * bound);
    const bias = values['conv_in.bias'] ?? new Float32Array();
    expect(Math.max(...bias.map(Math.abs))).toBeGreaterThan(0.5 * bound);
  });

  test('the initial image branch lets given frames through at their own strength', async () => {
    using network = Dfgn.create({ ...smallConfig(), in_channels: 48 }, { seed: 1, threads: 1 });
    const values = await network.read();
    const deviation = (name: string) => {
      const weights = values[name] as Float32Array;
      return Math.sqrt(weights.reduce((sum, w) => sum + w * w, 0) / weights.length);
    };
    // Variance of a sum of n products is kept by weights of deviation 1 / sqrt(n), times 1.678 behind a SiLU.
    expect(deviation('image_latents_proj_in.0.weight') * Math.sqrt(48 * 9)).toBeCloseTo(1, 1);
    for (const layer of [2, 4])
      expect(deviation(`image_latents_proj_in.${layer}.weight`) * Math.sqrt(192 * 9)).toBeCloseTo(1.678, 1);
  });

  test('what is written is read back, in stacked projections and kernels too', async () => {
    using network = await smallNetwork();
    const names = ['conv_in.weight', 'mid_block.temp_convs.0.transformer_blocks.to_k.weight'];
    const values = Object.fromEntries(
      names.map((name, i) => {
        const shape = network.shapes.get(name) ?? [];
        return [
          name,
          normals(
            shape.reduce((a, b) => a * b, 1),
            i,
          ),
        ];
      }),
    );
    const others = await network.read(['mid_block.temp_convs.0.transformer_blocks.to_q.weight']);
    await network.write(values);
    expect(await network.read(names)).toEqual(values);
    expect(await network.read(Object.keys(others))).toEqual(others);
    const error = await rejection(network.write({ ...values, 'conv_in.bias': new Float32Array(3) }));
    expect(error.message).toMatch(/Expected 8 values for conv_in.bias .* but received 3/);
  });

  test('a saved folder opens again with the same bits', async () => {
    using network = await smallNetwork();
    await network.save(join(folder, 'saved'));
    using opened = await Dfgn.fromPretrained(join(folder, 'saved'), { threads: 1 });
    expect(opened.config).toEqual(network.config);
    expect(await opened.read()).toEqual(await network.read());
    expect(await opened.fingerprint()).toMatch(/^[0-9a-f]{64}$/);
  });

  test('a file of another network, or with numbers that are not finite, is refused with the names and changes nothing', async () => {
    using network = await smallNetwork();
    const path = join(folder, 'other.safetensors');
    const shapes = new Map(network.shapes);
    const tensors = Object.fromEntries(
      Object.entries(await network.read()).map(([name, data]) => [
        name,
        { dtype: 'f32' as const, shape: [...(shapes.get(name) ?? [])], data: data.map((x) => x + 1) },
      ]),
    );
    const { 'conv_in.bias': removed, 'conv_out.bias': bias, ...rest } = tensors;
    if (!bias || !removed) throw new Error('Expected the biases of conv_in and conv_out');
    const renamed = { ...rest, 'conv_in.beta': removed, 'conv_out.bias': { ...bias, shape: [2, 2] } };
    await native.writeSafetensors(path, renamed, {});
    const before = await network.read();
    const error = await rejection(network.load(path));
    expect(error.code).toBe('INVALID_ARGUMENT');
    expect(error.message).toMatch(/Missing: conv_in\.bias\. Unexpected: conv_in\.beta\./);
    expect(error.message).toMatch(/conv_out\.bias is \[2, 2\], expected \[4\]/);
    expect(await network.read()).toEqual(before);
    const infinite = { ...bias, data: bias.data.fill(Number.POSITIVE_INFINITY, 1, 2) };
    await native.writeSafetensors(path, { ...tensors, 'conv_out.bias': infinite }, {});
    expect(await rejection(network.load(path))).toMatchObject({
      code: 'CORRUPT',
      message: `Expected finite numbers in ${path} but conv_out.bias has NaN or infinity`,
    });
    expect(await network.read()).toEqual(before);
  });
});

describe('sizes', () => {
  const cases: [string, DfgnConfigInput][] = [
    ['one level', { block_out_channels: [8] }],
    ['two layers a block', { layers_per_block: 2 }],
    ['RGB pixels', { in_channels: 3 }],
    ['five frames', { num_frames: 5 }],
    ['one frame', { num_frames: 1 }],
    ['no T5', { t5_dim: null }],
    ['semantic branch alone', { sti: 'semantic' }],
    ['detail branch alone', { sti: 'detail' }],
  ];

  test.each(cases)('%s: the loss falls along its gradient', async (_name, changes) => {
    using network = await smallNetwork(changes);
    const config = network.config as Config;
    const batch = predictionBatch(config, 2);
    const target = normals(2 * valuesOf(config), 50);
    const { loss, output } = await network.differentiate(batch, target);
    expect(output).toHaveLength(2 * valuesOf(config));
    const gradients = await network.gradients();
    const weights = await network.read();
    const square = Object.values(gradients).reduce((sum, g) => sum + g.reduce((s, x) => s + x * x, 0), 0);
    // A short step against the gradient lowers the loss by step * |gradient|^2, to first order.
    const step = 1e-3 / Math.sqrt(square);
    const moved = Object.entries(gradients).map(([name, gradient]): [string, Float32Array] => [
      name,
      (weights[name] ?? new Float32Array()).map((w, i) => w - step * (gradient[i] as number)),
    ]);
    await network.write(Object.fromEntries(moved));
    const after = (await network.differentiate(batch, target)).loss;
    expect((loss - after) / (step * square)).toBeGreaterThan(0.9);
    expect((loss - after) / (step * square)).toBeLessThan(1.1);
  });

  test.each(STI_VARIANTS)('%s: gradients agree with central differences', async (sti) => {
    using network = await smallNetwork({ sti });
    const config = network.config as Config;
    const batch = predictionBatch(config);
    const target = normals(valuesOf(config), 50);
    const lossOf = async () => (await network.differentiate(batch, target)).loss;
    await lossOf();
    const gradients = await network.gradients();
    const layer = /^up_blocks\.0\.temp_convs\.0\.|^(conv_in|conv_out|mid_block\.attentions\.0\.proj_in)\./;
    const names = [...network.shapes.keys()].filter(
      (name) => layer.test(name) && !name.endsWith('.conv_layers.1.conv2.bias'),
    );
    expect(names.some((name) => name.includes('conv_layers'))).toBe(sti !== 'semantic');
    expect(names.some((name) => name.includes('temp_convs.0.transformer_blocks'))).toBe(sti !== 'detail');
    expect(names.some((name) => name.endsWith('.w1'))).toBe(sti === 'interaction');
    for (const name of names) {
      const gradient = gradients[name] ?? new Float32Array();
      const { [name]: before = new Float32Array() } = await network.read([name]);
      const at = gradient.reduce((most, x, i) => (Math.abs(x) > Math.abs(gradient[most] ?? 0) ? i : most), 0);
      const loss = async (change: number) => {
        await network.write({ [name]: before.map((x, i) => (i === at ? x + change : x)) });
        return lossOf();
      };
      const difference = ((await loss(1e-2)) - (await loss(-1e-2))) / 2e-2;
      await network.write({ [name]: before });
      const analytic = gradient[at] ?? Number.NaN;
      expect(Math.abs(difference - analytic), `${name}: ${analytic}, differences ${difference}`).toBeLessThan(
        0.03 * Math.abs(analytic) + 3e-6,
      );
    }
  });

  test('every parameter has a gradient, but the detail biases that the norm takes away', async () => {
    using network = await smallNetwork();
    await network.differentiate(
      predictionBatch(network.config as Config),
      normals(valuesOf(network.config as Config), 1),
    );
    const gradients = await network.gradients();
    const without = [...network.shapes.keys()].filter((name) => !gradients[name]?.some((x) => x !== 0));
    expect(without.every((name) => name.endsWith('.conv_layers.1.conv2.bias'))).toBe(true);
    expect(without.length).toBeGreaterThan(0);
  });

  test('wrong sizes are refused with what was expected', async () => {
    using network = await smallNetwork();
    const config = network.config as Config;
    const batch = predictionBatch(config);
    const said = async (changes: Partial<PredictionBatch>) =>
      (await rejection(network.predict({ ...batch, ...changes }))).message;
    expect(await said({ height: 2, width: 2 })).toMatch(/at least 3 x 3 for a network of 2 levels/);
    expect(await said({ noisyLatents: new Float32Array(7) })).toMatch(
      /1 x 4 x 4 x 5 x 6 values but received 7/,
    );
    expect(await said({ timesteps: new Float32Array(2) })).toMatch(/1 timesteps but received 2/);
    expect(await said({ text: new Float32Array(5) })).toMatch(/1 x 3 x 12 values for text/);
    expect(await said({ t5: undefined })).toMatch(/t5/);
    expect(await said({ clips: 0 })).toMatch(/clips/);
  });
});

describe('passes', () => {
  test('two clips at once are the two alone', async () => {
    using network = await smallNetwork();
    const config = network.config as Config;
    const both = predictionBatch(config, 2);
    const part = (values: Float32Array, i: number) =>
      values.slice((i * values.length) / 2, ((i + 1) * values.length) / 2);
    const alone = (i: number): PredictionBatch => ({
      ...both,
      clips: 1,
      noisyLatents: part(both.noisyLatents, i),
      imageLatents: part(both.imageLatents, i),
      timesteps: part(both.timesteps, i),
      text: part(both.text, i),
      t5: part(both.t5 ?? new Float32Array(), i),
    });
    const expected = joined(await network.predict(alone(0)), await network.predict(alone(1)));
    expect(largestDifference(await network.predict(both), expected)).toBeLessThan(2e-6);
  });

  test('guidance: two texts for one clip share what comes before the text', async () => {
    using network = await smallNetwork();
    const config = network.config as Config;
    const batch = predictionBatch(config);
    const other = predictionBatch(config, 1, 30);
    const texts = { ...batch, text: joined(other.text, batch.text), t5: joined(other.t5, batch.t5) };
    const without = await network.predict({ ...batch, text: other.text, t5: other.t5 });
    const with_ = await network.predict(batch);
    expect(largestDifference(without, with_)).toBeGreaterThan(1e-3);
    const both = await network.predict(texts);
    expect(largestDifference(both, joined(without, with_))).toBeLessThan(2e-6);
    const guided = await network.predict(texts, 3);
    expect(
      largestDifference(
        guided,
        without.map((x, i) => x + 3 * ((with_[i] as number) - x)),
      ),
    ).toBeLessThan(1e-5);
  });

  test('keys and values of a text are kept only as long as text and weights stay', async () => {
    using network = await smallNetwork();
    const batch = predictionBatch(network.config as Config);
    const first = await network.predict(batch);
    expect(await network.predict(batch)).toEqual(first);
    const changed = await network.predict({ ...batch, text: batch.text.map((x) => -x) });
    expect(largestDifference(changed, first)).toBeGreaterThan(1e-4);
    const name = 'mid_block.attentions.0.transformer_blocks.0.attn2.to_v.weight';
    const weights = await network.read([name]);
    await network.predict(batch);
    await network.write({ [name]: (weights[name] ?? new Float32Array()).map((x) => -x) });
    expect(largestDifference(await network.predict(batch), first)).toBeGreaterThan(1e-4);
  });

  test('the same bits on one thread and on two', async () => {
    using one = await smallNetwork();
    using two = await smallNetwork({}, { threads: 2 });
    const batch = predictionBatch(one.config as Config, 2);
    const target = normals(2 * valuesOf(one.config as Config), 4);
    const [a, b] = [await one.differentiate(batch, target), await two.differentiate(batch, target)];
    expect(a.output).toEqual(b.output);
    expect(await one.gradients()).toEqual(await two.gradients());
  });

  test('checkpointing changes memory and not one bit', async () => {
    const sizes = { layers_per_block: 3 };
    using plain = await smallNetwork(sizes);
    using checkpointed = await smallNetwork(sizes);
    const batch = predictionBatch(plain.config as Config, 2);
    const target = normals(2 * valuesOf(plain.config as Config), 4);
    const a = await plain.differentiate(batch, target);
    const b = await checkpointed.differentiate(batch, target, true);
    expect(b.output).toEqual(a.output);
    expect(b.inputGradients).toEqual(a.inputGradients);
    expect(await checkpointed.gradients()).toEqual(await plain.gradients());
    expect(checkpointed.memory().arenaPeakBytes).toBeLessThan(0.6 * plain.memory().arenaPeakBytes);
  });

  test('bf16 stays near fp32', async () => {
    using network = await smallNetwork();
    let half: Dfgn;
    try {
      half = await smallNetwork({}, { compute: 'bf16' });
    } catch (error) {
      expect((error as { code?: string }).code).toBe('UNSUPPORTED');
      console.log('skipped: this processor does not multiply bf16');
      return;
    }
    const batch = predictionBatch(network.config as Config, 2);
    const target = normals(2 * valuesOf(network.config as Config), 4);
    const [a, b] = [await network.differentiate(batch, target), await half.differentiate(batch, target)];
    expect(Math.abs(a.loss - b.loss)).toBeLessThan(0.02 * a.loss);
    const distance = Math.hypot(...a.output.map((x, i) => x - (b.output[i] as number)));
    expect(distance).toBeLessThan(0.05 * Math.hypot(...a.output));
    expect(distance).toBeGreaterThan(0);
    half.dispose();
  });
});

describe('padded frames', () => {
  const mask = Uint8Array.of(1, 1, 1, 0);
  /** Latents with another content in the last frame. */
  const elsewhere = (values: Float32Array) =>
    values.map((x, i) => (Math.floor(i / PIXELS) % 4 === 3 ? x + Math.sin(i) : x));
  const realOnly = (values: Float32Array) => values.filter((_, i) => Math.floor(i / PIXELS) % 4 !== 3);

  test.each([true, false])(
    'hidden %s: their content influences real frames only when not hidden',
    async (hidden) => {
      using network = await smallNetwork({ mask_padding: hidden });
      const batch = { ...predictionBatch(network.config as Config), frameMask: mask };
      const moved = {
        ...batch,
        noisyLatents: elsewhere(batch.noisyLatents),
        imageLatents: elsewhere(batch.imageLatents),
      };
      const [a, b] = [await network.predict(batch), await network.predict(moved)];
      const difference = largestDifference(realOnly(a), realOnly(b));
      if (hidden) expect(difference).toBe(0);
      else expect(difference).toBeGreaterThan(1e-4);
      const target = normals(a.length, 9);
      const { inputGradients } = await network.differentiate(batch, target);
      for (const gradient of [inputGradients.noisyLatents, inputGradients.imageLatents]) {
        const padded = (gradient ?? new Float32Array(1)).filter((_, i) => Math.floor(i / PIXELS) % 4 === 3);
        expect(padded.some((x) => x !== 0)).toBe(!hidden);
      }
    },
  );

  test('nothing is hidden without padding', async () => {
    using hiding = await smallNetwork({ mask_padding: true });
    using plain = await smallNetwork();
    const batch = predictionBatch(plain.config as Config);
    const all = { ...batch, frameMask: new Uint8Array(4).fill(1) };
    expect(await hiding.predict(all)).toEqual(await plain.predict(batch));
  });
});

describe('life', () => {
  test('a disposed network says so; cancelled work rejects', async () => {
    const network = await smallNetwork();
    const batch = predictionBatch(network.config as Config, 4);
    const running = network.predict(batch);
    network.cancel();
    expect((await rejection(running)).code).toBe('CANCELLED');
    await network.predict(batch);
    network.dispose();
    network.dispose();
    expect(() => network.predict(batch)).toThrow(/disposed/);
  });
});
