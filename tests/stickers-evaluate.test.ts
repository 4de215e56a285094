/** An evaluation: frames filled in by a network and by the baselines, denoising losses, features of ONNX models. */

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { StickerDataset } from '../src/data/stickers/dataset.js';
import { DfgnConfig } from '../src/models/dfgn-config.js';
import { native } from '../src/native.js';
import { evaluationTables } from '../src/report/stickers.js';
import { type EvaluateOptions, evaluateStickers, FILLING_TASKS } from '../src/stickers/evaluate.js';
import { baseline } from '../src/stickers/evaluation/baselines.js';
import { type ClipShape, psnr } from '../src/stickers/evaluation/metrics.js';
import {
  arranged,
  OnnxFeatures,
  type OnnxFeaturesOptions,
} from '../src/stickers/evaluation/onnx-features.js';
import { StickerPipeline } from '../src/stickers/pipeline.js';
import { DRAWINGS } from '../src/stickers/synthetic/drawings.js';
import { generateStickers } from '../src/stickers/synthetic/generate.js';
import { TASKS } from '../src/stickers/tasks.js';
import { StickerTrainer } from '../src/stickers/trainer.js';

const SHAPE = { channels: 3, frames: 4, height: 16, width: 16 } as const;
const PLANE = SHAPE.height * SHAPE.width;

/** Stands in for onnxruntime-node: one feature a frame, the mean of all its values. */
const runs: { dims: number[]; type: string; data: Float32Array }[] = [];
/** What models declare. */
const DECLARED: Record<string, (number | string)[] | undefined> = {
  'model.onnx': undefined,
  'free.onnx': ['batch', 'frames', 3, 'height', 'width'],
  'sized.onnx': ['batch', 4, 3, 24, 20],
  'frames.onnx': [1, 16, 3, 224, 224],
  'flat.onnx': ['batch', 3, 224, 224],
};
vi.mock('onnxruntime-node', () => ({
  Tensor: class {
    constructor(
      readonly type: string,
      readonly data: Float32Array,
      readonly dims: number[],
    ) {}
  },
  InferenceSession: {
    create: async (path: string) => {
      if (!(path in DECLARED)) throw new Error('no such model');
      const shape = DECLARED[path];
      return {
        inputNames: ['clip'],
        outputNames: ['features', 'other'],
        ...(shape && { inputMetadata: [{ name: 'clip', isTensor: true, type: 'float32', shape }] }),
        run: async ({ clip }: { clip: { type: string; data: Float32Array; dims: number[] } }) => {
          const [, frames, channels, height, width] = clip.dims as [number, number, number, number, number];
          if (frames !== SHAPE.frames) throw new Error('wrong dimensions');
          runs.push({ dims: clip.dims, type: clip.type, data: clip.data });
          const each = channels * height * width;
          const features = Float32Array.from(
            { length: frames },
            (_, frame) =>
              clip.data.subarray(frame * each, (frame + 1) * each).reduce((sum, value) => sum + value, 0) /
              each,
          );
          return { features: { data: features }, other: { data: [1n] } };
        },
      };
    },
  },
}));

let folder: string;
let data: StickerDataset;
let pipeline: StickerPipeline;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'duet-evaluate-'));
  await generateStickers(join(folder, 'data'), { drawings: DRAWINGS.slice(0, 4), size: 32, frames: 8 });
  data = await StickerDataset.fromFolder(join(folder, 'data'), { frames: 4, size: 16 });
  const runDir = join(folder, 'run');
  const network = { ...DfgnConfig.tiny, block_out_channels: [8, 8] };
  const trainer = new StickerTrainer({ network, data, patch: 2, steps: 1, batchSize: 2, runDir });
  for await (const _ of trainer.run());
  pipeline = await StickerPipeline.load(runDir);
});
afterAll(async () => {
  pipeline?.dispose();
  await rm(folder, { recursive: true });
});

const evaluate = (options: EvaluateOptions = {}, what = data) =>
  evaluateStickers(pipeline, what, { sampling: { steps: 1 }, timesteps: [100, 900], ...options });

describe('an evaluation', () => {
  test('judges the frames that were not given, beside both baselines', async () => {
    const clips: Parameters<NonNullable<EvaluateOptions['onClip']>>[0][] = [];
    const found = await evaluate({ batchSize: 3, onClip: (clip) => clips.push(clip) });
    expect(found.clips).toBe(4);
    expect(clips).toHaveLength(4 * FILLING_TASKS.length);
    const made = { interpolation: [1, 3], pre_frame_prediction: [0, 1], post_frame_prediction: [2, 3] };
    for (const task of FILLING_TASKS) {
      const own = clips.filter((clip) => clip.task === task);
      let sum = 0;
      for (const { truth, filled, made: judged } of own) {
        expect(judged).toEqual(made[task]);
        const mask = [0, 1, 2, 3].map((frame) => (judged.includes(frame) ? 0 : 1));
        expect(filled.blend).toEqual(baseline('blend', truth, SHAPE, mask));
        // Given frames are the true ones, the others are the network's own.
        for (const [frame, given] of mask.entries()) {
          const of = (values: Float32Array) => values.slice(frame * PLANE, (frame + 1) * PLANE);
          if (given) expect(of(filled.network)).toEqual(of(truth));
          else expect(of(filled.network)).not.toEqual(of(truth));
        }
        sum += psnr(filled.network, truth, SHAPE, judged);
      }
      expect(found.filling[task].network.psnr).toBeCloseTo(sum / 4, 9);
      expect(found.filling[task].clips).toBe(4);
    }
    for (const task of TASKS) {
      const { byLevel, mean } = found.denoising[task];
      expect(byLevel.map(({ timestep }) => timestep)).toEqual([100, 900]);
      expect(mean).toBeCloseTo((byLevel[0]!.loss + byLevel[1]!.loss) / 2, 9);
      expect(mean).toBeGreaterThan(0);
    }
    expect(found).not.toHaveProperty('frechet');
  });

  test('gives the same numbers again', async () => {
    expect(await evaluate()).toEqual(await evaluate());
  });

  test('refuses data of other sizes, also where the number of values is the same', async () => {
    const open = (options: object) => StickerDataset.fromFolder(join(folder, 'data'), options);
    await expect(evaluate({}, await open({ frames: 1, size: 32 }))).rejects.toThrow(
      /data of frames 4, as the network was trained on, but received 1/,
    );
    await expect(evaluate({}, await open({ frames: 4, size: 32 }))).rejects.toThrow(
      /size 16, .* received 32/,
    );
    await expect(evaluate({}, await open({ frames: 4, size: 16, channels: 4 }))).rejects.toThrow(
      /channels 3, .* received 4/,
    );
  });

  test('says so when no sticker can be used', async () => {
    const bad = join(folder, 'bad');
    await mkdir(bad);
    await writeFile(join(bad, 'a.gif'), 'GIF89a, and no more');
    await writeFile(join(bad, 'a.txt'), 'a ball');
    const none = await StickerDataset.fromFolder(bad, { frames: 4, size: 16 });
    await expect(evaluate({}, none)).rejects.toThrow(
      /at least 1 usable sticker in bad but found none: 1 skipped/,
    );
  });
});

describe('features of an ONNX model', () => {
  test('become a Frechet distance a task', async () => {
    const features = await OnnxFeatures.load('model.onnx', { layout: 'BFCHW' });
    const found = await evaluate({ features });
    expect(runs[0]).toMatchObject({ dims: [1, 4, 3, 16, 16], type: 'float32' });
    expect(runs).toHaveLength(4 * 2 * FILLING_TASKS.length);
    for (const task of FILLING_TASKS) expect(found.frechet?.[task]).toBeGreaterThan(0);
    expect(evaluationTables(found)).toMatch(/Frechet distance: interpolation (?=.*[1-9])[\d.e-]{5,} /);
  });

  const clip = (channels: number) =>
    Float32Array.from({ length: channels * SHAPE.frames * PLANE }, (_, i) => Math.sin(i));
  const lastRun = async (model: string, options: OnnxFeaturesOptions, shape: ClipShape = SHAPE) => {
    const features = await OnnxFeatures.load(model, { layout: 'BFCHW', ...options });
    await features.extract([clip(shape.channels)], shape);
    return runs.at(-1)!;
  };

  test('see frames of the size they declare, or are told to have', async () => {
    expect((await lastRun('free.onnx', {})).dims).toEqual([1, 4, 3, 16, 16]);
    expect((await lastRun('model.onnx', { size: 24 })).dims).toEqual([1, 4, 3, 24, 24]);
    const { dims, data } = await lastRun('sized.onnx', {});
    expect(dims).toEqual([1, 4, 3, 24, 20]);
    const resized = await native.resizeValues(clip(3), 16, 16, 24, 20);
    expect(data).toEqual(arranged(resized, { ...SHAPE, height: 24, width: 20 }, 'BFCHW').data);
  });

  test('of three channels do not see alpha', async () => {
    const { dims, data } = await lastRun('free.onnx', {}, { ...SHAPE, channels: 4 });
    expect(dims).toEqual([1, 4, 3, 16, 16]);
    expect(data).toEqual(arranged(clip(4).subarray(0, 3 * 4 * PLANE), SHAPE, 'BFCHW').data);
    expect((await lastRun('model.onnx', {}, { ...SHAPE, channels: 4 })).dims).toEqual([1, 4, 4, 16, 16]);
  });

  test.each([
    [
      'frames.onnx',
      {},
      /Expected clips of 1x16x3x224x224, as the ONNX model declares, but received 1x4x3x224x224 \(BFCHW\)/,
    ],
    [
      'sized.onnx',
      { size: 24 },
      /of batchx4x3x24x20, .* received 1x4x3x24x24 \(BFCHW\); choose its layout and size, train/,
    ],
    ['sized.onnx', { layout: 'BCFHW' }, /received 1x3x4x24x20 \(BCFHW\)/],
    ['flat.onnx', {}, /Expected clips of batchx3x224x224, as/],
  ] as const)(
    '%s with %j: what it declares is not met, said before anything is computed',
    async (model, options, message) => {
      const features = await OnnxFeatures.load(model, { layout: 'BFCHW', ...options });
      const seen = runs.length;
      const onProgress = vi.fn();
      await expect(evaluate({ features, onProgress })).rejects.toThrow(message);
      expect(onProgress).not.toHaveBeenCalled();
      await expect(features.extract([clip(3)], SHAPE)).rejects.toThrow(message);
      expect(runs).toHaveLength(seen);
    },
  );

  test('need two clips', async () => {
    const features = await OnnxFeatures.load('model.onnx', { layout: 'BFCHW' });
    const found = await evaluate(
      { features },
      data.where(({ name }) => name === data.samples[0]!.name),
    );
    expect(found.frechet).toEqual({});
    expect(evaluationTables(found)).toMatch(/interpolation \(needs 2 clips\)/);
  });

  test('of a model that is not there, does not take the clips, or gives something else', async () => {
    await expect(OnnxFeatures.load('model.onnx', { layout: 'BHWC' as 'BFHWC' })).rejects.toThrow(
      /one of BCFHW, BFCHW, BFHWC for layout but received "BHWC"/,
    );
    await expect(OnnxFeatures.load('model.onnx', { size: 0 })).rejects.toThrow(
      /integer of at least 1 for size but received 0/,
    );
    await expect(OnnxFeatures.load('none.onnx')).rejects.toThrow(/Cannot load the ONNX model none.onnx/);
    await expect((await OnnxFeatures.load('model.onnx')).extract([clip(3)], SHAPE)).rejects.toThrow(
      /does not take clips of 1x3x4x16x16 \(BCFHW\): wrong dimensions; choose another layout or size/,
    );
    const other = await OnnxFeatures.load('model.onnx', { layout: 'BFCHW', output: 'other' });
    await expect(other.extract([clip(3)], SHAPE)).rejects.toThrow(/float32 in the output other/);
  });
});
