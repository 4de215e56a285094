/**
 * A client of DuetServer: joins, waits for tasks, does them, sends the answers. It comes back by itself when the connection or the
 * server is gone for a while; what must last across a kill lasts in its handler, which answers the same task id the same way again.
 */

import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { z } from 'zod';
import { requireFunction, requireObject, requireText } from '../../arguments.js';
import { codeOf, DuetError, messageOf, throwIfAborted } from '../../errors.js';
import type { TensorData, Tensors } from '../../native/core.js';
import { validated } from '../../validation.js';
import { type UpdateCodec, updateCodec } from '../compression.js';
import { type Call, type ClientTls, Connection, RefusedError, type Reply } from './connection.js';
import { handlerOf, type RoundHandler, type RoundTask, type RoundUpdate, type SiteWork } from './handler.js';
import {
  assignmentSchema,
  DIGEST_HEADER,
  heartbeatSchema,
  type Join,
  LENGTH_HEADER,
  OFFSET_HEADER,
  PATHS,
  SESSION_HEADER,
  type Task,
  type Welcome,
  welcomeSchema,
} from './protocol.js';
import { decodeBody, encodeBody } from './safetensors.js';
import { valuesOf } from './uploads.js';

/** What a client is told. */
export interface DuetClientOptions {
  /** https://host:port; http:// only on this machine, or with `insecure`. */
  server: string;
  /** The client's name; that of its token or certificate, where the server asks for one. */
  name: string;
  /** The work; or give `handler`. */
  site?: SiteWork;
  handler?: RoundHandler;
  /** Head of the model this client trains. Default `vqa`. */
  task?: string;
  /** Place among the clients, for sampling and for the order of the sum; those without one come last, by name. */
  index?: number;
  /** Name of the strategy the client trains by; a server with another one refuses it. */
  strategy?: string;
  tls?: ClientTls;
  token?: string;
  /** Speak to another machine without TLS. Default false. */
  insecure?: boolean;
  /** Encodings of updates this client can make, best first. Default: fp32. */
  codecs?: readonly UpdateCodec[];
  /** Ends the client: its work stops, it leaves, and `run` throws CANCELLED. */
  signal?: AbortSignal;
  /** Told of what happens to it. */
  onEvent?: (event: ClientEvent) => void;
}

/** What happens to a client. */
export type ClientEvent =
  | { event: 'joined'; rounds: number }
  | { event: 'task'; kind: 'train' | 'evaluate'; round: number; secondsLeft: number }
  | { event: 'answered'; kind: 'train' | 'evaluate'; round: number; seconds: number; bytes: number }
  /** The server does not count an answer: it came late, or is no update it can use. */
  | { event: 'refused'; kind: 'train' | 'evaluate'; round: number; message: string }
  | { event: 'failed'; kind: 'train' | 'evaluate'; round: number; message: string }
  /** The server cannot be reached. */
  | { event: 'retry'; message: string; seconds: number };

const FIRST_WAIT_SECONDS = 0.25;
const LONGEST_WAIT_SECONDS = 30;
/** Damaged uploads before the client gives a round up. */
const UPLOADS = 3;
const LEAVE_MS = 2000;

/** An answer that is ready to be sent, again if need be. */
interface Ready {
  id: string;
  body: Uint8Array;
  digest: string;
}

/** One client of a DuetServer. */
export class DuetClient {
  readonly #options: DuetClientOptions;
  readonly #handler: RoundHandler;
  readonly #codecs: readonly UpdateCodec[];
  readonly #connection: Connection;
  #welcome: Welcome | undefined;
  #received: { hash: string; tensors: Tensors } | undefined;
  #ready: Ready | undefined;
  #failures = 0;
  #bytes = 0;

  private constructor(options: DuetClientOptions) {
    const { site, handler, onEvent, codecs = [updateCodec('fp32')] } = requireObject(options, 'options');
    requireText(options.name, 'name');
    requireText(options.server, 'server');
    const work = handler ?? (site && handlerOf(site));
    const { train, evaluate } = requireObject(work as RoundHandler, 'site or handler');
    for (const [name, call] of Object.entries({ train, evaluate })) requireFunction(call, name);
    if (onEvent !== undefined) requireFunction(onEvent, 'onEvent');
    this.#options = options;
    this.#handler = work as RoundHandler;
    this.#codecs = codecs;
    this.#connection = new Connection(options);
  }

  /**
   * Takes part until the server's run is done.
   * @throws DuetError CANCELLED when the signal is aborted; INVALID_ARGUMENT when the server refuses this client or cannot be trusted
   */
  static async run(options: DuetClientOptions): Promise<void> {
    const client = new DuetClient(options);
    try {
      await client.#run();
    } finally {
      await client.#leave();
    }
  }

  async #run(): Promise<void> {
    const { signal } = this.#options;
    for (;;) {
      throwIfAborted(signal, 'The run');
      try {
        this.#welcome ??= await this.#join();
        const { status, body } = await this.#call({ method: 'GET', path: PATHS.task });
        this.#failures = 0;
        if (status === 204) continue;
        const assignment = parsed(assignmentSchema, body);
        if (assignment.kind === 'done') return;
        await this.#work(assignment);
      } catch (error) {
        throwIfAborted(signal, 'The run');
        await this.#recover(error);
      }
    }
  }

  /** Waits before the next attempt, or throws what no attempt mends. */
  async #recover(error: unknown): Promise<void> {
    const { server, signal, name } = this.#options;
    if (error instanceof DuetError) throw error;
    if (error instanceof RefusedError) {
      if (error.code === 'UNKNOWN') this.#welcome = undefined;
      else if (!['CLOSING', 'INTERNAL', 'LATE'].includes(error.code))
        throw new DuetError('INVALID_ARGUMENT', `The server ${server} refuses ${name}: ${error.message}`, {
          cause: error,
        });
    }
    const most = Math.min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** this.#failures++);
    const seconds = most * (0.5 + Math.random() / 2);
    this.#tell({ event: 'retry', message: messageOf(error), seconds });
    await sleep(seconds * 1000, undefined, signal && { signal }).catch(() => {});
  }

  async #join(): Promise<Welcome> {
    const { name, task = 'vqa', index, strategy } = this.#options;
    const codecs = this.#codecs.map((codec) => codec.name);
    const join: Join = { name, task, codecs };
    if (index !== undefined) join.index = index;
    if (strategy !== undefined) join.strategy = strategy;
    const welcome = parsed(
      welcomeSchema,
      (await this.#call({ method: 'POST', path: PATHS.join, body: join })).body,
    );
    this.#tell({ event: 'joined', rounds: welcome.rounds });
    return welcome;
  }

  async #work(task: Task): Promise<void> {
    const { kind, round, secondsLeft, id } = task;
    this.#tell({ event: 'task', kind, round, secondsLeft });
    const start = performance.now();
    this.#bytes = 0;
    using watch = this.#watched(id);
    try {
      const answered =
        kind === 'train' ? await this.#train(task, watch.signal) : await this.#evaluate(task, watch.signal);
      const seconds = (performance.now() - start) / 1000;
      if (answered) this.#tell({ event: 'answered', kind, round, seconds, bytes: this.#bytes });
    } catch (error) {
      if (
        !(error instanceof RefusedError) ||
        !['LATE', 'REFUSED', 'TOO_LARGE', 'DIGEST'].includes(error.code)
      )
        throw error;
      const { code, message } = error;
      this.#tell({ event: 'refused', kind, round, message });
      if (code === 'DIGEST')
        await this.#call({ method: 'POST', path: PATHS.failure + id, body: { code: 'CORRUPT', message } });
    }
  }

  /** @returns whether there was an answer to send */
  async #train(task: Task, signal: AbortSignal): Promise<boolean> {
    if (this.#ready?.id !== task.id) {
      this.#ready = undefined;
      const shared = await this.#download(task);
      const ready = await this.#local(task, signal, async () => {
        const update = await this.#handler.train(this.#taskFor(task, shared), { signal });
        return { id: task.id, ...this.#encoded(update, shared) };
      });
      if (!ready) return false;
      this.#ready = ready;
      // The next task comes with other parameters.
      this.#received = undefined;
    }
    await this.#upload(this.#ready);
    this.#ready = undefined;
    return true;
  }

  async #evaluate(task: Task, signal: AbortSignal): Promise<boolean> {
    const shared = await this.#download(task);
    const result = await this.#local(task, signal, () =>
      this.#handler.evaluate(this.#taskFor(task, shared), { signal }),
    );
    if (!result) return false;
    const { samples, accuracy } = result;
    await this.#call({ method: 'POST', path: PATHS.evaluation + task.id, body: { samples, accuracy } });
    return true;
  }

  /** Work of the handler; its failure is the server's to know. */
  async #local<T>(
    { id, kind, round }: Task,
    signal: AbortSignal,
    work: () => Promise<T>,
  ): Promise<T | undefined> {
    try {
      return await work();
    } catch (error) {
      throwIfAborted(this.#options.signal, 'The run');
      const message = signal.aborted ? 'the round went on without this client' : messageOf(error);
      this.#tell({ event: 'failed', kind, round, message });
      const failure = { code: codeOf(error) ?? 'INTERNAL', message: message.slice(0, 5000) };
      if (!signal.aborted) await this.#call({ method: 'POST', path: PATHS.failure + id, body: failure });
      return undefined;
    }
  }

  #taskFor({ id, round }: Task, shared: Tensors): RoundTask {
    return { id, round, shared };
  }

  async #download({ shared: hash }: Task): Promise<Tensors> {
    if (this.#received?.hash === hash) return this.#received.tensors;
    this.#received = undefined;
    const { parameters, sharedBytes } = this.#welcome as Welcome;
    const { body } = await this.#call({
      method: 'GET',
      path: PATHS.shared + hash,
      limit: sharedBytes,
      patient: true,
    });
    if (createHash('sha256').update(body).digest('hex') !== hash)
      throw new Error('the shared parameters were damaged on their way');
    const { tensors } = decodeBody(body, 'the shared parameters');
    const wanted: Record<string, TensorData> = {};
    for (const { name, shape } of parameters) {
      const tensor = tensors[name];
      if (tensor?.dtype !== 'f32' || tensor.shape.join() !== shape.join())
        throw new DuetError(
          'CORRUPT',
          `Expected ${name} of shape ${shape.join(' x ')} among the shared parameters`,
        );
      wanted[name] = tensor;
    }
    this.#received = { hash, tensors: valuesOf(wanted) };
    return this.#received.tensors;
  }

  #encoded({ samples, shared, metrics }: RoundUpdate, received: Tensors): Omit<Ready, 'id'> {
    const { parameters, codec: name } = this.#welcome as Welcome;
    const codec = this.#codecs.find((one) => one.name === name);
    if (!codec)
      throw new DuetError('UNSUPPORTED', `Expected a codec this client has but the server chose ${name}`);
    const tensors = codec.encode(shared, received);
    const shapes = new Map(parameters.map((parameter) => [parameter.name, parameter.shape]));
    for (const [one, tensor] of Object.entries(tensors)) {
      const shape = shapes.get(one);
      const size = shape?.reduce((product, edge) => product * edge, 1);
      if (shape && size === tensor.data.length) tensors[one] = { ...tensor, shape };
    }
    const finite = Object.entries(metrics).filter(([, value]) => Number.isFinite(value));
    const about = { samples, codec: name, metrics: Object.fromEntries(finite) };
    const body = encodeBody(tensors, { duet: JSON.stringify(about) });
    return { body, digest: createHash('sha256').update(body).digest('hex') };
  }

  /** Sends what the server does not have yet. */
  async #upload({ id, body, digest }: Ready): Promise<void> {
    let offset = 0;
    for (let damaged = 0; ; ) {
      const headers = {
        [DIGEST_HEADER]: digest,
        [LENGTH_HEADER]: String(body.length),
        [OFFSET_HEADER]: String(offset),
      };
      try {
        await this.#call({
          method: 'PUT',
          path: PATHS.update + id,
          headers,
          body: body.subarray(offset),
          patient: true,
        });
        return;
      } catch (error) {
        const { code, headers: answer } =
          error instanceof RefusedError ? error : { code: '', headers: {} as Reply['headers'] };
        const next = Number(answer[OFFSET_HEADER] ?? 0);
        if (code === 'OFFSET' && next <= body.length) offset = next;
        else if (code === 'DIGEST' && ++damaged < UPLOADS) offset = 0;
        else throw error;
      }
    }
  }

  /** Tells the server that this client is there while it works; the signal ends work nobody waits for. */
  #watched(id: string): { signal: AbortSignal } & Disposable {
    const { signal: stop } = this.#options;
    const over = new AbortController();
    const beat = async () => {
      try {
        const { body } = await this.#call({ method: 'POST', path: PATHS.heartbeat, body: {} });
        if (parsed(heartbeatSchema, body).task !== id) over.abort();
      } catch {
        // The next request of the work itself finds out.
      }
    };
    const timer = setInterval(beat, (this.#welcome as Welcome).heartbeatSeconds * 1000);
    return {
      signal: stop ? AbortSignal.any([stop, over.signal]) : over.signal,
      [Symbol.dispose]: () => clearInterval(timer),
    };
  }

  #call(call: Call): Promise<Reply> {
    const { signal } = this.#options;
    const headers = { ...call.headers };
    if (this.#welcome) headers[SESSION_HEADER] = this.#welcome.session;
    return this.#connection.call({
      ...call,
      headers,
      ...(signal && { signal }),
      onBytes: (_, count) => {
        this.#bytes += count;
      },
    });
  }

  /** A client that was stopped says so; one whose run is done need not. */
  async #leave(): Promise<void> {
    const { signal } = this.#options;
    if (this.#welcome && signal?.aborted) {
      const headers = { [SESSION_HEADER]: this.#welcome.session };
      const leave = this.#connection.call({ method: 'POST', path: PATHS.leave, headers, body: {} });
      await Promise.race([leave.catch(() => {}), sleep(LEAVE_MS, undefined, { ref: false })]);
    }
    this.#connection.close();
  }

  #tell(event: ClientEvent): void {
    this.#options.onEvent?.(event);
  }
}

function parsed<S extends z.ZodType>(schema: S, body: Uint8Array): z.output<S> {
  return validated(schema, JSON.parse(Buffer.from(body).toString()), 'the answer of the server', 'CORRUPT');
}
