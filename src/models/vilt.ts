/**
 * ViLT (Kim et al., arXiv 2102.03334) with FedDAT's bottleneck adapters (arXiv 2308.12305) and classification heads.
 *
 * A model owns native memory: call `dispose()`, or declare it with `using`. Its parameters have the names of Hugging Face's
 * ViltModel; adapters are `encoder.layer.<i>.output.adapter.adapter_<0|1|2>_<down|up>.*` (0 personal, 1 shared, 2 the
 * frozen copy of the shared one a client received), heads are `task_layer.<task>.*`.
 */

import { access } from 'node:fs/promises';
import { join } from 'node:path';
import {
  invalid,
  requireFunction,
  requireInstance,
  requireInteger,
  requireList,
  requireObject,
  requireText,
} from '../arguments.js';
import { AnswerVocabulary } from '../data/answers.js';
import { type PictureSpec, pictureSpec, readPictureSpec } from '../data/image-processor.js';
import { Tokenizer } from '../data/tokenizer.js';
import { type Device, resolveDevice } from '../device.js';
import { DuetError, type DuetErrorCode } from '../errors.js';
import type { ComputeType, TensorData, Tensors } from '../native/core.js';
import type {
  AdapterMode,
  HiddenStates,
  NativeVilt,
  StepResult,
  TrainingOptions,
  ViltBatch,
} from '../native/federated.js';
import { guarded, native } from '../native.js';
import { validated } from '../validation.js';
import { readViltConfig, type ViltConfig, viltConfig, viltShape } from './config.js';
import { fileFingerprint, saveVilt, settingsFingerprint } from './folder.js';
import { readHeads } from './heads.js';
import { isAdapter, isHead } from './names.js';
import {
  type CheckedViltOptions,
  type CreateOptions,
  type PretrainedOptions,
  viltOptionsSchema,
} from './vilt-options.js';

/** The head of a model with one answer vocabulary. */
export const DEFAULT_TASK = 'vqa';

/**
 * A ViLT (arXiv 2102.03334) with adapters and heads, on the native core. It owns native memory: call `dispose()`, or declare it
 * with `using`. Names and values of parameters are those of Hugging Face's ViltModel. One run uses a model at a time.
 */
export class Vilt {
  /** Sizes, as in config.json. */
  readonly config: ViltConfig;
  /** Word pieces of the folder's vocab.txt, where there is one. */
  tokenizer: Tokenizer | undefined;
  /** How pictures are prepared: the folder's preprocessor_config.json, or the config's image_size. */
  pictures: PictureSpec;
  /** The answers of the head `vqa`, where they are known by name. */
  answers: AnswerVocabulary | undefined;
  /** Where it computes. */
  readonly device: Device;
  /** Type of the matrix products. */
  readonly compute: ComputeType;
  /** Width of the model / width of the adapters; undefined without adapters. */
  readonly adapterReduction: number | undefined;
  /** Of heads and adapters, and of the encoder of a model that was created. */
  readonly seed: number;
  #native: NativeVilt | undefined;
  readonly #origin: () => Promise<string>;
  readonly #classes = new Map<string, number>();
  #shapes: Map<string, number[]> | undefined;
  #user: string | undefined;

  private constructor(config: ViltConfig, options: CheckedViltOptions, origin?: () => Promise<string>) {
    this.config = config;
    this.device = resolveDevice(options.device);
    this.compute = options.compute;
    this.seed = options.seed;
    this.adapterReduction = options.adapters?.reduction;
    const shortestEdge = config.image_size;
    const sizeDivisor = config.patch_size <= 32 && 32 % config.patch_size === 0 ? 32 : config.patch_size;
    this.pictures = pictureSpec({ shortestEdge, sizeDivisor });
    this.#origin = origin ?? (async () => settingsFingerprint({ config, seed: options.seed }));
    const { seed, compute, threads } = options;
    const initialise = origin === undefined;
    this.#native = guarded(
      () => new native.Vilt(viltShape(config), { seed, initialise, threads, compute, device: this.device }),
    );
    const { adapters } = options;
    if (adapters) this.#call((model) => model.addAdapters(adapters.reduction, seed));
  }

  /**
   * Opens a model folder: config.json and model.safetensors of Hugging Face's ViltModel (the weights of `vilt-b32-mlm` load
   * as they are), with vocab.txt, preprocessor_config.json, answers.json and heads.safetensors where they exist. Weights above
   * 64 MiB stay in the mapped file: it may be replaced while the model is open, but not written to.
   * @throws DuetError NOT_FOUND, CORRUPT, UNSUPPORTED (not a ViLT), INVALID_ARGUMENT (tensors that do not fit the
   *   config; their names are listed)
   */
  static async fromPretrained(folder: string, options: PretrainedOptions = {}): Promise<Vilt> {
    const { answers, heads = 'saved', ...rest } = requireObject(options, 'options of Vilt.fromPretrained');
    requireText(folder, 'folder', 'name the folder of a model, with config.json and model.safetensors');
    if (folder === '') throw invalid('path of a folder', 'folder', folder);
    const checked = validated(viltOptionsSchema, rest, 'Vilt.fromPretrained');
    if (heads !== 'saved' && heads !== 'fresh') throw invalid('"saved" or "fresh"', 'heads', heads);
    checkAnswers(answers);
    const config = await readViltConfig(folder);
    const weights = join(folder, 'model.safetensors');
    const model = new Vilt(config, checked, () => fileFingerprint(weights));
    try {
      await model.#call((handle) => handle.load(weights));
      const words = join(folder, 'vocab.txt');
      if (await exists(words))
        model.tokenizer = fitting(await Tokenizer.load(words), config, 'CORRUPT', words);
      if (await exists(join(folder, 'preprocessor_config.json')))
        model.pictures = await readPictureSpec(folder);
      const answersFile = join(folder, 'answers.json');
      const saved = (await exists(answersFile)) ? await AnswerVocabulary.load(answersFile) : undefined;
      model.#addAnswers(answers ?? saved);
      const same = answers === undefined || sameAnswers(model.answers, saved);
      if (heads === 'saved' && same) await model.#loadHeads(folder);
      return model;
    } catch (error) {
      model.dispose();
      throw error;
    }
  }

  /**
   * A new model with random weights (normal, deviation 0.02) named by `options.seed`.
   * @throws DuetError INVALID_ARGUMENT for sizes or options that cannot work
   */
  static create(config: ViltConfig, options: CreateOptions = {}): Vilt {
    const { answers, tokenizer, pictures, ...rest } = requireObject(options, 'options of Vilt.create');
    const checked = validated(viltOptionsSchema, rest, 'Vilt.create');
    if (tokenizer !== undefined) requireInstance(tokenizer, Tokenizer, 'tokenizer');
    checkAnswers(answers);
    const model = new Vilt(viltConfig(config), checked);
    try {
      if (tokenizer) model.tokenizer = fitting(tokenizer, model.config, 'INVALID_ARGUMENT', 'tokenizer');
      if (pictures !== undefined)
        model.pictures = pictureSpec({ ...model.pictures, ...requireObject(pictures, 'pictures') });
      model.#addAnswers(answers);
      return model;
    } catch (error) {
      model.dispose();
      throw error;
    }
  }

  /**
   * Adds the head `task_layer.<task>`: two linear layers (width to twice the width, layer norm, gelu, to `classes`)
   * with PyTorch's initial values, drawn from the seed and the name of the task.
   * @throws DuetError INVALID_ARGUMENT for a name of other characters than letters, digits, - and _, or one that is
   *   there
   */
  addHead(task: string, classes: number, seed = this.seed): void {
    if (!/^[A-Za-z0-9_-]+$/.test(requireText(task, 'task')))
      throw invalid('letters, digits, - and _', 'task', task);
    this.#call((model) => model.addHead(task, classes, seed));
    this.#classes.set(task, classes);
    this.#shapes = undefined;
  }

  /** Heads by task, with their number of classes. */
  get heads(): ReadonlyMap<string, number> {
    return this.#classes;
  }

  /** Every parameter with its shape, in the order of the native core. */
  get shapes(): ReadonlyMap<string, readonly number[]> {
    this.#shapes ??= new Map(
      this.#call((model) => model.parameters()).map(({ name, shape }) => [name, shape]),
    );
    return this.#shapes;
  }

  /** Names of the parameters for which `wanted` is true (see models/names). */
  names(wanted: (name: string) => boolean = () => true): string[] {
    return [...this.shapes.keys()].filter(requireFunction(wanted, 'wanted'));
  }

  /** Names of all adapters and heads: everything that fine-tuning may change. */
  get tunable(): string[] {
    return this.names((name) => isAdapter(name) || isHead(name));
  }

  /** Copies of parameters, by name. @throws DuetError NOT_FOUND for an unknown name */
  read(names: readonly string[]): Promise<Tensors> {
    return this.#call((model) => model.read([...requireList(names, 'names')]));
  }

  /**
   * Overwrites parameters; all of them or, when a name or a size is wrong, none.
   * @throws DuetError NOT_FOUND for an unknown name, INVALID_ARGUMENT for a wrong size
   */
  write(values: Tensors): Promise<void> {
    return this.#call((model) => model.write(values));
  }

  /** Values with the shapes they have in this model, for a safetensors file. */
  withShapes(values: Tensors): Record<string, TensorData> {
    const tensors: Record<string, TensorData> = {};
    for (const [name, data] of Object.entries(requireObject(values, 'values'))) {
      requireInstance(data, Float32Array, name);
      tensors[name] = { dtype: 'f32', shape: [...(this.shapes.get(name) ?? [data.length])], data };
    }
    return tensors;
  }

  /**
   * Begins a local training: a new optimizer and a new schedule; method `feddat` first copies adapter_1 over
   * adapter_2.
   * @throws DuetError INVALID_ARGUMENT for options that cannot work, NOT_FOUND for a task without a head
   */
  startTraining(options: TrainingOptions): Promise<void> {
    return this.#call((model) => model.startTraining(options));
  }

  /** One local step of the training that `startTraining` began. @throws DuetError NOT_FINITE when a loss is not finite */
  step(batch: ViltBatch): Promise<StepResult> {
    return this.#call((model) => model.step(batch));
  }

  /** Of the last step, where `keepGradients` was asked for; names begin with the update they belong to. */
  gradients(): Promise<Tensors> {
    return this.#call((model) => model.gradients());
  }

  /** Moments and steps of AdamW, and the place in the schedule; for resuming. */
  optimizerState(): Promise<Tensors> {
    return this.#call((model) => model.optimizerState());
  }

  /** Takes what `optimizerState` gave: all of it or, when something does not fit, nothing. */
  setOptimizerState(state: Tensors): Promise<void> {
    return this.#call((model) => model.setOptimizerState(state));
  }

  /**
   * Logits of a batch, [B * classes], without dropout.
   * @throws DuetError INVALID_ARGUMENT for a batch that does not fit, NOT_FOUND for a task without a head
   */
  evaluate(batch: ViltBatch, task = DEFAULT_TASK, mode: AdapterMode = 'none'): Promise<Float32Array> {
    return this.#call((model) => model.evaluate(batch, task, mode));
  }

  /** The output of the embedding and of every layer, [B, T, hidden size], and the pooled vectors. */
  hiddenStates(batch: ViltBatch, mode: AdapterMode = 'none'): Promise<HiddenStates> {
    return this.#call((model) => model.hiddenStates(batch, mode));
  }

  /** Bytes of weights with their packed copies, and the most that activations of a step have taken. */
  memory(): { parameterBytes: number; arenaPeakBytes: number } {
    return this.#call((model) => model.memory());
  }

  /** Names the frozen weights: the SHA-256 of their file, or of config and seed. A run folder remembers it. */
  fingerprint(): Promise<string> {
    return this.#origin();
  }

  /** Names what turns questions, pictures and answers into numbers: SHA-256 of answers, word pieces and picture settings. */
  inputsFingerprint(): string {
    const { answers, tokenizer, pictures } = this;
    return settingsFingerprint({
      answers: answers?.answers,
      words: tokenizer && [tokenizer.vocabulary, tokenizer.lowerCase],
      pictures,
    });
  }

  /**
   * Marks the model as used by a run, which writes its parameters all the time.
   * @returns ends the use
   * @throws DuetError INVALID_ARGUMENT when another run uses it
   */
  claim(what: string): () => void {
    if (this.#user !== undefined) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected a model that no other run uses but ${this.#user} is using it; wait for it, or open the model twice`,
      );
    }
    this.#user = what;
    return () => {
      this.#user = undefined;
    };
  }

  /**
   * Writes a model folder that `fromPretrained` and Hugging Face's ViltModel read: config.json, model.safetensors, and vocab.txt,
   * preprocessor_config.json, answers.json and heads.safetensors where the model has them. Adapters are not part of it.
   */
  save(folder: string): Promise<void> {
    return saveVilt(this, folder);
  }

  /** Frees the native memory. Calls afterwards throw; a second dispose does nothing. */
  dispose(): void {
    this.#native?.dispose();
    this.#native = undefined;
  }

  /** True once `dispose` was called. */
  get disposed(): boolean {
    return this.#native === undefined;
  }

  /** As `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #call<T>(work: (model: NativeVilt) => T): T {
    const model = this.#native;
    if (!model)
      throw new DuetError('INVALID_ARGUMENT', 'Expected a live model but this one has been disposed of');
    return guarded(() => work(model));
  }

  #addAnswers(answers: PretrainedOptions['answers']): void {
    if (answers === undefined) return;
    if (typeof answers !== 'number') {
      this.answers = answers instanceof AnswerVocabulary ? answers : new AnswerVocabulary(answers);
    }
    this.addHead(
      DEFAULT_TASK,
      typeof answers === 'number' ? answers : (this.answers as AnswerVocabulary).size,
    );
  }

  async #loadHeads(folder: string): Promise<void> {
    const heads = await readHeads(folder);
    if (heads === undefined) return;
    for (const [task, { classes, tensors }] of heads) {
      const present = this.#classes.get(task);
      if (present === undefined) this.addHead(task, classes);
      else if (present !== classes) continue;
      await this.write(tensors);
    }
  }
}

/** @throws DuetError with `code` when the tokenizer has ids that the embedding table does not have */
function fitting(tokenizer: Tokenizer, config: ViltConfig, code: DuetErrorCode, source: string): Tokenizer {
  if (tokenizer.size <= config.vocab_size) return tokenizer;
  throw new DuetError(
    code,
    `Expected at most ${config.vocab_size} tokens (vocab_size of the config) in ${source} but found ${tokenizer.size}`,
  );
}

/** @throws DuetError INVALID_ARGUMENT for anything but a vocabulary, a list of texts or a number of classes */
function checkAnswers(answers: PretrainedOptions['answers']): void {
  if (answers === undefined || answers instanceof AnswerVocabulary) return;
  if (typeof answers === 'number') requireInteger(answers, 'answers', 1);
  else if (Array.isArray(answers)) requireList(answers, 'answers', requireText);
  else throw invalid('AnswerVocabulary, list of texts or number of classes', 'answers', answers);
}

function sameAnswers(given: AnswerVocabulary | undefined, saved: AnswerVocabulary | undefined): boolean {
  if (given === undefined || saved === undefined) return false;
  return given.size === saved.size && given.answers.every((answer, index) => answer === saved.answers[index]);
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
