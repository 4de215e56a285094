// Features of real ONNX models, computed by onnxruntime-node. The package is large (300 MB) and optional: without it only what is said
// then is tested. With it: `npm install --no-save onnxruntime-node` (ONNXRUNTIME_NODE_INSTALL=skip leaves its GPU libraries out).

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { StickerDataset } from '../src/data/stickers/dataset.js';
import { native } from '../src/native.js';
import { evaluateStickers, FILLING_TASKS } from '../src/stickers/evaluate.js';
import { featureStatistics, frechetDistance } from '../src/stickers/evaluation/frechet.js';
import type { ClipShape } from '../src/stickers/evaluation/metrics.js';
import { CLIP_LAYOUTS, OnnxFeatures } from '../src/stickers/evaluation/onnx-features.js';
import { StickerPipeline } from '../src/stickers/pipeline.js';
import { generateStickers } from '../src/stickers/synthetic/generate.js';
import { StickerTrainer } from '../src/stickers/trainer.js';
import { succeed } from './cli-support.js';
import { temporaryFolder } from './data-support.js';
import { tinyNetwork } from './sticker-support.js';
import { type OnnxNode, onnxModel } from './support/onnx-model.js';

const PACKAGE = 'onnxruntime-node';
const installed = await import(PACKAGE).then(
  () => true,
  () => false,
);
if (!installed) console.log(`skipped: ${PACKAGE} is not installed, which is optional`);

const SHAPE: ClipShape = { channels: 3, frames: 4, height: 16, width: 12 };
const FEATURES = 5;
const weights = Float32Array.from({ length: 3 * FEATURES }, (_, i) => Math.cos(i) + 0.5);
const bias = Float32Array.from({ length: FEATURES }, (_, i) => i / 4);

let folder: string;
/** Writes a model of clips [1, 3, frames, height, width]: the mean of every channel, times a matrix, plus a bias, then what is added. */
async function save(name: string, axes: readonly (number | string)[], ...more: OnnxNode[]): Promise<string> {
  const path = join(folder, name);
  const nodes = [
    { op: 'GlobalAveragePool', inputs: ['clip'], output: 'means' },
    { op: 'Flatten', inputs: ['means'], output: 'flat' },
    { op: 'MatMul', inputs: ['flat', 'matrix'], output: 'product' },
    { op: 'Add', inputs: ['product', 'bias'], output: 'features' },
    ...more,
  ];
  const matrix = { shape: [3, FEATURES], data: weights };
  await writeFile(
    path,
    onnxModel({
      nodes,
      weights: { matrix, bias: { shape: [FEATURES], data: bias } },
      input: ['clip', axes],
      output: [nodes.at(-1)?.output ?? '', [1, FEATURES]],
    }),
  );
  return path;
}

const FREE = [1, 3, 'frames', 'height', 'width'];
const clips = [1, 2, 3].map((seed) =>
  Float32Array.from({ length: 3 * 4 * 16 * 12 }, (_, i) => Math.sin(seed * (i + 1) + i / 900)),
);

/** What the model computes, by hand. */
function featuresOf(clip: Float32Array): number[] {
  const each = clip.length / 3;
  const means = [0, 1, 2].map((channel) => {
    const values = clip.subarray(channel * each, (channel + 1) * each);
    return values.reduce((sum, value) => sum + value, 0) / each;
  });
  return Array.from(bias, (offset, j) =>
    means.reduce((sum, mean, i) => sum + mean * (weights[i * FEATURES + j] as number), offset),
  );
}

const expectNear = (found: ArrayLike<number>, wanted: readonly number[]): void => {
  expect(found).toHaveLength(wanted.length);
  for (const [i, value] of wanted.entries()) expect(found[i]).toBeCloseTo(value, 5);
};

beforeAll(async () => {
  folder = await temporaryFolder();
});

test.skipIf(installed)('without the package it says how to get it', async () => {
  await expect(OnnxFeatures.load('model.onnx')).rejects.toMatchObject({
    code: 'UNSUPPORTED',
    message: expect.stringMatching(
      /onnxruntime-node, which is not there; run: npm install onnxruntime-node$/,
    ),
  });
});

describe.skipIf(!installed)('a real ONNX model', () => {
  test('gives its features of every clip', async () => {
    const features = await OnnxFeatures.load(await save('free.onnx', FREE));
    features.check(SHAPE);
    const found = await features.extract(clips, SHAPE);
    for (const [i, clip] of clips.entries()) expectNear(found[i] as Float32Array, featuresOf(clip));
  });

  test('gets frames of the size it declares, and refuses numbers of frames it does not take', async () => {
    const features = await OnnxFeatures.load(await save('sized.onnx', [1, 3, 4, 8, 24]));
    const resized = await native.resizeValues(clips[0] as Float32Array, 16, 12, 8, 24);
    const [found] = await features.extract(clips, SHAPE);
    expectNear(found as Float32Array, featuresOf(resized));
    expect(() => features.check({ ...SHAPE, frames: 5 })).toThrow(
      /Expected clips of 1x3x4x8x24, as the ONNX model declares, but received 1x3x5x8x24/,
    );
  });

  test.each(CLIP_LAYOUTS.slice(1))('in layout %s', async (layout) => {
    const axes = [...layout].map((axis) => (axis === 'C' ? 3 : axis === 'B' ? 1 : axis));
    const path = join(folder, `${layout}.onnx`);
    const nodes = [{ op: 'Identity', inputs: ['clip'], output: 'same' }];
    await writeFile(path, onnxModel({ nodes, input: ['clip', axes], output: ['same', axes] }));
    const [found] = await (await OnnxFeatures.load(path, { layout })).extract(clips, SHAPE);
    const { frames, height, width } = SHAPE;
    const at = (channel: number, frame: number, pixel: number) =>
      clips[0]?.[(channel * frames + frame) * height * width + pixel];
    const plane = height * width;
    expect(found?.[layout === 'BFCHW' ? 3 * 3 * plane + plane + 7 : (3 * plane + 7) * 3 + 1]).toBe(
      at(1, 3, 7),
    );
  });

  test('that is none, or whose output is not finite, is named', async () => {
    const none = join(folder, 'none.onnx');
    await writeFile(none, 'no model');
    await expect(OnnxFeatures.load(none)).rejects.toMatchObject({
      code: 'CORRUPT',
      message: expect.stringContaining(`Cannot load the ONNX model ${none}: `),
    });
    // Of what is below 0 there is no logarithm.
    const path = await save('logarithm.onnx', FREE, {
      op: 'Log',
      inputs: ['features'],
      output: 'logarithms',
    });
    const model = await OnnxFeatures.load(path);
    await expect(
      model.extract([new Float32Array(clips[0]?.length ?? 0).fill(-1)], SHAPE),
    ).rejects.toMatchObject({
      code: 'NOT_FINITE',
      message: `Expected finite numbers but found NaN or infinity in the output logarithms of the ONNX model ${path}; look at the model`,
    });
    const broken = clips.map((clip, i) => (i === 1 ? clip.with(5, Number.NaN) : clip));
    await expect(model.extract(broken.slice(1), SHAPE)).rejects.toMatchObject({
      code: 'NOT_FINITE',
      message: 'Expected finite numbers but found NaN or infinity in clip 0, before any model saw it',
    });
  });

  test('makes the Frechet distances of an evaluation, in the API and on the command line', async () => {
    await generateStickers(join(folder, 'data'), { size: 16, frames: 4 });
    const all = await StickerDataset.fromFolder(join(folder, 'data'), { frames: 4, size: 16 });
    const data = (await all.prepare()).where(({ name }) => name < 'd');
    const runDir = join(folder, 'run');
    const options = { network: tinyNetwork, data, patch: 1, steps: 1, batchSize: 2, threads: 1, runDir };
    for await (const _ of new StickerTrainer(options).run());
    using pipeline = await StickerPipeline.load(runDir, { threads: 1 });
    const path = await save('fvd.onnx', [1, 3, 'frames', 8, 8]);
    const features = await OnnxFeatures.load(path);
    const seen = new Map(FILLING_TASKS.map((task) => [task, [] as Float32Array[]]));
    const found = await evaluateStickers(pipeline, data, {
      sampling: { steps: 2 },
      timesteps: [500],
      features,
      onClip: ({ task, filled }) => void seen.get(task)?.push(filled.network),
    });
    const batch = await data.batch(data.samples);
    const each = 3 * 4 * 16 * 16;
    const truths = data.samples.map(
      (_, i) => batch?.values.subarray(i * each, (i + 1) * each) as Float32Array,
    );
    const statistics = async (values: Float32Array[]) => {
      const resized = await Promise.all(values.map((clip) => native.resizeValues(clip, 16, 16, 8, 8)));
      return featureStatistics(resized.map(featuresOf));
    };
    for (const task of FILLING_TASKS) {
      const wanted = frechetDistance(await statistics(seen.get(task) ?? []), await statistics(truths));
      expect(wanted).toBeGreaterThan(1e-3);
      expect(found.frechet?.[task]).toBeCloseTo(wanted, 4);
    }
    const { stdout } = await succeed(
      ...['stickers', 'evaluate', runDir, join(folder, 'data'), '--all', '--most', '2', '--steps', '1'],
      ...['--features', path, '--threads', '1'],
    );
    expect(stdout).toMatch(/^Frechet distance: interpolation \d/m);
  });
});
