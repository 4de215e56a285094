/** The rounds of a federation over the network: ask, collect, check, combine, evaluate, record. */

import { join } from 'node:path';
import { z } from 'zod';
import { requireObject } from '../../arguments.js';
import { DuetError, messageOf, throwIfAborted } from '../../errors.js';
import type { Tensors } from '../../native/core.js';
import { native } from '../../native.js';
import { parseJson } from '../../run/files.js';
import { RunFolder } from '../../run/run-folder.js';
import { validated } from '../../validation.js';
import { type ClientEvaluation, summarise } from '../evaluation.js';
import type { Failure } from '../report.js';
import { sampleClients } from '../sampling.js';
import type { Strategy } from '../strategies/strategy.js';
import { aggregateSpooled } from './aggregation.js';
import { type AuditEvent, AuditLog } from './audit.js';
import type { ServerTls } from './credentials.js';
import { Desk, type NodeStatus } from './desk.js';
import { Endpoint } from './endpoint.js';
import { Nodes } from './nodes.js';
import { OpenRound, type SpooledUpdate } from './open-round.js';
import { type CheckedOptions, type DuetServerOptions, type ServerRound, serverSettings } from './options.js';
import { PATHS } from './protocol.js';
import { SharedParameters } from './shared.js';
import { readUpdate, valuesOf } from './uploads.js';

const checkpointSchema = z.object({
  format: z.literal('duet-server-1'),
  round: z.int().min(0),
  best: z.object({ round: z.int(), accuracy: z.number() }).optional(),
});
/** Refusals of strangers that go into the audit log: one a second. */
const REFUSAL_MS = 1000;
const FAREWELL_MS = 30_000;

interface State {
  round: number;
  shared: SharedParameters;
  best?: { round: number; accuracy: number } | undefined;
}

/** What a run needs while it lasts. */
interface Running {
  folder: RunFolder<ServerRound>;
  audit: AuditLog;
  nodes: Nodes;
  desk: Desk;
  signal: AbortSignal;
}

/**
 * Serves the rounds of a strategy to clients on other machines over HTTP/2 with TLS (docs/server.md).
 *
 * ```ts
 * const server = new DuetServer({ strategy: new FedDat(), initial, rounds: 30, runDir, tls: { cert, key, clientCa }, host, port });
 * for await (const round of server.run({ signal })) console.log(round.number, round.metrics);
 * ```
 */
export class DuetServer {
  readonly strategy: Strategy;
  /** Rounds of this run that were recorded before it was resumed. */
  readonly history: ServerRound[] = [];
  /** Where clients connect to; while a run lasts. */
  url: string | undefined;
  readonly #options: DuetServerOptions;
  readonly #checked: CheckedOptions;
  readonly #initial: SharedParameters;
  #shared: SharedParameters;
  #desk: Desk | undefined;
  #running = false;

  /** @throws DuetError INVALID_ARGUMENT for options that cannot work */
  constructor(options: DuetServerOptions) {
    this.#checked = serverSettings(options);
    this.#options = options;
    this.strategy = options.strategy;
    this.#initial = new SharedParameters(options.initial);
    this.#shared = this.#initial;
  }

  /** The shared parameters after the last recorded round. Do not write to them. */
  get shared() {
    return this.#shared.tensors;
  }

  /** Everyone who has joined, for a view of the run. */
  nodes(): NodeStatus[] {
    return this.#desk?.status() ?? [];
  }

  /**
   * Listens, runs the rounds that are left and reports each once it is on the disk.
   * @throws DuetError CANCELLED when the signal is aborted; UNAVAILABLE when a round misses its quorum at every attempt; IO and DISK_FULL
   *   when something cannot be written
   */
  async *run(options: { signal?: AbortSignal } = {}): AsyncGenerator<ServerRound, void, undefined> {
    if (this.#running) throw new DuetError('INVALID_ARGUMENT', 'Expected one run of a server at a time');
    const { signal } = requireObject(options, 'options');
    throwIfAborted(signal, 'The run');
    this.#running = true;
    const failed = new AbortController();
    const stop = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
    const { settings } = this.#checked;
    let folder: RunFolder<ServerRound> | undefined;
    let endpoint: Endpoint | undefined;
    try {
      folder = await this.#openFolder();
      const { state, running } = await this.#resumed(folder, stop, (error) => failed.abort(error));
      this.#desk = running.desk;
      endpoint = this.#endpoint(running, (error) => failed.abort(error));
      this.url = await endpoint.listen();
      await this.#log(running.audit, { event: 'listening', url: this.url, round: state.round });
      for (const message of folder.damaged) await this.#log(running.audit, { event: 'damaged', message });
      const finished = state.round >= settings.rounds;
      while (state.round < settings.rounds) yield await this.#round(running, state);
      await native.writeSafetensors(join(folder.path, 'shared.safetensors'), state.shared.tensors, {});
      running.desk.leave('done');
      const end = performance.now() + FAREWELL_MS;
      if (finished && !running.desk.toldAll)
        await this.#log(running.audit, { event: 'farewell', seconds: FAREWELL_MS / 1000 });
      while (!running.desk.toldAll && performance.now() < end && !stop.aborted)
        await running.desk.answers.wait(200, stop);
      await this.#log(running.audit, { event: 'done', round: state.round });
    } catch (error) {
      // What went wrong in a request is why the run was cancelled.
      if (failed.signal.aborted) throw failed.signal.reason;
      throw error;
    } finally {
      this.#running = false;
      this.#desk?.leave('closing');
      await endpoint?.close();
      this.url = undefined;
      await folder?.close();
    }
  }

  async #openFolder(): Promise<RunFolder<ServerRound>> {
    const { settings, codecs } = this.#checked;
    const { rounds, sampling, quorum, evaluation, seed, limits, runDir, resume, keepCheckpoints } = settings;
    const { strategy } = this;
    return RunFolder.open<ServerRound>(runDir, {
      kind: 'server',
      settings: {
        strategy: { name: strategy.name, ...strategy.settings },
        ...{ rounds, sampling, quorum, evaluation, seed, limits },
        codecs: codecs.map(({ name }) => name),
        initial: this.#initial.hash,
      },
      resume,
      keep: keepCheckpoints,
    });
  }

  async #resumed(
    folder: RunFolder<ServerRound>,
    signal: AbortSignal,
    onError: (error: unknown) => void,
  ): Promise<{ state: State; running: Running }> {
    const { settings, codecs } = this.#checked;
    const checkpoint = await folder.latest();
    const state: State = { round: 0, shared: this.#initial };
    if (checkpoint) {
      const { path, metadata, tensors } = checkpoint;
      const about = validated(checkpointSchema, parseJson(metadata.duet ?? 'null', path), path, 'CORRUPT');
      Object.assign(state, { round: about.round, best: about.best });
      state.shared = this.#initial.with(valuesOf(tensors));
    }
    this.#shared = state.shared;
    this.history.splice(0, this.history.length, ...(await folder.metrics.read()));
    const audit = await AuditLog.open(join(folder.path, 'audit.jsonl'), this.history);
    const nodes = await Nodes.open(join(folder.path, 'clients.json'), 3000 * settings.heartbeatSeconds);
    const log = (event: AuditEvent) => {
      return this.#log(audit, event).catch((error: unknown) => {
        onError(error);
        throw error;
      });
    };
    const desk = new Desk({ nodes, settings, strategy: this.strategy, codecs, shared: state.shared, log });
    return { state, running: { folder, audit, nodes, desk, signal } };
  }

  #endpoint({ audit, desk }: Running, onError: (error: unknown) => void): Endpoint {
    const { host, port, tls, clients, insecure } = this.#checked.settings;
    let lastMs = Number.NEGATIVE_INFINITY;
    return new Endpoint({
      ...{ host, port, clients, insecure, tls: tls as ServerTls | undefined, tokens: this.#checked.tokens },
      answer: (request) => desk.answer(request),
      onError: (error) => {
        if (error instanceof DuetError && ['IO', 'DISK_FULL', 'INTERNAL'].includes(error.code))
          onError(error);
        this.#log(audit, { event: 'error', message: messageOf(error) }).catch(onError);
      },
      onRefusal: ({ code, message }, { identity, address, path }) => {
        const usual = ['LATE', 'OFFSET', 'CLOSING', 'UNKNOWN', 'REPLACED', 'INTERNAL'].includes(code);
        const told = path.startsWith(PATHS.update) && ['REFUSED', 'TOO_LARGE'].includes(code);
        if (usual || told || performance.now() - lastMs < REFUSAL_MS) return;
        lastMs = performance.now();
        const client = identity === undefined ? {} : { client: identity };
        this.#log(audit, {
          event: 'refused',
          ...client,
          address,
          path: path.slice(0, 200),
          code,
          message,
        }).catch(onError);
      },
    });
  }

  async #log(audit: AuditLog, event: AuditEvent): Promise<void> {
    await audit.append(event);
    this.#options.onEvent?.(event);
  }

  /** One round from the state before it, however many attempts it takes. */
  async #round(running: Running, state: State): Promise<ServerRound> {
    const { desk, audit, folder } = running;
    const { settings } = this.#checked;
    const root = join(folder.path, 'rounds');
    const number = state.round + 1;
    desk.traffic.clear();
    let open = await OpenRound.recover(root, number, (update) => this.#read(update, state.shared));
    if (open) await this.#log(audit, continued(open));
    for (const { client, message } of open?.dropped ?? [])
      await this.#log(audit, { event: 'dropped', round: number, client, message });
    for (const { client, bytes } of open?.inOrder() ?? []) desk.traffic.set(client, { up: bytes, down: 0 });
    for (let attempt = open?.attempt ?? 1; ; attempt++) {
      open ??= await this.#begin(running, root, number, attempt);
      const updates = await this.#train(running, open, state.shared);
      const needed = Math.max(1, Math.ceil(settings.quorum * open.participants.length));
      if (updates.length >= needed) return this.#close(running, state, open, updates);
      const { participants } = open;
      const asked = participants.length;
      await this.#log(audit, {
        event: 'no quorum',
        round: number,
        attempt,
        needed,
        asked,
        received: updates.length,
      });
      if (attempt >= settings.attempts) throw tooFew(open, needed, updates.length, attempt);
      open = undefined;
    }
  }

  async #begin(
    { nodes, desk, audit, signal }: Running,
    root: string,
    number: number,
    attempt: number,
  ): Promise<OpenRound> {
    const { minClients, sampling, seed } = this.#checked.settings;
    const least = Math.max(minClients, sampling.minimum);
    while (nodes.present().length < least) {
      throwIfAborted(signal, 'The run');
      await desk.answers.wait(500, signal);
    }
    const present = nodes.present();
    const participants = sampleClients(present.length, sampling, seed, number).map((index) => {
      const { name, task } = present[index] as (typeof present)[number];
      return { name, task };
    });
    const open = await OpenRound.begin(root, { number, attempt, participants });
    const clients = participants.map(({ name }) => name);
    await this.#log(audit, { event: 'round', round: number, attempt, clients });
    return open;
  }

  /** @returns updates that count, in order */
  async #train(
    { desk, signal, audit }: Running,
    open: OpenRound,
    shared: SharedParameters,
  ): Promise<SpooledUpdate[]> {
    if (!open.closed) {
      const ms = this.#checked.settings.deadlineSeconds * 1000;
      desk.begin({ kind: 'train', open, shared, endMs: performance.now() + ms });
      await desk.answers.until(() => open.trained, ms, signal);
      await desk.end();
      const { number: round, attempt } = open;
      const missing = open.participants
        .filter(({ name }) => open.due(name) === 'train')
        .map(({ name }) => name);
      if (missing.length > 0) await this.#log(audit, { event: 'deadline', round, attempt, missing });
    }
    return open.inOrder();
  }

  /** The parameters of an update that counts. */
  async #read({ path, codec, task }: SpooledUpdate, shared: SharedParameters): Promise<Tensors> {
    const known = this.#checked.codecs.find(({ name }) => name === codec);
    if (!known) throw new DuetError('UNSUPPORTED', `Expected the codec ${codec} to read ${path}`);
    return readUpdate(path, known, valuesOf(shared.pick((name) => this.strategy.isShared(name, task))));
  }

  /** The round has its updates. */
  async #close(
    running: Running,
    state: State,
    open: OpenRound,
    updates: SpooledUpdate[],
  ): Promise<ServerRound> {
    const { folder, audit, desk, nodes } = running;
    const { number, attempt } = open;
    const { settings } = this.#checked;
    const values = await aggregateSpooled(this.strategy, state.shared.values, updates, (update) =>
      this.#read(update, state.shared),
    );
    const shared = state.shared.with(values);
    if (open.closed && open.closed.shared !== shared.hash) {
      throw new DuetError(
        'CORRUPT',
        `Expected the updates in ${open.folder} to give ${open.closed.shared} but they give ${shared.hash}`,
      );
    }
    await this.#log(audit, {
      ...{ event: 'aggregate', round: number, attempt, shared: shared.hash },
      updates: updates.map(({ client, samples, sha256 }) => ({ client, samples, sha256 })),
    });
    const trained = Date.now();
    if (number === settings.rounds || number % settings.evaluation.every === 0)
      await this.#evaluate(running, open, shared);
    const report = this.#report(open, updates, shared, desk, trained);
    const best = this.#best(report, state.best);
    if (best) report.best = best;
    report.audit = await audit.head();
    const metadata = { duet: JSON.stringify({ format: 'duet-server-1', round: number, best }) };
    await folder.record(report, { tensors: shared.tensors, metadata }, best?.round);
    await nodes.save();
    await open.remove();
    Object.assign(state, { round: number, shared, best });
    this.#shared = shared;
    return report;
  }

  async #evaluate(
    { desk, nodes, signal, audit }: Running,
    open: OpenRound,
    shared: SharedParameters,
  ): Promise<void> {
    if (!open.closed) {
      const evaluators = nodes.present().map(({ name, task }) => ({ name, task }));
      await open.close(shared.hash, evaluators);
    }
    const ms = this.#checked.settings.deadlineSeconds * 1000;
    desk.begin({ kind: 'evaluate', open, shared, endMs: performance.now() + ms });
    await desk.answers.until(() => open.evaluated, ms, signal);
    await desk.end();
    const { number: round, attempt } = open;
    const missing = (open.closed?.evaluators ?? []).filter(({ name }) => !open.evaluations.has(name));
    if (missing.length > 0)
      await this.#log(audit, { event: 'deadline', round, attempt, missing: missing.map(({ name }) => name) });
  }

  #report(
    open: OpenRound,
    updates: SpooledUpdate[],
    shared: SharedParameters,
    desk: Desk,
    trained: number,
  ): ServerRound {
    const { number, attempt, startedMs } = open;
    const losses = updates.map(({ metrics }) => metrics.loss).filter((loss) => loss !== undefined);
    const nodes = Object.fromEntries([...desk.traffic].sort(([a], [b]) => (a < b ? -1 : 1)));
    const sum = (way: 'up' | 'down') => Object.values(nodes).reduce((total, bytes) => total + bytes[way], 0);
    const now = Date.now();
    const report: ServerRound = {
      number,
      strategy: this.strategy.name,
      metrics: {},
      clients: updates.map(({ client, samples, seconds, sha256, metrics }) => {
        return { client, samples, seconds, sha256, metrics };
      }),
      failures: failuresOf(open),
      bytes: { up: sum('up'), down: sum('down'), nodes },
      timing: {
        seconds: (now - startedMs) / 1000,
        trainSeconds: (trained - startedMs) / 1000,
        evaluateSeconds: (now - trained) / 1000,
      },
      attempt,
      shared: shared.hash,
      audit: '',
    };
    const loss = losses.reduce((total, one) => total + one, 0) / losses.length;
    if (Number.isFinite(loss)) report.metrics.loss = loss;
    const results = (open.closed?.evaluators ?? []).flatMap(({ name: client }): ClientEvaluation[] => {
      const result = open.evaluations.get(client);
      return result && 'samples' in result && result.samples > 0 ? [{ client, ...result }] : [];
    });
    if (results.length > 0) {
      report.evaluation = summarise(results);
      report.metrics.accuracy = report.evaluation.mean;
    }
    return report;
  }

  #best({ number: round, evaluation }: ServerRound, before: State['best']): State['best'] {
    const accuracy = evaluation?.mean[this.strategy.evaluations[0]?.name ?? ''];
    if (accuracy === undefined) return before;
    return before === undefined || accuracy > before.accuracy ? { round, accuracy } : before;
  }
}

/** Everyone who was asked and did not answer well. */
function failuresOf(open: OpenRound): Failure[] {
  const silent = { code: 'CANCELLED', message: 'no answer by the deadline' };
  const training = open.participants.flatMap(({ name: client }): Failure[] => {
    if (open.updates.has(client)) return [];
    return [{ client, during: 'training', ...(open.failures.get(client) ?? silent) }];
  });
  const evaluation = (open.closed?.evaluators ?? []).flatMap(({ name: client }): Failure[] => {
    const result = open.evaluations.get(client) ?? { failure: silent };
    return 'failure' in result ? [{ client, during: 'evaluation', ...result.failure }] : [];
  });
  return [...training, ...evaluation];
}

/** What of a round is there after the server was away. */
function continued(open: OpenRound): AuditEvent {
  const updates = open.inOrder().map(({ client, samples, sha256 }) => ({ client, samples, sha256 }));
  return { event: 'continued', round: open.number, attempt: open.attempt, updates };
}

function tooFew(open: OpenRound, needed: number, received: number, attempts: number): DuetError {
  const [first] = failuresOf(open);
  return new DuetError(
    'UNAVAILABLE',
    `Expected updates of at least ${needed} of ${open.participants.length} clients in round ${open.number} but received ${received}, ` +
      `in ${attempts} attempts; client ${first?.client}: ${first?.message}. Resume to try again`,
  );
}
