// Training and generating on a few drawn stickers: resume after any stop with the same numbers, settings that cannot work,
// given frames that come back exactly.

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { StickerDataset } from '../src/data/stickers/dataset.js';
import type { MemoryPlan } from '../src/native/stickers.js';
import { native } from '../src/native.js';
import type { StickerStep } from '../src/stickers/metrics.js';
import type { Parts } from '../src/stickers/parts.js';
import { StickerPipeline } from '../src/stickers/pipeline.js';
import type { StickerTrainerOptions } from '../src/stickers/settings.js';
import { generateStickers } from '../src/stickers/synthetic/generate.js';
import { TASKS } from '../src/stickers/tasks.js';
import { trainedStickers } from '../src/stickers/trained-stickers.js';
import { StickerTrainer } from '../src/stickers/trainer.js';
import { largestDifference } from './dfgn-support.js';
import { allSteps, lastWeights, lastWeightsFile, tinyNetwork, withoutMetrics } from './sticker-support.js';

let folder: string;
let data: StickerDataset;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'duet-trainer-'));
  await generateStickers(join(folder, 'drawn'), { size: 16, frames: 4 });
  data = await (await StickerDataset.fromFolder(join(folder, 'drawn'), { frames: 4, size: 16 })).prepare();
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

describe('a training', () => {
  test('stopped in the middle and resumed gives the numbers of one that was not', async () => {
    const [whole, cut] = [join(folder, 'whole'), join(folder, 'cut')];
    const wanted = await allSteps(trainer({ runDir: whole }));
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
    seen.push(...(await allSteps(trainer({ runDir: cut, resume: true }))));
    expect(withoutMetrics(seen)).toEqual(withoutMetrics(wanted));
    expect((await lastWeights(cut)).equals(await lastWeights(whole))).toBe(true);
    const lines = async (path: string) =>
      (await readFile(join(path, 'metrics.jsonl'), 'utf8'))
        .trim()
        .split('\n')
        .map((line) => ({ ...JSON.parse(line), timing: undefined }));
    expect(await lines(cut)).toEqual(await lines(whole));
  });

  test('notes what it was trained on, also before it was resumed, without decoding all of it', async () => {
    const runDir = join(folder, 'noted');
    const open = () => StickerDataset.fromFolder(join(folder, 'drawn'), { frames: 4, size: 16 });
    const noted = async () => {
      await allSteps(trainer({ runDir, data: await open(), steps: 2, resume: true }));
      return JSON.parse(await readFile(join(runDir, 'data.json'), 'utf8')).fingerprints;
    };
    const before = await noted();
    expect(Object.keys(before).length).toBeGreaterThanOrEqual(4);
    expect(Object.keys(before).length).toBeLessThan(data.size);
    expect(data.fingerprints).toMatchObject(before);
    expect(await noted()).toEqual(before); // decodes nothing
  });

  test('whose newest checkpoint is damaged continues from the one before', async () => {
    const run = join(folder, 'damaged');
    const wanted = await allSteps(trainer({ runDir: run }));
    await writeFile(join(run, 'checkpoints/step-0000006/weights.safetensors'), 'half a file');
    const again = await allSteps(trainer({ runDir: run, resume: true }));
    expect(withoutMetrics(again)).toEqual(withoutMetrics(wanted).slice(4));
  });

  test.each(['first-moment', 'second-moment', 'weights'])(
    'whose newest checkpoint has a NaN in its %s names the file and continues from the one before',
    async (part) => {
      const runDir = join(folder, `nan-${part}`);
      const wanted = await allSteps(trainer({ runDir }));
      const path = join(runDir, 'checkpoints/step-0000006', `${part}.safetensors`);
      const { tensors } = await native.readSafetensors(path);
      const kernel = tensors['conv_in.weight'];
      if (!kernel) throw new Error('Expected conv_in.weight');
      (kernel.data as Float32Array)[3] = Number.NaN;
      await native.writeSafetensors(path, tensors, {});
      const again = trainer({ runDir, resume: true });
      expect(withoutMetrics(await allSteps(again))).toEqual(withoutMetrics(wanted).slice(4));
      expect(again.damaged).toEqual([
        expect.stringContaining(`Expected finite numbers in ${path} but conv_in.weight has NaN or infinity`),
      ]);
    },
  );

  test.each(['half of it', '{"fingerprints": {"a": 1}}'])(
    'whose data.json is %s writes it again and says so',
    async (damaged) => {
      const runDir = join(folder, `undescribed-${damaged.length}`);
      const path = join(runDir, 'data.json');
      await allSteps(trainer({ runDir }));
      const written = await readFile(path, 'utf8');
      await writeFile(path, damaged);
      await expect(trainedStickers(runDir)).rejects.toMatchObject({
        code: 'CORRUPT',
        message: expect.stringMatching(/data\.json.*; resume the training, .*, or delete it/),
      });
      const all = await StickerDataset.fromFolder(join(folder, 'drawn'), { frames: 4, size: 16 });
      const undecoded = all.where(({ name }) => name in data.fingerprints);
      const again = trainer({ runDir, data: undecoded, resume: true });
      expect(await allSteps(again)).toEqual([]);
      expect(again.damaged).toEqual([expect.stringMatching(/data\.json.*; it is written again$/)]);
      expect(JSON.parse(await readFile(path, 'utf8')).fingerprints).toEqual(JSON.parse(written).fingerprints);
    },
  );

  test('refuses a run folder of other settings and names them', async () => {
    const run = join(folder, 'other');
    await allSteps(trainer({ runDir: run, steps: 1 }));
    await expect(allSteps(trainer({ runDir: run, steps: 1 }))).rejects.toThrow(/already holds a run/);
    await expect(
      allSteps(trainer({ runDir: run, steps: 1, resume: true, learningRate: 2e-3 })),
    ).rejects.toThrow(/learningRate/);
  });

  test.each([
    [{ network: { ...network, num_frames: 8 } }, /num_frames 4/],
    [{ network: { ...network, in_channels: 3 } }, /in_channels 12/],
    [{ patch: 3 }, /multiple of the patch, 3, but received 16/],
    [{ steps: 0 }, /steps/],
    [{ learningRate: Number.NaN }, /learningRate/],
    [{ curriculum: 'hard' as never }, /curriculum/],
    [
      { curiculum: 'static' } as object,
      /received curiculum \(perhaps curriculum\); known are network, data, .*reportEvery/,
    ],
    [
      { schedule: { warmpu: 0.1 } } as object,
      /received schedule.warmpu \(perhaps warmup\); known are kind, warmup \(in the options of StickerTrainer\)/,
    ],
  ])('refuses %j', async (changes, message) => {
    await expect((async () => allSteps(trainer(changes)))()).rejects.toThrow(message);
  });

  test('that could not begin can be tried again, and leaves no run behind', async () => {
    const run = join(folder, 'small');
    const network = { ...tinyNetwork, block_out_channels: [8, 8, 8, 8], num_frames: 4, in_channels: 12 };
    for (const one of [
      trainer({ space: { autoencoder: '/nowhere' }, patch: 1 }),
      trainer({ network, patch: 2, runDir: run }),
    ]) {
      const first = await allSteps(one).catch((error: Error) => error.message);
      expect(first).toMatch(/\/nowhere|pictures of at least 9 x 9/);
      await expect(allSteps(one)).rejects.toThrow(first as string);
    }
    await expect(readFile(join(run, 'config.json'))).rejects.toThrow(/ENOENT/);
  });
});

describe('a curriculum', () => {
  test('begins again with a second run of the trainer', async () => {
    const one = trainer({ steps: 16, batchSize: 1, curriculum: 'adaptive' });
    const first = withoutMetrics(await allSteps(one));
    expect(withoutMetrics(await allSteps(one))).toEqual(first);
  });

  const own = (changes: object) => ({
    name: 'own',
    weights: () => [1, 1, 1, 1, 1, 1],
    observe: () => {},
    state: () => ({}),
    restore: () => {},
    ...changes,
  });

  test.each([
    [{ state: () => undefined }, /Expected object for state\(\) of the curriculum own but received nothing/],
    [{ state: () => ({ seen: new Map() }) }, /Expected plain JSON for state\(\) of the curriculum own/],
    [{ state: () => ({ loss: Number.NaN }) }, /Expected plain JSON for state/],
    [{ weights: () => undefined }, /Expected list for the task weights but received nothing/],
  ])('of your own has to give what a checkpoint can hold: %o', async (changes, message) => {
    const run = async () => allSteps(trainer({ curriculum: own(changes) as never }));
    await expect(run()).rejects.toThrow(message);
  });
});

describe('options of a training', () => {
  const rates = async (schedule: StickerTrainerOptions['schedule']) =>
    (await allSteps(trainer({ steps: 8, ...(schedule && { schedule }) }))).map((step) => step.learningRate);

  test('schedules: constant, linear and cosine, after a share of warm-up', async () => {
    const warm = [0, 0.5e-3];
    const decay = (shape: (done: number) => number) =>
      Array.from({ length: 6 }, (_, step) => 1e-3 * shape(step / 6));
    const close = (found: number[], wanted: number[]) => {
      expect(found).toHaveLength(wanted.length);
      for (const [step, rate] of found.entries()) expect(rate).toBeCloseTo(wanted[step]!, 12);
    };
    close(await rates(undefined), new Array(8).fill(1e-3));
    close(await rates({ warmup: 0.25 }), [...warm, ...decay(() => 1)]);
    close(await rates({ kind: 'linear', warmup: 0.25 }), [...warm, ...decay((done) => 1 - done)]);
    const cosine = (done: number) => (1 + Math.cos(Math.PI * done)) / 2;
    close(await rates({ kind: 'cosine', warmup: 0.25 }), [...warm, ...decay(cosine)]);
  });

  test('moving averages follow the weights of every step', async () => {
    const run = join(folder, 'averages');
    const steps = 5;
    await allSteps(
      trainer({ runDir: run, steps, checkpointEvery: 1, keepCheckpoints: steps, emaDecay: 0.3 }),
    );
    const valuesOf = async (step: number, part: 'weights' | 'average') => {
      const path = join(run, `checkpoints/step-000000${step}/${part}.safetensors`);
      const { tensors } = await native.readSafetensors(path);
      return Float64Array.from(
        Object.keys(tensors)
          .sort()
          .flatMap((name) => [...(tensors[name]?.data ?? [])].map(Number)),
      );
    };
    let average = await valuesOf(1, 'average');
    for (let step = 2; step <= steps; step++) {
      const decay = Math.min(0.3, (1 + step) / (10 + step));
      const weights = await valuesOf(step, 'weights');
      average = average.map((x, i) => decay * x + (1 - decay) * (weights[i] as number));
      const kept = await valuesOf(step, 'average');
      expect(largestDifference(kept, average)).toBeLessThan(1e-6);
      expect(largestDifference(kept, weights)).toBeGreaterThan(1e-5);
    }
  });

  test('without moving averages none are kept', async () => {
    const run = join(folder, 'no-averages');
    await allSteps(trainer({ runDir: run, steps: 1, emaDecay: null }));
    expect(await lastWeightsFile(run)).toMatch(/step-0000001.weights\.safetensors$/);
  });

  test('gradient checkpointing changes no bit, and the plan of memory is what is taken', async () => {
    const runs = [];
    for (const gradientCheckpointing of [false, true]) {
      const one = trainer({ steps: 2, gradientCheckpointing, network: { ...network, layers_per_block: 3 } });
      const steps: StickerStep[] = [];
      let opened: Parts | undefined;
      let plan: MemoryPlan | undefined;
      const onReady = (start: { parts: Parts; plan: MemoryPlan }) => {
        opened = start.parts;
        plan = start.plan;
      };
      for await (const step of one.run({ onReady })) {
        steps.push(step);
        const { arenaPeakBytes, trainingBytes } = opened!.network.memory();
        expect(arenaPeakBytes).toBe(plan!.activations + plan!.gradients);
        expect(trainingBytes).toBe(plan!.moments + plan!.averages);
      }
      runs.push({ steps: withoutMetrics(steps), bytes: plan!.activations });
    }
    expect(runs[1]!.steps).toEqual(runs[0]!.steps);
    expect(runs[1]!.bytes).toBeLessThan(0.7 * runs[0]!.bytes);
  });

  test('bf16 stays near fp32', async () => {
    const exact = await allSteps(trainer({ steps: 4 }));
    let half: StickerStep[];
    try {
      half = await allSteps(trainer({ steps: 4, compute: 'bf16' }));
    } catch (error) {
      expect((error as { code?: string }).code).toBe('UNSUPPORTED');
      console.log('skipped: this processor does not multiply bf16');
      return;
    }
    expect(half.map(({ loss }) => loss)).not.toEqual(exact.map(({ loss }) => loss));
    for (const [i, { loss, tasks }] of half.entries()) {
      expect(Math.abs(loss - exact[i]!.loss)).toBeLessThan(0.02 * exact[i]!.loss);
      expect(tasks.map(({ task }) => task)).toEqual(exact[i]!.tasks.map(({ task }) => task));
    }
  });

  test('accumulation: micro-batches of tasks of their own, their mean loss', async () => {
    expect(() => trainer({ accumulation: 1e9 })).toThrow(
      /at most 4096 for accumulation but received 1000000000/,
    );
    const [step] = await allSteps(trainer({ steps: 1, accumulation: 5 }));
    expect(step!.tasks).toHaveLength(5);
    expect(new Set(step!.tasks.map(({ task }) => task)).size).toBeGreaterThan(1);
    const losses = step!.tasks.flatMap(({ clipLosses }) => clipLosses);
    expect(losses).toHaveLength(10);
    expect(step!.loss).toBeCloseTo(losses.reduce((sum, loss) => sum + loss, 0) / 10, 5);
  });

  test('the loss mask, and what the loss is divided by', async () => {
    const short = await StickerDataset.fromFolder(join(folder, 'drawn'), { frames: 6, size: 16 });
    const sound = await short.prepare();
    const first = async (changes: Partial<StickerTrainerOptions>) =>
      (await allSteps(trainer({ steps: 1, data: sound, network: tinyNetwork, ...changes })))[0]!.loss;
    const published = await first({});
    // Clips have at most four frames of six.
    expect((await first({ lossOverKept: true })) / published).toBeGreaterThan(6 / 4 - 1e-5);
    expect((await first({ lossMask: false })) / published).toBeGreaterThan(1.2);
  });

  test.each(['uniform', 'static', 'adaptive', 'difficulty-adaptive'] as const)(
    'curriculum %s',
    async (curriculum) => {
      const run = join(folder, curriculum);
      const steps = await allSteps(trainer({ curriculum, runDir: run, steps: 16, batchSize: 1 }));
      const weights = steps.map((step) => TASKS.map((task) => step.weights[task]));
      expect(new Set(weights.map(String)).size > 1).toBe(curriculum !== 'uniform');
      const lines = (await readFile(join(run, 'metrics.jsonl'), 'utf8')).trim().split('\n');
      expect(JSON.parse(lines.at(-1)!).weights).toEqual(steps.at(-1)!.weights);
    },
  );
});

describe('a pipeline', () => {
  test('gives the same sticker for the same seed, and another for another', async () => {
    const run = join(folder, 'generate');
    await allSteps(trainer({ runDir: run, steps: 2 }));
    using pipeline = await StickerPipeline.load(run, { threads: 1 });
    const options = { prompt: 'a red ball bounces', steps: 3, seed: 1 };
    const first = await pipeline.generate(options);
    expect(first.delays.length).toBe(4);
    expect(first.rgba.length).toBe(4 * 16 * 16 * 4);
    expect((await pipeline.generate(options)).rgba).toEqual(first.rgba);
    expect((await pipeline.generate({ ...options, seed: 2 })).rgba).not.toEqual(first.rgba);
  });

  test('is told what it should not show, with and without a prompt', async () => {
    using pipeline = await StickerPipeline.load(join(folder, 'generate'), { threads: 1 });
    const made = async (prompt: string, negativePrompt?: string, guidance = 4) =>
      Buffer.from(
        (
          await pipeline.generate({
            prompt,
            steps: 2,
            guidance,
            ...(negativePrompt !== undefined && { negativePrompt }),
          })
        ).rgba,
      ).toString('latin1');
    const all = [
      await made(''),
      await made('', 'a red ball bounces'),
      await made('', 'a candle burns'),
      await made('a heart'),
      await made('a heart', 'a candle burns'),
    ];
    expect(new Set(all).size).toBe(all.length);
    expect(await made('', 'a candle burns', 1)).toBe(all[0]);
  });

  test('refuses what no file can say before it begins', async () => {
    using pipeline = await StickerPipeline.load(join(folder, 'generate'), { threads: 1 });
    const onStep = () => expect.unreachable();
    const misspelt = { negative_prompt: 'a dog', promt: 'a cat', colour: 2, onStep } as object;
    await expect(pipeline.generate(misspelt)).rejects.toThrow(
      /^Expected only known settings but received negative_prompt \(perhaps negativePrompt\), promt \(perhaps prompt\), colour; known are sampler, steps, .*, prompt, .*, onStep \(in options\)$/,
    );
    await expect(pipeline.generate({ loop: 65536, onStep })).rejects.toThrow(/0 and 65535 for loop/);
    await expect(pipeline.generate({ delay: 700_000, onStep })).rejects.toThrow(
      /number from 0 to 655350 \(ms\) for delay but received 700000/,
    );
  });

  test('puts given frames back exactly, and refuses places outside of the sticker', async () => {
    const run = join(folder, 'keep');
    await allSteps(trainer({ runDir: run, steps: 1 }));
    using pipeline = await StickerPipeline.load(run, { threads: 1 });
    const batch = await data.batch(data.samples.slice(0, 1));
    const truth = await native.framesFromValues(batch!.values, 4, 16, 16, 3);
    const given = { width: 16, height: 16, rgba: truth.slice(0, 16 * 16 * 4) };
    const { rgba } = await pipeline.generate({ keep: { 2: given }, steps: 2 });
    expect(rgba.subarray(2 * 1024, 3 * 1024)).toEqual(given.rgba);
    await expect(pipeline.generate({ keep: { 4: given } })).rejects.toThrow(/0 to 3/);
    await expect(pipeline.generate({ frames: 9 })).rejects.toThrow(/between 1 and 4 for frames/);
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

  test('names its file where that is damaged', async () => {
    const run = join(folder, 'described');
    await allSteps(trainer({ runDir: run, steps: 1 }));
    const path = join(run, 'pipeline.json');
    const written = JSON.parse(await readFile(path, 'utf8'));
    for (const changes of [
      { patch: 3 },
      { size: 15 },
      { size: 1e9 },
      { channels: 4 },
      { network: { ...written.network, caption_encoder: null } },
      { network: { ...written.network, layers_per_block: 9 } },
    ]) {
      await writeFile(path, JSON.stringify({ ...written, ...changes }));
      await expect(StickerPipeline.load(run, { threads: 1 }), JSON.stringify(changes)).rejects.toMatchObject({
        code: 'CORRUPT',
        message: expect.stringContaining(path),
      });
    }
  });
});
