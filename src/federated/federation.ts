/**
 * The rounds of a federation, simulated in one process: sample clients, train each locally on the one model, combine what
 * they send, evaluate, record.
 *
 * The frozen encoder exists once. What belongs to a client (adapter_0 and its head, say) is kept here and written into the
 * model before its training; before the first round every client has the model's own initial values, as published. After a
 * run the model has its initial adapters and heads again, so several federations can be compared on one model.
 */

import { requireObject } from '../arguments.js';
import { codeOf, DuetError, messageOf, shown, throwIfAborted } from '../errors.js';
import type { Vilt } from '../models/vilt.js';
import type { Tensors } from '../native/core.js';
import { RunFolder } from '../run/run-folder.js';
import { type FederatedClient, taskOf } from './client.js';
import {
  byteLength,
  type ClientState,
  evaluateHeld,
  heldTensors,
  personalOf,
  requireSameTensors,
  sharedOf,
  trainClient,
} from './client-round.js';
import { type DataReport, reportsOf } from './data-report.js';
import { type ClientEvaluation, summarise } from './evaluation.js';
import { exportClients } from './export.js';
import { type FederationOptions, type FederationSettings, federationSettings } from './options.js';
import type { Failure, Progress, RoundReport } from './report.js';
import { sampleClients } from './sampling.js';
import { runSettings } from './settings.js';
import { type FederationState, packState, unpackState } from './state.js';
import type { ClientUpdate, Strategy } from './strategies/strategy.js';

/** How a run can be ended. */
export interface RunOptions {
  /** Stops between two steps; `run` then throws CANCELLED and the last recorded round stays. */
  signal?: AbortSignal;
}

/**
 * A federation in one process (FedDAT, arXiv 2308.12305, algorithm 1): each round chosen clients train locally from the shared
 * parameters and their own, the server averages what is shared, and every client is evaluated.
 *
 * ```ts
 * const federation = new Federation({ model, strategy: new FedDat({ temperature: 3 }), clients, rounds: 30,
 *   localEpochs: 1, batchSize: 32, learningRate: 1e-4, seed: 1, runDir });
 * for await (const round of federation.run({ signal })) console.log(round.number, round.metrics);
 * ```
 */
export class Federation {
  /** The options with all defaults. */
  readonly settings: FederationSettings;
  /** What travels and how clients train. */
  readonly strategy: Strategy;
  /** In the order given. */
  readonly clients: readonly FederatedClient[];
  /** The one model of the process; a run claims it and gives it back with its initial adapters and heads. */
  readonly model: Vilt;
  /** Reports of rounds of this run that were recorded before it was resumed. */
  readonly history: RoundReport[] = [];
  /** Checkpoints that could not be read when the run was resumed; an older one was taken. */
  readonly damaged: string[] = [];
  /** Who trains: the clients, or for a pooled strategy one client with all data. */
  readonly #trainees: readonly FederatedClient[];
  readonly #onProgress: (progress: Progress) => void;
  /** What `onProgress` threw: not a failure of a client. */
  #callersError: { error: unknown } | undefined;
  #state: FederationState | undefined;
  /** As the first run found them; `load` changes the model. */
  #runSettings: unknown;
  #running = false;

  /** @throws DuetError INVALID_ARGUMENT for settings that cannot work */
  constructor(options: FederationOptions) {
    this.settings = federationSettings(options);
    this.model = options.model;
    this.strategy = options.strategy;
    this.clients = [...options.clients];
    this.#trainees = options.strategy.pooled ? [pooled(this.clients)] : this.clients;
    this.#onProgress = options.onProgress ?? (() => {});
  }

  /**
   * Runs the rounds that are left and reports each. With a run folder every reported round is on the disk.
   * @throws DuetError CANCELLED when the signal is aborted; NOT_FINITE when a loss is not; INTERNAL or a client's code when
   *   fewer clients than the quorum succeed; DISK_FULL and IO when a round cannot be recorded
   */
  async *run(options: RunOptions = {}): AsyncGenerator<RoundReport, void, undefined> {
    if (this.#running) throw new DuetError('INVALID_ARGUMENT', 'Expected one run of a federation at a time');
    const { signal } = requireObject(options, 'options');
    throwIfAborted(signal, 'The run');
    const release = this.model.claim('a federation');
    this.#running = true;
    let folder: RunFolder<RoundReport> | undefined;
    let initial: Tensors = {};
    try {
      const { rounds, evaluation, runDir } = this.settings;
      initial = await this.model.read(this.model.tunable);
      folder = runDir === undefined ? undefined : await this.#openFolder(runDir, initial);
      this.#state ??= await this.#initialState();
      const first = this.#state.round === 0 && !this.history.some((report) => report.number === 0);
      if (first && evaluation.before) yield await this.#recorded(folder, await this.#before(signal));
      while (this.#state.round < rounds) yield await this.#recorded(folder, await this.#round(signal));
      if (folder) await this.export(`${folder.path}/export`);
    } finally {
      this.#running = false;
      release();
      await folder?.close();
      if (!this.model.disposed) await this.model.write(initial);
    }
  }

  /**
   * Writes one safetensors file a client with its adapters and head, under the names of the published state dict.
   * @returns paths by client
   */
  async export(folder: string): Promise<Map<string, string>> {
    const state = await this.#current();
    const all = this.clients.map((client) => ({ client, tensors: this.#tensorsFor(client, state, true) }));
    return exportClients(this.model, all, { strategy: this.strategy.name, round: state.round }, folder);
  }

  /** Writes a client's tensors into the model, e.g. to answer questions as this client. */
  async load(client: FederatedClient): Promise<void> {
    await this.model.write(this.#tensorsFor(client, await this.#current(), true));
  }

  /** The server's shared parameters and a client's own ones, after the last round. Do not write to them. */
  async tensors(client: FederatedClient): Promise<{ shared: Tensors; personal: Tensors }> {
    const state = await this.#current();
    return { shared: state.shared, personal: this.#stateOf(client, state).personal };
  }

  /** What is trained and evaluated on and what is left out, with the bad pictures met so far. */
  get data(): DataReport {
    return {
      train: reportsOf(this.#trainees.map((client) => client.train)),
      evaluation: reportsOf(this.clients.map((client) => client.evaluation)),
    };
  }

  async #openFolder(path: string, initial: Tensors): Promise<RunFolder<RoundReport>> {
    this.#runSettings ??= await runSettings(this, initial);
    const { resume, keepCheckpoints } = this.settings;
    const folder = await RunFolder.open<RoundReport>(path, {
      kind: 'federation',
      settings: this.#runSettings,
      resume: resume || this.#state !== undefined,
      keep: keepCheckpoints,
    });
    try {
      const checkpoint = await folder.latest();
      this.damaged.push(...folder.damaged);
      if (checkpoint) this.#state = unpackState(checkpoint, this.#trainees.length, checkpoint.path);
      this.history.splice(0, this.history.length, ...(await folder.metrics.read()));
      if (this.history.length === 0) await folder.describeData(this.data);
      return folder;
    } catch (error) {
      await folder.close();
      throw error;
    }
  }

  async #current(): Promise<FederationState> {
    this.#state ??= await this.#initialState();
    return this.#state;
  }

  async #initialState(): Promise<FederationState> {
    const { model, strategy } = this;
    const initial = await model.read(model.tunable);
    const travels = (name: string) => this.#trainees.some((one) => strategy.isShared(name, taskOf(one)));
    const shared = Object.fromEntries(Object.entries(initial).filter(([name]) => travels(name)));
    const clients = this.#trainees.map((client): ClientState => {
      return { personal: personalOf(strategy, client, initial), received: shared };
    });
    return { round: 0, shared, clients };
  }

  async #before(signal: AbortSignal | undefined): Promise<{ report: RoundReport; state: FederationState }> {
    const start = performance.now();
    const state = await this.#current();
    const report: RoundReport = this.#emptyReport(0);
    await this.#evaluate(report, state, signal);
    const seconds = (performance.now() - start) / 1000;
    report.timing = { seconds, trainSeconds: 0, evaluateSeconds: seconds };
    return { report, state };
  }

  /** One round from the state before it; nothing of it is kept unless it comes to its end. */
  async #round(signal: AbortSignal | undefined): Promise<{ report: RoundReport; state: FederationState }> {
    const start = performance.now();
    const before = await this.#current();
    const number = before.round + 1;
    const report = this.#emptyReport(number);
    const state: FederationState = { ...before, round: number, clients: [...before.clients] };
    const { sampling, seed, quorum, evaluation, rounds } = this.settings;
    const chosen = sampleClients(this.#trainees.length, sampling, seed, number);
    const updates: ClientUpdate[] = [];
    for (const index of chosen) {
      throwIfAborted(signal, 'The run');
      const client = this.#trainees[index] as FederatedClient;
      try {
        updates.push(await this.#trainOne(client, index, before, state, report, signal));
      } catch (error) {
        this.#failed(report, client, 'training', error);
      }
    }
    if (updates.length === 0 || updates.length < quorum * chosen.length)
      throw tooFew(report, updates, chosen, quorum);
    state.shared = requireSameTensors(
      await this.strategy.aggregate(before.shared, updates),
      before.shared,
      `aggregate of strategy ${this.strategy.name}`,
    );
    const losses = report.clients.map((client) => client.loss);
    report.metrics.loss = losses.reduce((sum, loss) => sum + loss, 0) / losses.length;
    const trained = performance.now();
    if (number === rounds || number % evaluation.every === 0) await this.#evaluate(report, state, signal);
    const end = performance.now();
    report.timing = {
      seconds: (end - start) / 1000,
      trainSeconds: (trained - start) / 1000,
      evaluateSeconds: (end - trained) / 1000,
    };
    return { report, state };
  }

  async #trainOne(
    client: FederatedClient,
    index: number,
    before: FederationState,
    state: FederationState,
    report: RoundReport,
    signal: AbortSignal | undefined,
  ): Promise<ClientUpdate> {
    const { round } = state;
    const bytes = byteLength(sharedOf(this.strategy, client, before.shared));
    report.bytes.down += bytes;
    const trained = await trainClient(this, {
      client,
      index,
      round,
      shared: before.shared,
      personal: (before.clients[index] as ClientState).personal,
      optimizer: before.optimizer,
      signal,
      onBatch: (batch, planned, loss) => this.#progress('training', round, client.name, batch, planned, loss),
    });
    if (this.strategy.pooled) state.optimizer = await this.model.optimizerState();
    state.clients[index] = { personal: trained.personal, received: before.shared };
    report.bytes.up += bytes;
    report.clients.push(trained.report);
    return { client: client.name, samples: client.train.size, shared: trained.shared };
  }

  async #evaluate(
    report: RoundReport,
    state: FederationState,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const results: ClientEvaluation[] = [];
    for (const client of this.clients) {
      if (!client.evaluation) continue;
      try {
        const result = await evaluateHeld(this, client, this.#tensorsFor(client, state, false), {
          signal,
          onBatch: (batch, planned) =>
            this.#progress('evaluation', report.number, client.name, batch, planned),
        });
        if (result) results.push(result);
      } catch (error) {
        this.#failed(report, client, 'evaluation', error);
      }
    }
    if (results.length === 0) return;
    report.evaluation = summarise(results);
    report.metrics.accuracy = report.evaluation.mean;
    const accuracy = report.evaluation.mean[this.strategy.evaluations[0]?.name ?? ''];
    if (accuracy === undefined || report.number === 0) return;
    if (state.best === undefined || accuracy > state.best.accuracy)
      state.best = { round: report.number, accuracy };
    report.best = state.best;
  }

  #tensorsFor(client: FederatedClient, state: FederationState, whole: boolean): Tensors {
    return heldTensors(this.strategy, state.shared, this.#stateOf(client, state), whole);
  }

  #stateOf(client: FederatedClient, state: FederationState): ClientState {
    const index = this.clients.indexOf(client);
    const found = state.clients[this.strategy.pooled ? Math.min(index, 0) : index];
    if (found) return found;
    throw new DuetError('NOT_FOUND', `Expected a client of this federation but received ${shown(client)}`);
  }

  async #recorded(
    folder: RunFolder<RoundReport> | undefined,
    done: { report: RoundReport; state: FederationState },
  ): Promise<RoundReport> {
    await folder?.describeData(this.data);
    await folder?.record(done.report, packState(this.model, done.state), done.state.best?.round);
    this.#state = done.state;
    return done.report;
  }

  /** A client that throws costs its share, not the run; a stop or a loss that is not finite ends the run. */
  #failed(report: RoundReport, client: FederatedClient, during: Failure['during'], error: unknown): void {
    const code = codeOf(error) ?? 'INTERNAL';
    if (code === 'CANCELLED' || this.model.disposed || this.#callersError?.error === error) throw error;
    if (code === 'NOT_FINITE') {
      const { runDir } = this.settings;
      const last = report.number - 1;
      const kept =
        last < 1
          ? '; no round was done before it'
          : runDir === undefined
            ? ''
            : `; the run up to round ${last} is kept in ${runDir}`;
      const where = during === 'training' ? '' : `Client ${client.name}, round ${report.number}: `;
      throw new DuetError('NOT_FINITE', where + messageOf(error) + kept, { cause: error });
    }
    report.failures.push({ client: client.name, during, code, message: messageOf(error) });
  }

  #emptyReport(number: number): RoundReport {
    return {
      number,
      strategy: this.strategy.name,
      metrics: {},
      clients: [],
      failures: [],
      bytes: { up: 0, down: 0 },
      timing: { seconds: 0, trainSeconds: 0, evaluateSeconds: 0 },
    };
  }

  #progress(
    phase: Progress['phase'],
    round: number,
    client: string,
    batch: number,
    batches: number,
    loss?: number,
  ): void {
    const { rounds } = this.settings;
    const progress: Progress = { phase, strategy: this.strategy.name, round, rounds, client, batch, batches };
    try {
      this.#onProgress(loss === undefined ? progress : { ...progress, loss });
    } catch (error) {
      this.#callersError = { error };
      throw error;
    }
  }
}

function pooled(clients: readonly FederatedClient[]): FederatedClient {
  const [first, ...rest] = clients as [FederatedClient, ...FederatedClient[]];
  if (rest.length === 0) return { ...first, name: 'all' };
  if (!first.train.join) {
    throw new DuetError(
      'UNSUPPORTED',
      `Expected training data that can be joined for client ${first.name}; give it join()`,
    );
  }
  return { name: 'all', task: taskOf(first), train: first.train.join(rest.map((client) => client.train)) };
}

function tooFew(report: RoundReport, updates: ClientUpdate[], chosen: number[], quorum: number): DuetError {
  const [first] = report.failures;
  const needed = Math.max(1, Math.ceil(quorum * chosen.length));
  const code = codeOf({ code: first?.code }) ?? 'INTERNAL';
  return new DuetError(
    code,
    `Expected at least ${needed} of ${chosen.length} clients to succeed in round ${report.number} but only ` +
      `${updates.length} did; client ${first?.client}: ${first?.message}`,
  );
}
