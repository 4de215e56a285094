// Whatever a program hands to the public functions and classes of the sticker half, it gets a DuetError that says what was
// expected.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import * as duet from '../src/index.js';
import { autoencoderShape } from '../src/models/autoencoder.js';
import { type Call, unusualErrors } from './odd-arguments.js';
import { bertKind, drawn, modelFolder } from './support/encoder-folders.js';
import { autoencoderShapes } from './support/reference/autoencoder.js';

// Some of the odd paths are good ones: what is written to them lands in a folder of its own.
const place = { home: process.cwd(), odd: mkdtempSync(join(tmpdir(), 'duet-odd-')) };
const shape = { channels: 3 as const, frames: 2, height: 4, width: 4 };
const clip = new Float32Array(96);
const grid = { clips: 1, frames: 1, height: 4, width: 4 };
const animation = () => ({
  width: 4,
  height: 4,
  rgba: new Uint8Array(128),
  delays: [100, 100],
  loop: 0,
});
const schedule = new duet.NoiseSchedule({ steps: 10 });
const words = duet.CaptionVocabulary.fromCaptions(['a cat']);
const config = duet.dfgnConfig({
  block_out_channels: [8, 16],
  layers_per_block: 1,
  norm_num_groups: 4,
  cross_attention_dim: 16,
  t5_dim: null,
  attention_head_dim: 8,
  num_frames: 2,
  in_channels: 3,
});
const batch = () => ({
  clips: 1,
  height: 8,
  width: 8,
  values: new Float32Array(3 * 2 * 64),
  frameMask: new Uint8Array(2).fill(1),
});
const input = () => ({ clips: 1, height: 8, width: 8, imageLatents: new Float32Array(3 * 2 * 64) });
const known = () => ({
  known: [{ mask: new Uint8Array(2), values: new Float32Array(384) }],
  frames: [2],
  prompts: ['a'],
});
const trainerOptions = (): duet.StickerTrainerOptions => ({
  network: { ...config, caption_encoder: null },
  data,
  space: 'pixels',
  patch: 1,
  text: 'captions',
  curriculum: 'uniform',
  steps: 1,
  batchSize: 1,
  accumulation: 1,
  learningRate: 1e-3,
  schedule: {},
  optimizer: {},
  maxGradNorm: 1,
  emaDecay: null,
  seed: 1,
  threads: 1,
  keepCheckpoints: 1,
  checkpointEvery: 1,
  reportEvery: 1,
});
let data: duet.StickerDataset;
let network: duet.Dfgn;
let pipeline: duet.StickerPipeline;
let encoder: string;
let autoencoder: string;
const vae = { block_out_channels: [4], norm_num_groups: 2, latent_channels: 2 };

beforeAll(async () => {
  process.chdir(place.odd);
  await duet.generateStickers('drawn', { size: 8, frames: 2 });
  data = await duet.StickerDataset.fromFolder('drawn', { frames: 2, size: 8 });
  network = duet.Dfgn.create(config, { threads: 1 });
  for await (const _ of new duet.StickerTrainer({ ...trainerOptions(), runDir: 'run' }).run());
  pipeline = await duet.StickerPipeline.load('run', { threads: 1 });
  const bert = bertKind();
  encoder = await modelFolder(bert.config, drawn(bert.shapes).tensors);
  autoencoder = await modelFolder(vae, drawn(autoencoderShapes(autoencoderShape(vae))).tensors);
});
afterAll(() => {
  process.chdir(place.home);
  network.dispose();
  pipeline.dispose();
  rmSync(place.odd, { recursive: true });
});

const samplerOptions = () => ({ steps: 2, eta: 0, spacing: 'leading' });
const quality = () => [clip, clip, { ...shape }, [0]];
const statistics = () => duet.featureStatistics([Float32Array.of(1), Float32Array.of(2)]);

const cases: [string, Call, () => unknown[]][] = [
  [
    'StickerDataset.fromFolder',
    duet.StickerDataset.fromFolder,
    () => [
      'drawn',
      {
        frames: 2,
        size: 8,
        channels: 3,
        keyFrames: 'equal',
        shortClips: 'pad',
        minFrames: 1,
        captionField: 'caption',
        allowMissingCaptions: true,
        cache: 'cache',
        memoryBytes: 100,
        name: 'x',
        limits: {},
      },
    ],
  ],
  [
    'StickerDataset limits',
    (limits) => duet.StickerDataset.fromFolder('drawn', { limits }),
    () => [{ maxFrames: 10 }],
  ],
  ['StickerDataset.where', (wanted, name) => data.where(wanted, name), () => [() => true, 'x']],
  [
    'StickerDataset.split',
    (options) => data.split(options),
    () => [{ heldOut: 0.5, seed: 1, together: () => `${Math.random()}` }],
  ],
  ['StickerDataset.clip', (sample) => data.clip(sample), () => [{ ...data.samples[0] }]],
  [
    'StickerDataset.prepare',
    (options) => data.prepare(options),
    () => [{ signal: undefined, onProgress: () => {} }],
  ],
  [
    'StickerDataset.batch',
    (samples, number) => data.batch(samples, number),
    () => [data.samples.slice(0, 1), 0],
  ],
  [
    'StickerDataset.batches',
    (options) => data.batches(options),
    () => [{ batchSize: 1, seed: 1, first: 0, count: 1, prefetch: 0, signal: undefined }],
  ],
  [
    'AutoencoderKl.fromPretrained',
    duet.AutoencoderKl.fromPretrained,
    () => [autoencoder, { compute: 'fp32', threads: 1 }],
  ],
  [
    'AutoencoderKl.latentGrid',
    async (one) => (await duet.AutoencoderKl.fromPretrained(autoencoder)).latentGrid(one),
    () => [{ ...grid }],
  ],
  [
    'AutoencoderKl.encode',
    async (pictures, one, options) =>
      (await duet.AutoencoderKl.fromPretrained(autoencoder)).encode(pictures, one, options),
    () => [new Float32Array(48), { ...grid }, { signal: undefined }],
  ],
  [
    'AutoencoderKl.decode',
    async (latents, one, options) =>
      (await duet.AutoencoderKl.fromPretrained(autoencoder)).decode(latents, one, options),
    () => [new Float32Array(32), { ...grid }, { signal: undefined }],
  ],
  [
    'FrozenTextEncoder.fromPretrained',
    duet.FrozenTextEncoder.fromPretrained,
    () => [
      encoder,
      { compute: 'fp32', threads: 1, length: 4, maskPadding: true, cacheBytes: 0, tokenizer: words },
    ],
  ],
  [
    'FrozenTextEncoder.encode',
    async (texts, options) =>
      (await duet.FrozenTextEncoder.fromPretrained(encoder, { tokenizer: words, length: 4 })).encode(
        texts,
        options,
      ),
    () => [['cat'], { signal: undefined }],
  ],
  [
    'FrozenTextEncoder.encodeTokens',
    async (tokens) => (await duet.FrozenTextEncoder.fromPretrained(encoder)).encodeTokens(tokens),
    () => [{ batch: 1, length: 2, inputIds: Int32Array.of(1, 2) }],
  ],
  [
    'Dfgn.create',
    (options) => duet.Dfgn.create(config, options),
    () => [{ device: 'cpu', compute: 'fp32', threads: 1, seed: 1 }],
  ],
  ['Dfgn.fromPretrained', duet.Dfgn.fromPretrained, () => ['network', { seed: 1 }]],
  ['Dfgn.save', (folder, part) => network.save(folder, part), () => ['network', 'weights']],
  ['Dfgn.saveFile', (path, part) => network.saveFile(path, part), () => ['x.safetensors', 'weights']],
  ['Dfgn.load', (path, part) => network.load(path, part), () => ['network/model.safetensors', 'weights']],
  ['Dfgn.read', (names) => network.read(names), () => [[]]],
  ['Dfgn.write', (values) => network.write(values), () => [{}]],
  [
    'Dfgn.startTraining',
    (options) => network.startTraining(options),
    () => [
      {
        optimizer: { learningRate: 1, betas: [0, 0], epsilon: 1, weightDecay: 0 },
        schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 1 },
      },
    ],
  ],
  ['Dfgn.step', (one) => network.step(one), () => [batch()]],
  ['Dfgn.evaluate', (one, drawStep) => network.evaluate(one, drawStep), () => [batch(), 0]],
  ['Dfgn.setOptimizerState', (state) => network.setOptimizerState(state), () => [{}]],
  ['Dfgn.setSteps', (steps) => network.setSteps(steps), () => [0]],
  ['Dfgn.predict', (one, guidance) => network.predict(one, guidance), () => [batch(), 1]],
  [
    'Dfgn.memoryPlan',
    (step) => network.memoryPlan(step),
    () => [{ clips: 1, height: 8, width: 8, textTokens: 1 }],
  ],
  ['dfgnConfig', duet.dfgnConfig, () => [{ ...config }, 'x']],
  ['dfgnPreset', duet.dfgnPreset, () => ['tiny', { in_channels: 3 }]],
  ['readDfgnConfig', duet.readDfgnConfig, () => ['network']],
  [
    'CaptionVocabulary.fromCaptions',
    duet.CaptionVocabulary.fromCaptions,
    () => [['a cat'], { size: 300, minCount: 1 }],
  ],
  ['CaptionVocabulary.fromTokens', duet.CaptionVocabulary.fromTokens, () => [words.tokens]],
  ['CaptionVocabulary.load', duet.CaptionVocabulary.load, () => ['run']],
  ['CaptionVocabulary.save', (path) => words.save(path), () => ['words']],
  ['CaptionVocabulary.encode', (captions, length) => words.encode(captions, length), () => [['cat'], 4]],
  ['CaptionVocabulary.lengthFor', (captions, most) => words.lengthFor(captions, most), () => [['cat'], 4]],
  [
    'new AdaptiveCurriculum',
    (options) => new duet.AdaptiveCurriculum(options),
    () => [{ proportional: 1, integral: 1, derivative: 1, window: 10, minimumHistory: 1 }],
  ],
  ['AdaptiveCurriculum.observe', (loss) => new duet.AdaptiveCurriculum().observe(loss), () => [1]],
  [
    'AdaptiveCurriculum.restore',
    (state) => new duet.AdaptiveCurriculum().restore(state),
    () => [new duet.AdaptiveCurriculum().state()],
  ],
  [
    'new DifficultyAdaptiveCurriculum',
    (steps, options) => new duet.DifficultyAdaptiveCurriculum(steps, options).weights(0),
    () => [4, {}],
  ],
  ['new StaticCurriculum', (steps) => new duet.StaticCurriculum(steps).weights(0), () => [4]],
  [
    'StaticCurriculum weights',
    (weights) => new duet.StaticCurriculum(4, weights).weights(0),
    () => [
      {
        i2v: [0, 0, 0],
        t2v: [0, 0, 0],
        it2v: [0, 0, 0],
        interpolation: [0, 0, 0],
        pre_frame_prediction: [0, 0, 0],
        post_frame_prediction: [0, 0, 0],
      },
    ],
  ],
  ['StaticCurriculum.weights', (step) => new duet.StaticCurriculum(4).weights(step), () => [1]],
  [
    'denoise',
    duet.denoise,
    () => [
      network,
      input(),
      { sampler: 'ddim', ...samplerOptions(), guidance: 1, seed: 1 },
      { onStep: () => {}, signal: undefined },
    ],
  ],
  ['contactSheet', duet.contactSheet, () => [[animation()], { gap: 1, background: '#fff', scale: 2 }]],
  [
    'evaluateStickers',
    duet.evaluateStickers,
    () => [
      pipeline,
      data.where(({ name }) => name === data.samples[0]?.name),
      {
        sampling: { steps: 1 },
        batchSize: 1,
        timesteps: [100],
        signal: undefined,
        onProgress: () => {},
        onClip: () => {},
        features: { extract: async (clips: unknown[]) => clips.map(() => new Float32Array(1)) },
      },
    ],
  ],
  ['baseline', duet.baseline, () => ['nearest', clip, { ...shape }, [1, 0]]],
  ['featureStatistics', duet.featureStatistics, () => [[Float32Array.of(1), Float32Array.of(2)]]],
  ['frechetDistance', duet.frechetDistance, () => [statistics(), statistics()]],
  ['frameDifferenceError', duet.frameDifferenceError, quality],
  ['psnr', duet.psnr, quality],
  ['ssim', duet.ssim, quality],
  [
    'exportAnimation',
    duet.exportAnimation,
    () => [animation(), { format: 'gif', maxBytes: 1000, size: 4, colors: 4, quality: 50, lossless: false }],
  ],
  ['saveAnimation', duet.saveAnimation, () => ['x.gif', animation(), { maxBytes: 1000 }]],
  ['keyFrames', duet.keyFrames, () => ['difference', [[1], [2], [3]], 2]],
  [
    'StickerPipeline.load',
    duet.StickerPipeline.load,
    () => ['run', { device: 'cpu', compute: 'fp32', threads: 1 }],
  ],
  [
    'StickerPipeline.generate',
    (options) => pipeline.generate(options),
    () => [
      {
        prompt: 'cat',
        negativePrompt: 'dog',
        keep: {},
        frames: 2,
        restoreGiven: true,
        delay: 100,
        loop: 0,
        signal: undefined,
        onPreview: () => {},
        previewEvery: 1,
        onStep: () => {},
        sampler: 'ddim',
        ...samplerOptions(),
        guidance: 2,
        seed: 1,
      },
    ],
  ],
  [
    'StickerPipeline.generate keep',
    (frame) => pipeline.generate({ steps: 1, keep: { 0: frame } }),
    () => [{ width: 4, height: 4, rgba: new Uint8Array(64) }],
  ],
  [
    'StickerPipeline.denoise',
    (one, options, hooks) => pipeline.denoise(one, options, hooks),
    () => [{ ...known(), negativePrompts: ['b'] }, { steps: 1 }, { signal: undefined }],
  ],
  ['new Ddim', (noise, options) => new duet.Ddim(noise, options), () => [schedule, samplerOptions()]],
  [
    'Ddim.step',
    (sample, output, index, noise) =>
      new duet.Ddim(schedule, { steps: 2, eta: 1 }).step(sample, output, index, noise),
    () => [clip, clip, 0, clip],
  ],
  [
    'new DpmSolver',
    (noise, options) => new duet.DpmSolver(noise, options),
    () => [schedule, { steps: 2, spacing: 'trailing' }],
  ],
  [
    'DpmSolver.step',
    (sample, output, index) => new duet.DpmSolver(schedule, { steps: 2 }).step(sample, output, index),
    () => [clip, clip, 0],
  ],
  ['guide', duet.guide, () => [clip, clip, 2]],
  [
    'sample',
    duet.sample,
    () => [
      new duet.Ddim(schedule, { steps: 2 }),
      clip,
      async (now: Float32Array) => now,
      { noise: (length: number) => new Float32Array(length), onStep: () => {}, signal: undefined },
    ],
  ],
  [
    'new NoiseSchedule',
    (options) => new duet.NoiseSchedule(options),
    () => [{ steps: 10, betaStart: 0.1, betaEnd: 0.2 }],
  ],
  ['NoiseSchedule.alphaAt', (timestep) => schedule.alphaAt(timestep), () => [1]],
  [
    'NoiseSchedule.addNoise',
    (sample, noise, timesteps) => schedule.addNoise(sample, noise, timesteps),
    () => [clip, clip, [1, 2]],
  ],
  [
    'NoiseSchedule.velocity',
    (sample, noise, timesteps) => schedule.velocity(sample, noise, timesteps),
    () => [clip, clip, [1, 2]],
  ],
  ['new Sticker', (one) => new duet.Sticker(one), () => [animation()]],
  [
    'Sticker.fromValues',
    duet.Sticker.fromValues,
    () => [clip, { ...shape }, { frames: 1, delay: 100, loop: 0 }],
  ],
  [
    'Sticker.save',
    (path, options) => new duet.Sticker(animation()).save(path, options),
    () => ['x.webp', { quality: 50, lossless: true }],
  ],
  [
    'Sticker.encode',
    (format, options) => new duet.Sticker(animation()).encode(format, options),
    () => ['png', { size: 8 }],
  ],
  ['drawSticker', duet.drawSticker, () => [{ ...duet.DRAWINGS[0] }, { size: 4, frames: 1, delayMs: 100 }]],
  [
    'generateStickers',
    duet.generateStickers,
    () => ['drawn', { size: 4, frames: 1, delayMs: 100, signal: undefined }],
  ],
  ['conditionMasks', duet.conditionMasks, () => ['i2v', 2, 4]],
  ['drawCondition', duet.drawCondition, () => ['i2v', 2, 4, new duet.Random(1)]],
  ['new StickerTrainer', (options) => new duet.StickerTrainer(options), () => [trainerOptions()]],
  [
    'StickerTrainer.run',
    (options) => new duet.StickerTrainer(trainerOptions()).run(options),
    () => [{ signal: undefined, onReady: () => {} }],
  ],
];

const misspelt: [string, () => unknown, string][] = [
  [
    'Sticker.save',
    () => new duet.Sticker(animation()).save('x.webp', { lossles: true } as object),
    'lossles',
  ],
  ['Sticker.encode', () => new duet.Sticker(animation()).encode('gif', { colours: 9 } as object), 'colours'],
  [
    'exportAnimation',
    () => duet.exportAnimation(animation(), { format: 'gif', maxByte: 1 } as { format: 'gif' }),
    'maxByte',
  ],
  [
    'Sticker.fromValues',
    () => duet.Sticker.fromValues(clip, { ...shape }, { delays: 3 } as object),
    'delays',
  ],
  ['contactSheet', () => duet.contactSheet([animation()], { gaps: 1 } as object), 'gaps'],
  ['StickerDataset.split', async () => data.split({ heldout: 0.5 } as object), 'heldout'],
  [
    'StickerDataset.batches',
    () => data.batches({ batchSize: 1, seed: 1, frist: 3 } as { batchSize: 1; seed: 1 }).next(),
    'frist',
  ],
  ['StickerDataset.prepare', () => data.prepare({ onprogress: () => {} } as object), 'onprogress'],
  ['drawSticker', () => duet.drawSticker(duet.DRAWINGS[0] as duet.Drawing, { delay: 3 } as object), 'delay'],
  ['generateStickers', () => duet.generateStickers('drawn', { frame: 3 } as object), 'frame'],
  ['new AdaptiveCurriculum', async () => new duet.AdaptiveCurriculum({ windows: 3 } as object), 'windows'],
  ['StickerPipeline.denoise', () => pipeline.denoise(known(), { step: 1 } as object), 'step'],
  [
    'StickerPipeline.denoise input',
    () => pipeline.denoise({ ...known(), prompt: ['a'] } as never, { steps: 1 }),
    'prompt',
  ],
  [
    'StickerPipeline.denoise hooks',
    () => pipeline.denoise(known(), { steps: 1 }, { onstep: () => {} } as object),
    'onstep',
  ],
  ['denoise', () => duet.denoise(network, input(), { step: 1 } as object), 'step'],
  [
    'denoise input',
    () => duet.denoise(network, { ...input(), framesMask: 1 } as never, { steps: 1 }),
    'framesMask',
  ],
  [
    'denoise hooks',
    () => duet.denoise(network, input(), { steps: 1 }, { onstep: () => {} } as object),
    'onstep',
  ],
  ['new Ddim', async () => new duet.Ddim(schedule, { step: 2 } as object), 'step'],
  ['new DpmSolver', async () => new duet.DpmSolver(schedule, { eta: 0 } as object), 'eta'],
  ['new NoiseSchedule', async () => new duet.NoiseSchedule({ step: 2 } as object), 'step'],
  ['dfgnConfig', async () => duet.dfgnConfig({ ...config, layers_per_blok: 2 }), 'layers_per_blok'],
  [
    'StickerTrainer network',
    async () => new duet.StickerTrainer({ ...trainerOptions(), network: { ...config, layers_per_blok: 2 } }),
    'layers_per_blok',
  ],
];
test.each(misspelt)('%s refuses a key it does not know', async (_, call, key) => {
  await expect(call()).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringMatching(new RegExp(`^Expected only known settings but received ${key}\\b`)),
  });
});

const frame = { width: 4, height: 4, rgba: new Uint8Array(64) };
const odd: [string, () => unknown, RegExp][] = [
  [
    'keep as a Map',
    () => pipeline.generate({ keep: new Map([[0, frame]]) as never }),
    /^Expected object of frames by position for keep but received an object of Map$/,
  ],
  ['keep at no place', () => pipeline.generate({ keep: { '': frame } as never }), /positions .* received ""/],
  [
    'restoreGiven as text',
    () => pipeline.generate({ restoreGiven: 'no' as never }),
    /^Expected true or false for restoreGiven but received "no"$/,
  ],
  [
    'lossless as text',
    () => new duet.Sticker(animation()).encode('webp', { lossless: 'yes' as never }),
    /^Expected true or false for lossless but received "yes"$/,
  ],
];
test.each(odd)('%s', async (_, call, message) => {
  await expect(call()).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
    message: expect.stringMatching(message),
  });
});

test.each(cases)('%s', async (_, call, good) => {
  expect(await unusualErrors(call, good)).toEqual([]);
});
