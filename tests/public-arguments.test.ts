// Whatever a program hands to the public functions and classes, it gets a DuetError that says what was expected.

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import * as duet from '../src/index.js';
import { madeBatch, tinyClients, tinyModel } from './federation-support.js';
import { type Call, unusualErrors } from './odd-arguments.js';

// Some of the odd paths are good ones: what is written to them lands in a folder of its own.
const place = { home: process.cwd(), odd: mkdtempSync(join(tmpdir(), 'duet-odd-')) };
let model: duet.Vilt;
let set: duet.VqaDataset;
const tokenizer = () => duet.Tokenizer.fromTexts(['what color is it']);
const images = new duet.ImageProcessor({ shortestEdge: 16, sizeDivisor: 16 });
const answers = new duet.AnswerVocabulary(['red', 'blue']);
const picture = { rgb: new Uint8Array(16 * 16 * 3), width: 16, height: 16 };
const encoders = () => ({ tokenizer: tokenizer(), images, answers, maxTextLength: 8 });
const federation = () =>
  new duet.Federation({
    model,
    strategy: new duet.FedDat(),
    clients,
    rounds: 1,
    batchSize: 2,
  });
const files = () => ({
  questions: join(place.odd, 'data/questions_plain_val.json'),
  annotations: join(place.odd, 'data/annotations_plain_val.json'),
  pictures: join(place.odd, 'data/images/plain'),
  name: 'x',
});
beforeAll(async () => {
  process.chdir(place.odd);
  model = tinyModel();
  await duet.generateSynthetic('data', {
    size: 16,
    styles: ['poster'],
    pictures: { train: 2, val: 2 },
    neutralPictures: { train: 2, val: 2 },
  });
  set = await duet.loadPart('data', 'plain', 'val');
  await model.save('model');
});
afterAll(() => {
  process.chdir(place.home);
  model.dispose();
  rmSync(place.odd, { recursive: true });
});
const clients = tinyClients();
const training = (): duet.TrainingOptions => ({
  method: 'feddat',
  task: 'vqa',
  optimizer: { learningRate: 1e-3, betas: [0.9, 0.98], epsilon: 1e-8, weightDecay: 0 },
  schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 4 },
});

const cases: [string, Call, () => unknown[]][] = [
  ['new AnswerVocabulary', (list) => new duet.AnswerVocabulary(list), () => [['a']]],
  [
    'AnswerVocabulary.fromSamples',
    duet.AnswerVocabulary.fromSamples,
    () => [[{ answer: 'a', counts: [] }], { top: 2, minCount: 1 }],
  ],
  ['AnswerVocabulary.load', duet.AnswerVocabulary.load, () => ['data/answers.json']],
  ['AnswerVocabulary.save', (path) => answers.save(path), () => ['data/saved.json']],
  ['AnswerVocabulary.classOf', (answer) => answers.classOf(answer), () => ['red']],
  ['AnswerVocabulary.targetsOf', (sample) => answers.targetsOf(sample), () => [{ counts: [] }]],
  ['AnswerVocabulary.softTargets', (samples) => answers.softTargets(samples), () => [[{ counts: [] }]]],
  [
    'AnswerVocabulary.scoreOf',
    (logits, samples) => answers.scoreOf(logits, samples),
    () => [new Float32Array(2), [{ counts: [] }]],
  ],
  ['answerScore', duet.answerScore, () => [1]],
  ['vqaAccuracy', duet.vqaAccuracy, () => ['red', [{ answer: 'red', count: 1 }]]],
  [
    'new Batcher',
    (data, options) => new duet.Batcher(data, options),
    () => [set, { ...encoders(), batchSize: 2, prefetch: 1 }],
  ],
  [
    'Batcher.make',
    (samples, number) => new duet.Batcher(set, { ...encoders(), batchSize: 2 }).make(samples, number),
    () => [set.samples.slice(0, 2), 0],
  ],
  [
    'Batcher.epoch',
    (options) => new duet.Batcher(set, { ...encoders(), batchSize: 2 }).epoch(options),
    () => [{ shuffle: { seed: 1, stream: 2 }, firstBatch: 0, signal: undefined }],
  ],
  ['listParts', duet.listParts, () => ['data', 'val']],
  ['loadPart', duet.loadPart, () => ['data', 'plain', 'val']],
  ['loadParts', duet.loadParts, () => ['data', { split: 'val', parts: ['plain'], except: [] }]],
  [
    'loadClients',
    duet.loadClients,
    () => ['data', { view: 'style', split: 'val', parts: ['poster'], except: [] }],
  ],
  [
    'new ImageProcessor',
    (spec, options) => new duet.ImageProcessor(spec, options),
    () => [
      {
        shortestEdge: 16,
        sizeDivisor: 16,
        longestEdge: 64,
        rescaleFactor: 1,
        mean: [0, 0, 0],
        std: [1, 1, 1],
      },
      { cacheBytes: 0, maxPixels: 100, maxFileBytes: 100 },
    ],
  ],
  ['ImageProcessor.load', duet.ImageProcessor.load, () => ['model', { cacheBytes: 0 }]],
  ['ImageProcessor.resized', (path) => images.resized(path), () => [set.samples[0]!.picture]],
  ['ImageProcessor.resize', (one) => images.resize(one), () => [picture]],
  ['ImageProcessor.collate', (all) => images.collate(all), () => [[{ ...picture, raised: false }]]],
  ['ImageProcessor.prepare', (all) => images.prepare(all), () => [[picture]]],
  ['pictureSpec', duet.pictureSpec, () => [{ shortestEdge: 16, mean: [0, 0, 0] }]],
  ['readPictureSpec', duet.readPictureSpec, () => ['model']],
  [
    'decodePicture',
    duet.decodePicture,
    () => [set.samples[0]!.picture, { maxPixels: 1000, maxFileBytes: 10000 }],
  ],
  ['new Random', (seed, stream) => new duet.Random(seed, stream), () => [1, 2]],
  ['Random.between', (low, high) => new duet.Random(1).between(low, high), () => [1, 2]],
  ['Random.below', (count) => new duet.Random(1).below(count), () => [3]],
  ['Random.pick', (list) => new duet.Random(1).pick(list), () => [[3]]],
  ['Random.shuffle', (list) => new duet.Random(1).shuffle(list), () => [[3]]],
  ['Random.weighted', (list) => new duet.Random(1).weighted(list), () => [[3]]],
  ['Random.normals', (count) => new duet.Random(1).normals(count), () => [3]],
  ['shuffledOrder', duet.shuffledOrder, () => [3, 1, 2]],
  [
    'generateSynthetic',
    duet.generateSynthetic,
    () => [
      'data',
      { size: 16, styles: ['poster'], pictures: { train: 2, val: 2 }, neutralPictures: { train: 2, val: 2 } },
      { signal: undefined, onProgress: () => {} },
    ],
  ],
  ['PretrainedTokenizer.find', duet.PretrainedTokenizer.find, () => ['model', 'bert']],
  ['PretrainedTokenizer.fromJson', duet.PretrainedTokenizer.fromJson, () => [{}, '[PAD]', 'x', {}]],
  [
    'new Tokenizer',
    (list, options) => new duet.Tokenizer(list, options),
    () => [tokenizer().vocabulary, { lowerCase: true }],
  ],
  ['Tokenizer.load', duet.Tokenizer.load, () => ['model', { lowerCase: true }]],
  [
    'Tokenizer.fromTexts',
    duet.Tokenizer.fromTexts,
    () => [['a'], { size: 300, minCount: 1, lowerCase: true }],
  ],
  ['Tokenizer.save', (path) => tokenizer().save(path), () => ['words']],
  ['Tokenizer.idsOf', (text, length) => tokenizer().idsOf(text, length), () => ['a', 4]],
  ['Tokenizer.tokensOf', (text, length) => tokenizer().tokensOf(text, length), () => ['a', 4]],
  [
    'Tokenizer.encode',
    (texts, options) => tokenizer().encode(texts, options),
    () => [['a'], { maxLength: 4, padTo: 'max' }],
  ],
  ['Tokenizer.pad', (rows, least) => tokenizer().pad(rows, least), () => [[new Int32Array(3)], 4]],
  ['new VqaDataset', (name, samples) => new duet.VqaDataset(name, samples), () => ['x', set.samples]],
  ['VqaDataset.load', duet.VqaDataset.load, () => [files()]],
  ['VqaDataset.merge', duet.VqaDataset.merge, () => ['x', [set]]],
  [
    'VqaDataset.subset',
    (ids, name, options) => set.subset(ids, name, options),
    () => [[set.samples[0]!.questionId], 'x', { ignoreUnknown: true }],
  ],
  ['VqaDataset.where', (wanted, name) => set.where(wanted, name), () => [() => true, 'x']],
  [
    'VqaDataset.forTraining',
    (list) => set.forTraining(list),
    () => [duet.AnswerVocabulary.fromSamples(set.samples)],
  ],
  ['VqaDataset.countUnanswerable', (list) => set.countUnanswerable(list), () => [answers]],
  [
    'VqaDataset.withSoundPictures',
    (processor, options) => set.withSoundPictures(processor, options),
    () => [images, { signal: undefined }],
  ],
  ['new FixedBatches', (list) => new duet.FixedBatches(list), () => [[madeBatch(1)]]],
  [
    'FixedBatches.batches',
    (options) => new duet.FixedBatches([madeBatch(1)]).batches(options),
    () => [{ batchSize: 2 }],
  ],
  [
    'FixedBatches.join',
    (list) => new duet.FixedBatches([madeBatch(1)]).join(list),
    () => [[new duet.FixedBatches([madeBatch(1)])]],
  ],
  [
    'new Federation',
    (options) => new duet.Federation(options),
    () => [
      {
        model,
        strategy: new duet.FedDat(),
        clients,
        rounds: 1,
        localEpochs: 1,
        batchSize: 2,
        evaluationBatchSize: 2,
        learningRate: 1,
        seed: 1,
        optimizer: {},
        schedule: {},
        maxGradNorm: 1,
        sampling: {},
        quorum: 0,
        evaluation: {},
        runDir: 'run',
        resume: false,
        keepCheckpoints: 1,
        onProgress: () => {},
      },
    ],
  ],
  [
    'new Federation with a client',
    (client) => new duet.Federation({ model, strategy: new duet.FedDat(), rounds: 1, clients: [client] }),
    () => [{ ...clients[0]!, task: 'vqa' }],
  ],
  [
    'new Federation with a pooled client',
    (client) =>
      new duet.Federation({
        model,
        strategy: new duet.Centralised(),
        rounds: 1,
        clients: [client, ...clients.slice(1)],
      }),
    () => [{ ...clients[0]!, task: 'vqa' }],
  ],
  ['Federation.run', (options) => federation().run(options), () => [{ signal: undefined }]],
  ['Federation.export', (folder) => federation().export(folder), () => ['exported']],
  [
    'Federation.load',
    (client) => {
      const one = federation();
      return one.load(client === 'first' ? one.clients[0]! : client);
    },
    () => ['first'],
  ],
  [
    'Federation.tensors',
    (client) => {
      const one = federation();
      return one.tensors(client === 'first' ? one.clients[0]! : client);
    },
    () => ['first'],
  ],
  ['new FedAvg', (options) => new duet.FedAvg(options), () => [{ weights: 'samples', sharedHead: true }]],
  [
    'new FedDat',
    (options) => new duet.FedDat(options),
    () => [
      { temperature: 3, weights: 'samples', gatedWith: 'received', order: 'merged', clearGradients: 'none' },
    ],
  ],
  ['FedDat.isPersonal', (name, task) => new duet.FedDat().isPersonal(name, task), () => ['x', 'vqa']],
  [
    'weightedMean',
    duet.weightedMean,
    () => [
      { a: new Float32Array(2) },
      [{ client: 'x', samples: 1, shared: { a: new Float32Array(2) } }],
      'samples',
    ],
  ],
  ['encodersOf', duet.encodersOf, () => [model]],
  ['new VqaSource', (data, encode) => new duet.VqaSource(data, encode), () => [set, encoders()]],
  [
    'VqaSource.batches',
    (options) => new duet.VqaSource(set, encoders()).batches(options),
    () => [{ batchSize: 2, order: { seed: 1, stream: 1 }, signal: undefined }],
  ],
  ['VqaSource.batchCount', (size) => new duet.VqaSource(set, encoders()).batchCount(size), () => [2]],
  ['VqaSource.join', (list) => new duet.VqaSource(set, encoders()).join(list), () => [[]]],
  [
    'vqaClients',
    duet.vqaClients,
    () => [
      { ...encoders(), answers: duet.AnswerVocabulary.fromSamples(set.samples) },
      new Map([['x', set]]),
      new Map([['x', set]]),
    ],
  ],
  ['readViltConfig', duet.readViltConfig, () => ['model']],
  ['viltConfig', duet.viltConfig, () => [{ hidden_size: 32, num_attention_heads: 4 }, 'x']],
  ['viltPreset', duet.viltPreset, () => ['tiny', {}]],
  ['nameFromPublished', duet.nameFromPublished, () => ['task_layer.x']],
  ['publishedName', duet.publishedName, () => ['x']],
  [
    'Vilt.fromPretrained',
    duet.Vilt.fromPretrained,
    () => [
      'model',
      {
        answers: ['a'],
        heads: 'saved',
        device: 'cpu',
        compute: 'fp32',
        threads: 1,
        seed: 1,
        adapters: { reduction: 8 },
      },
    ],
  ],
  [
    'Vilt.create',
    (options) => duet.Vilt.create(model.config, options),
    () => [
      {
        answers: 3,
        tokenizer: undefined,
        pictures: { shortestEdge: 32 },
        device: 'cpu',
        compute: 'fp32',
        threads: 1,
        seed: 1,
        adapters: { reduction: 8 },
      },
    ],
  ],
  ['Vilt.addHead', (task, classes, seed) => tinyModel().addHead(task, classes, seed), () => ['other', 2, 1]],
  ['Vilt.names', (wanted) => model.names(wanted), () => [() => true]],
  ['Vilt.read', (names) => model.read(names), () => [model.tunable]],
  ['Vilt.write', (values) => model.write(values), () => [{}]],
  ['Vilt.withShapes', (values) => model.withShapes(values), () => [{ x: new Float32Array(1) }]],
  ['Vilt.startTraining', (options) => model.startTraining(options), () => [training()]],
  ['Vilt.step', (batch) => model.step(batch), () => [madeBatch(1)]],
  ['Vilt.setOptimizerState', (state) => model.setOptimizerState(state), () => [{}]],
  [
    'Vilt.evaluate',
    (batch, task, mode) => model.evaluate(batch, task, mode),
    () => [madeBatch(1), 'vqa', 'gated'],
  ],
  ['Vilt.hiddenStates', (batch, mode) => model.hiddenStates(batch, mode), () => [madeBatch(1), 'gated']],
  [
    'Vilt.claim',
    (what) => {
      const one = tinyModel();
      return one.claim(what)();
    },
    () => ['x'],
  ],
  ['Vilt.save', (folder) => model.save(folder), () => ['saved']],
  [
    'new Pretraining',
    (options) => new duet.Pretraining(options),
    () => [
      {
        model,
        train: clients[0]!.train,
        evaluation: clients[0]!.evaluation,
        epochs: 1,
        batchSize: 2,
        learningRate: 1,
        maxGradNorm: 1,
        weightDecay: 0,
        warmup: 0,
        evaluateEvery: 1,
        seed: 1,
        runDir: 'x',
        resume: false,
        onProgress: () => {},
      },
    ],
  ],
  [
    'Pretraining.run',
    (options) =>
      new duet.Pretraining({ model: tinyModel(), train: clients[0]!.train, epochs: 1 }).run(options),
    () => [{ signal: undefined }],
  ],
  ['readSafetensors', duet.readSafetensors, () => ['model/model.safetensors']],
  [
    'writeSafetensors',
    duet.writeSafetensors,
    () => ['x.safetensors', { a: { dtype: 'f32', shape: [1], data: new Float32Array(1) } }, { a: 'b' }],
  ],
];

test.each(cases)('%s', async (_, call, good) => {
  expect(await unusualErrors(call, good)).toEqual([]);
});
