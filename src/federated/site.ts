/**
 * One participant of a federation whose server is elsewhere, whatever carries the messages: it trains and is evaluated when it is
 * asked to, and keeps what is personal in its run folder.
 *
 * A training is recorded, answer included, in one checkpoint before it is answered. A site killed at any moment therefore
 * comes back as before its training or after it, and the same task again has the same answer.
 */

import { z } from 'zod';
import {
  requireFunction,
  requireInstance,
  requireInteger,
  requireObject,
  requireText,
} from '../arguments.js';
import { DuetError, throwIfAborted } from '../errors.js';
import { Vilt } from '../models/vilt.js';
import type { TensorData, Tensors } from '../native/core.js';
import { native } from '../native.js';
import { RunFolder } from '../run/run-folder.js';
import { validated } from '../validation.js';
import type { FederatedClient, LocalReport } from './client.js';
import {
  byteLength,
  evaluateHeld,
  heldTensors,
  personalOf,
  requireSameTensors,
  sharedOf,
  trainClient,
} from './client-round.js';
import { type DataReport, reportsOf } from './data-report.js';
import type { ClientEvaluation } from './evaluation.js';
import { exportClients } from './export.js';
import {
  type ClientTrainingOptions,
  MOST_CLIENTS,
  MOST_ROUNDS,
  requireClient,
  requireStrategy,
  requireTrainable,
  trainingSchema,
} from './options.js';
import type { UpdateTransform } from './privacy/protection.js';
import type { Progress } from './report.js';
import { clientSettings, modelSettings, strategySettings, valuesFingerprint } from './settings.js';
import { packSite, type SiteState, type SiteUpdate, unpackSite } from './site-state.js';
import type { Strategy } from './strategies/strategy.js';

export type { SiteUpdate } from './site-state.js';

/** An `UpdateTransform`, e.g. `Protection`, with what a site makes use of where it is there. */
export interface SiteProtection extends UpdateTransform {
  /** Stored with the run, which is not resumed with others; but not `ledger`, a path. */
  readonly settings?: object;
  /** Of the last update, for the metrics. */
  readonly report?: object | undefined;
  /** Called before a training. @throws when nothing more may be sent */
  requireBudget?(): Promise<void>;
}

/** What is going on, for a progress line; a site may not know the number of rounds. */
export type SiteProgress = Omit<Progress, 'rounds'> & { rounds?: number };

/** Everything a site can be told. */
export interface SiteOptions extends ClientTrainingOptions {
  /** A model with adapters and the head of the client. Sites may share it: they take turns. */
  model: Vilt;
  /** The same as that of the server and of the other sites. */
  strategy: Strategy;
  /** Its data. */
  client: FederatedClient;
  /** Its number in the federation, which names its random draws: 0 to 65534. Default 0. */
  index?: number;
  /** Rounds of the federation, for the progress. */
  rounds?: number;
  /** Folder for config, metrics and checkpoints; one a site. */
  runDir: string;
  /** Continue what is in `runDir`; an empty folder starts a new run. Default false. */
  resume?: boolean;
  /** Applied to every update before it is stored and answered. */
  protection?: SiteProtection;
  /** Told after every batch of a training or evaluation. */
  onProgress?: (progress: SiteProgress) => void;
  /** Told after every training and evaluation, once it is on the disk. */
  onRound?: (report: SiteReport) => void;
}

/** A request of a server. */
export interface SiteTask {
  /** Of this request alone: the same id asks for the same answer again. */
  id: string;
  /** From 1; 0 for an evaluation before the first round. */
  round: number;
  /** The shared parameters of the server. */
  shared: Tensors;
}

/** One training or evaluation: a line of metrics.jsonl. */
export interface SiteReport {
  /** Round of the site's last training. */
  number: number;
  /** Round of the task. */
  round: number;
  /** Id of the task. */
  task: string;
  /** Name. */
  strategy: string;
  /** Of a training. */
  training?: LocalReport;
  /** Of an update that was protected: what `protection` reports. */
  protection?: object;
  /** Of an evaluation. */
  evaluation?: ClientEvaluation;
  /** Shared parameters from the site to the server (`up`) and back (`down`), fp32. */
  bytes: { up: number; down: number };
  /** Wall clock. */
  timing: { seconds: number };
}

const schema = z.strictObject({
  index: z
    .int()
    .min(0)
    .max(MOST_CLIENTS - 1)
    .default(0),
  rounds: z.int().min(1).max(MOST_ROUNDS).optional(),
  ...trainingSchema.shape,
  runDir: z.string().min(1),
  resume: z.boolean().default(false),
});

/**
 * The options with all defaults; `SiteOptions` says what each of them is.
 * @interface
 */
export type SiteSettings = z.output<typeof schema>;

/** The last one, and the one before in case its round is repeated. */
const CHECKPOINTS_KEPT = 2;

/** The end of the last turn of the sites that share a model. */
const turns = new WeakMap<Vilt, Promise<unknown>>();

/**
 * One participant of a federation whose server is elsewhere. `FlowerClient` and `DuetClient` connect it to one.
 *
 * ```ts
 * const site = await Site.open({ model, strategy: new FedDat(), client, learningRate: 1e-4, runDir });
 * const { shared, samples } = await site.train({ id, round: 1, shared: received });
 * ```
 */
export class Site {
  /** The options with all defaults. */
  readonly settings: SiteSettings;
  /** What travels and how it trains. */
  readonly strategy: Strategy;
  /** Its data. */
  readonly client: FederatedClient;
  /** Between two tasks it has its initial adapters and heads. */
  readonly model: Vilt;
  /** Reports that were recorded before the site was opened again. */
  readonly history: readonly SiteReport[];
  /** Checkpoints that could not be read; an older one was taken. */
  readonly damaged: readonly string[];
  readonly #options: SiteOptions;
  readonly #folder: RunFolder<SiteReport>;
  readonly #initial: SiteState;
  #state: SiteState;
  /** The server's shared parameters as they came last. */
  #shared: Tensors;
  #evaluated: SiteReport | undefined;
  #busy: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(
    options: SiteOptions,
    settings: SiteSettings,
    folder: RunFolder<SiteReport>,
    initial: SiteState,
    state: SiteState | undefined,
    history: readonly SiteReport[],
  ) {
    this.settings = settings;
    this.strategy = options.strategy;
    this.client = options.client;
    this.model = options.model;
    this.history = history;
    this.damaged = folder.damaged;
    this.#options = options;
    this.#folder = folder;
    this.#initial = initial;
    this.#state = state ?? initial;
    this.#shared = this.#state.received;
    this.#evaluated = history.findLast((report) => report.evaluation);
  }

  /**
   * Makes the site's run folder, or opens it to go on.
   * @throws DuetError INVALID_ARGUMENT for settings that cannot work, a strategy whose clients share nothing, a folder that holds a
   *   run and no `resume`, or one with other settings; CORRUPT when none of its checkpoints can be read
   */
  static async open(options: SiteOptions): Promise<Site> {
    const { model, strategy, client, protection, onProgress, onRound, ...rest } = requireObject(
      options,
      'site options',
    );
    requireInstance(model, Vilt, 'model', 'open one with Vilt.fromPretrained');
    requireStrategy(strategy);
    requireClient(requireObject(client, 'client'), 'client');
    if (protection !== undefined)
      requireFunction(requireObject(protection, 'protection').apply, 'apply of protection');
    const spending: { epsilon?: unknown; ledger?: unknown } = { ...protection?.settings };
    if (spending.epsilon !== undefined && spending.ledger === undefined) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        'Expected a ledger for a protection with a budget (epsilon), or a site that is resumed would forget what it has spent; ' +
          'name a file, e.g. privacy.json in the run folder',
      );
    }
    for (const [name, call] of Object.entries({ onProgress, onRound }))
      if (call !== undefined) requireFunction(call, name);
    const settings = validated(schema, rest, 'site options');
    requireTrainable(model, [client]);
    const values = await inTurn(model, client, () => model.read(model.tunable));
    const received = sharedOf(strategy, client, values);
    if (strategy.pooled || Object.keys(received).length === 0) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected a strategy whose clients share parameters but ${strategy.name} has none; take feddat or fedavg`,
      );
    }
    const initial = { round: 0, before: 0, personal: personalOf(strategy, client, values), received };
    const { runDir, resume, rounds: _, ...numbers } = settings;
    const { ledger: _ledger, ...protecting } = { ledger: undefined, ...protection?.settings };
    const folder = await RunFolder.open<SiteReport>(runDir, {
      kind: 'site',
      settings: {
        strategy: strategySettings(strategy),
        ...numbers,
        model: await modelSettings(model),
        client: clientSettings(model, client),
        initialValues: valuesFingerprint({ ...initial.personal, ...received }),
        ...(protection && { protection: protecting }),
      },
      resume,
      keep: CHECKPOINTS_KEPT,
    });
    try {
      const checkpoint = await folder.latest();
      const state = checkpoint && unpackSite(checkpoint, checkpoint.path);
      const site = new Site(options, settings, folder, initial, state, await folder.metrics.read());
      await folder.describeData(site.data);
      return site;
    } catch (error) {
      await folder.close();
      throw error;
    }
  }

  /** Names of the parameters that travel, in the order of the model. */
  get sharedNames(): string[] {
    return Object.keys(this.#initial.received);
  }

  /** The model's own initial values of what travels. */
  initialShared(): Record<string, TensorData> {
    return this.model.withShapes(this.#initial.received);
  }

  /** The last round it was trained in; 0 before the first. */
  get round(): number {
    return this.#state.round;
  }

  /** What it trains and is evaluated on and what is left out, with the bad pictures met so far. */
  get data(): DataReport {
    return { train: reportsOf([this.client.train]), evaluation: reportsOf([this.client.evaluation]) };
  }

  /**
   * Trains from the server's shared parameters and its own, and records both and the answer. The same task again has the same answer.
   * A round that is repeated under another id is trained from the state before it.
   * @throws DuetError INVALID_ARGUMENT for a round before the last one, or other parameters than those that travel; CANCELLED;
   *   NOT_FINITE when a loss is not; DISK_FULL and IO when it cannot be recorded
   */
  train(task: SiteTask, options: { signal?: AbortSignal } = {}): Promise<SiteUpdate> {
    const { signal } = requireObject(options, 'options');
    return this.#turn(async () => {
      const { id, round, shared } = this.#checked(task, 1);
      if (this.#state.last?.id === id) return this.#state.last.update;
      this.#requireNotPast(task);
      throwIfAborted(signal, 'The training');
      const start = performance.now();
      const { client, strategy, model } = this;
      const { protection } = this.#options;
      await protection?.requireBudget?.();
      const before = round === this.#state.round ? await this.#stateBefore() : this.#state;
      const trained = await trainClient(this, {
        client,
        index: this.settings.index,
        round,
        shared,
        personal: before.personal,
        signal,
        onBatch: (batch, batches, loss) => this.#progress({ phase: 'training', round, batch, batches, loss }),
      });
      const sent = protection
        ? requireSameTensors(
            await protection.apply(trained.shared, shared, { round, id }),
            shared,
            'protection',
          )
        : trained.shared;
      const update = { samples: client.train.size, shared: sent, report: trained.report };
      const state = {
        round,
        before: before.round,
        personal: trained.personal,
        received: shared,
        last: { id, update },
      };
      const bytes = byteLength(shared);
      const report: SiteReport = {
        number: round,
        round,
        task: id,
        strategy: strategy.name,
        training: trained.report,
        ...(protection?.report && { protection: protection.report }),
        bytes: { up: bytes, down: bytes },
        timing: { seconds: (performance.now() - start) / 1000 },
      };
      await this.#folder.describeData(this.data);
      await this.#folder.dropAfter(before.round);
      this.#state = before;
      await this.#folder.record(report, packSite(model, state));
      this.#state = state;
      this.#shared = shared;
      this.#options.onRound?.(report);
      return update;
    });
  }

  /**
   * Evaluates the server's shared parameters with its own in the modes of the strategy, and adds a line to the metrics.
   * @returns undefined without evaluation data
   * @throws DuetError INVALID_ARGUMENT for a round before that of the last training, or other parameters than those that travel;
   *   CANCELLED; NOT_FINITE when logits are not
   */
  async evaluate(
    task: SiteTask,
    options: { signal?: AbortSignal } = {},
  ): Promise<ClientEvaluation | undefined> {
    const { signal } = requireObject(options, 'options');
    return this.#turn(async () => {
      const { id, round, shared } = this.#checked(task, 0);
      if (this.#evaluated?.task === id) return this.#evaluated.evaluation;
      this.#requireNotPast(task);
      if (!this.client.evaluation) return undefined;
      throwIfAborted(signal, 'The evaluation');
      const start = performance.now();
      const held = heldTensors(this.strategy, shared, this.#state, false);
      const evaluation = await evaluateHeld(this, this.client, held, {
        signal,
        onBatch: (batch, batches) => this.#progress({ phase: 'evaluation', round, batch, batches }),
      });
      const report: SiteReport = {
        number: this.#state.round,
        round,
        task: id,
        strategy: this.strategy.name,
        ...(evaluation && { evaluation }),
        bytes: { up: 0, down: byteLength(shared) },
        timing: { seconds: (performance.now() - start) / 1000 },
      };
      await this.#folder.metrics.append(report);
      this.#evaluated = report;
      this.#shared = shared;
      this.#options.onRound?.(report);
      return evaluation;
    });
  }

  /**
   * Writes a safetensors file with the site's adapters and head, under the names of the published state dict; the shared adapter is
   * the server's, as it came last.
   * @returns its path
   */
  async export(folder = `${this.#folder.path}/export`): Promise<string> {
    const { model, client, strategy } = this;
    const tensors = heldTensors(strategy, this.#shared, this.#state, true);
    const about = { strategy: strategy.name, round: this.round };
    const paths = await exportClients(model, [{ client, tensors }], about, folder);
    return paths.get(client.name) as string;
  }

  /** Waits for the task in progress and gives the run folder back. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#busy.catch(() => {});
    await this.#folder.close();
  }

  /** One task at a time, also among sites that share a model. */
  #turn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed)
      return Promise.reject(new DuetError('INVALID_ARGUMENT', 'Expected an open site but it was closed'));
    const turn = inTurn(this.model, this.client, work);
    this.#busy = turn;
    return turn;
  }

  #checked(task: SiteTask, least: number): SiteTask {
    const { id, round, shared } = requireObject(task, 'task');
    if (requireText(id, 'id of the task') === '')
      throw new DuetError('INVALID_ARGUMENT', 'Expected a text for id of the task but it is empty');
    requireInteger(round, 'round of the task', least, MOST_ROUNDS);
    const source = `the server in round ${round}`;
    requireSameTensors(shared, this.#initial.received, source);
    for (const [name, values] of Object.entries(shared))
      requireInstance(values, Float32Array, `${name} from ${source}`);
    return { id, round, shared };
  }

  #requireNotPast({ round }: SiteTask): void {
    if (round >= this.#state.round) return;
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected a task of round ${this.#state.round} or later for site ${this.client.name} but received round ${round}; ` +
        'another run of the server needs another run folder',
    );
  }

  /** The state that the last training began from. */
  async #stateBefore(): Promise<SiteState> {
    const { before } = this.#state;
    if (before === 0) return this.#initial;
    const path = this.#folder.checkpointPath(before);
    return unpackSite(await native.readSafetensors(path), path);
  }

  #progress(now: Omit<SiteProgress, 'strategy' | 'client' | 'rounds'>): void {
    const { rounds } = this.settings;
    const { strategy, client } = this;
    this.#options.onProgress?.({
      ...now,
      strategy: strategy.name,
      client: client.name,
      ...(rounds !== undefined && { rounds }),
    });
  }
}

/** Work on a model once the sites before have done theirs; afterwards it has its adapters and heads of before. */
function inTurn<T>(model: Vilt, { name }: FederatedClient, work: () => Promise<T>): Promise<T> {
  const turn = (turns.get(model) ?? Promise.resolve()).then(async () => {
    const release = model.claim(`site ${name}`);
    try {
      const initial = await model.read(model.tunable);
      try {
        return await work();
      } finally {
        if (!model.disposed) await model.write(initial);
      }
    } finally {
      release();
    }
  });
  turns.set(
    model,
    turn.catch(() => {}),
  );
  return turn;
}
