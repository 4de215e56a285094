// Training and generating on a few drawn stickers: resume after any stop with the same numbers, settings that cannot work,
// given frames that come back exactly.

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { StickerDataset } from '../src/data/stickers/dataset.js';
import { native } from '../src/native.js';
import { StickerCheckpoints } from '../src/stickers/checkpoints.js';
import type { StickerStep } from '../src/stickers/metrics.js';
import { StickerPipeline } from '../src/stickers/pipeline.js';
import type { StickerTrainerOptions } from '../src/stickers/settings.js';
import { generateStickers } from '../src/stickers/synthetic/generate.js';
import { StickerTrainer } from '../src/stickers/trainer.js';
import { tinyNetwork } from './sticker-support.js';

let folder: string;
let data: StickerDataset;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'duet-trainer-'));
  await generateStickers(join(folder, 'drawn'), { size: 16, frames: 4 });
  data = await StickerDataset.fromFolder(join(folder, 'drawn'), { frames: 4, size: 16 });
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const network = { ...tinyNetwork, num_frames: 4, in_channels: 12 };

function trainer(changes: Partial<StickerTrainerOptions> = {}): StickerTrainer {
  return new StickerTrainer({
    network,
    data,
    patch: 2,
    steps: 6,
    batchSize: 2,
    learningRate: 1e-3,
    reportEvery: 4,
    checkpointEvery: 2,
    seed: 3,
    threads: 1,
    ...changes,
  });
}

async function finished(one: StickerTrainer, signal?: AbortSignal): Promise<StickerStep[]> {
  const steps: StickerStep[] = [];
  for await (const step of one.run({ signal })) steps.push(step);
  return steps;
}

const numbers = (steps: StickerStep[]) => steps.map(({ metrics: _, ...step }) => step);

async function weights(run: string): Promise<Buffer> {
  return readFile((await StickerCheckpoints.weightsOf(run)).file);
}

describe('a training', () => {
  test('stopped in the middle and resumed gives the numbers of one that was not', async () => {
    const [whole, cut] = [join(folder, 'whole'), join(folder, 'cut')];
    const wanted = await finished(trainer({ runDir: whole }));
    expect(wanted.map(({ number }) => number)).toEqual([1, 2, 3, 4, 5, 6]);
    const abort = new AbortController();
    const seen: StickerStep[] = [];
    const run = async () => {
      for await (const step of trainer({ runDir: cut }).run({ signal: abort.signal })) {
        seen.push(step);
        if (step.number === 3) abort.abort();
      }
    };
    await expect(run()).rejects.toMatchObject({ code: 'CANCELLED' });
    seen.push(...(await finished(trainer({ runDir: cut, resume: true }))));
    expect(numbers(seen)).toEqual(numbers(wanted));
    expect((await weights(cut)).equals(await weights(whole))).toBe(true);
    const lines = async (path: string) =>
      (await readFile(join(path, 'metrics.jsonl'), 'utf8'))
        .trim()
        .split('\n')
        .map((line) => ({ ...JSON.parse(line), timing: undefined }));
    expect(await lines(cut)).toEqual(await lines(whole));
  });

  test('whose newest checkpoint is damaged continues from the one before', async () => {
    const run = join(folder, 'damaged');
    const wanted = await finished(trainer({ runDir: run }));
    await writeFile(join(run, 'checkpoints/step-0000006/weights.safetensors'), 'half a file');
    const again = await finished(trainer({ runDir: run, resume: true }));
    expect(numbers(again)).toEqual(numbers(wanted).slice(4));
  });

  test('refuses a run folder of other settings and names them', async () => {
    const run = join(folder, 'other');
    await finished(trainer({ runDir: run, steps: 1 }));
    await expect(finished(trainer({ runDir: run, steps: 1 }))).rejects.toThrow(/already holds a run/);
    await expect(
      finished(trainer({ runDir: run, steps: 1, resume: true, learningRate: 2e-3 })),
    ).rejects.toThrow(/learningRate/);
  });

  test.each([
    [{ network: { ...network, num_frames: 8 } }, /num_frames 4/],
    [{ network: { ...network, in_channels: 3 } }, /in_channels 12/],
    [{ patch: 3 }, /in_channels/],
    [{ steps: 0 }, /steps/],
    [{ learningRate: Number.NaN }, /learningRate/],
    [{ curriculum: 'hard' as never }, /curriculum/],
    [{ space: { autoencoder: '/nowhere' } }, /nowhere/],
  ])('refuses %j', async (changes, message) => {
    await expect((async () => finished(trainer(changes)))()).rejects.toThrow(message);
  });
});

describe('a pipeline', () => {
  test('gives the same sticker for the same seed, and another for another', async () => {
    const run = join(folder, 'generate');
    await finished(trainer({ runDir: run, steps: 2 }));
    using pipeline = await StickerPipeline.load(run, { threads: 1 });
    const options = { prompt: 'a red ball bounces', steps: 3, seed: 1 };
    const first = await pipeline.generate(options);
    expect(first.delays.length).toBe(4);
    expect(first.rgba.length).toBe(4 * 16 * 16 * 4);
    expect((await pipeline.generate(options)).rgba).toEqual(first.rgba);
    expect((await pipeline.generate({ ...options, seed: 2 })).rgba).not.toEqual(first.rgba);
  });

  test('puts given frames back exactly, and refuses places outside of the sticker', async () => {
    const run = join(folder, 'keep');
    await finished(trainer({ runDir: run, steps: 1 }));
    using pipeline = await StickerPipeline.load(run, { threads: 1 });
    const batch = await data.batch(data.samples.slice(0, 1));
    const truth = await native.framesFromValues(batch!.values, 4, 16, 16, 3);
    const given = { width: 16, height: 16, rgba: truth.slice(0, 16 * 16 * 4) };
    const { rgba } = await pipeline.generate({ keep: { 2: given }, steps: 2 });
    expect(rgba.subarray(2 * 1024, 3 * 1024)).toEqual(given.rgba);
    await expect(pipeline.generate({ keep: { 4: given } })).rejects.toThrow(/0 to 3/);
    await expect(pipeline.generate({ frames: 9 })).rejects.toThrow(/1 to 4 frames/);
    await expect(pipeline.generate({ keep: { 0: join(folder, 'none.png') } })).rejects.toThrow(/none.png/);
  });

  test('shows previews and stops when asked to', async () => {
    using pipeline = await StickerPipeline.load(join(folder, 'keep'), { threads: 1 });
    const shown: number[] = [];
    await pipeline.generate({
      steps: 4,
      previewEvery: 2,
      onPreview: (_sticker, step) => {
        shown.push(step);
      },
    });
    expect(shown).toEqual([2]);
    const abort = new AbortController();
    const stopped = pipeline.generate({
      steps: 4,
      signal: abort.signal,
      onStep: (step) => step === 2 && abort.abort(),
    });
    await expect(stopped).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});
