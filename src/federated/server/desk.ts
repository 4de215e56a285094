/** Answers clients: who joins and leaves, what each is to do now, what it downloads, and what it sends back. */

import { constants } from 'node:http2';
import type { UpdateCodec } from '../compression.js';
import type { Strategy } from '../strategies/strategy.js';
import type { AuditEvent } from './audit.js';
import type { Answer, Request } from './endpoint.js';
import type { NodeRecord, Nodes } from './nodes.js';
import type { OpenRound } from './open-round.js';
import type { ServerSettings } from './options.js';
import {
  type Assignment,
  DIGEST_HEADER,
  evaluationSchema,
  failureSchema,
  type Join,
  joinSchema,
  LENGTH_HEADER,
  OFFSET_HEADER,
  PATHS,
  Refusal,
  type ReportedFailure,
  type Welcome,
} from './protocol.js';
import { MAX_HEADER } from './safetensors.js';
import type { SharedParameters } from './shared.js';
import { accept, checkOffset, receive, type UpdateLimits, type Upload } from './uploads.js';
import { Change, Slots } from './waiting.js';

/** Bodies that are read or sent at the same time; the others wait, so that memory does not grow with the clients. */
const TRANSFERS = 32;
/** Of one client: its newest, and one whose line was cut. */
const OWN_TRANSFERS = 2;
/** Bytes a second, after STALLED_MS: a slower body gives its place to others. */
const SLOWEST = 16 * 1024;
/** A body of which nothing arrives for so long has broken off. */
const STALLED_MS = 30_000;

const ACCEPTED: Answer = { status: 200, body: { accepted: true } };

/** What clients are asked for now. */
export interface Work {
  kind: 'train' | 'evaluate';
  open: OpenRound;
  shared: SharedParameters;
  /** Of the monotonic clock. */
  endMs: number;
}

/** A client at this moment, for a person who looks on. */
export interface NodeStatus {
  name: string;
  state: 'training' | 'sending' | 'evaluating' | 'waiting' | 'away' | 'left';
  /** It works on, or last answered. */
  round: number;
  /** From the begin of the round to its answer, or until now. */
  seconds: number;
  bytes: { up: number; down: number };
  failures: number;
}

export interface DeskOptions {
  nodes: Nodes;
  settings: ServerSettings;
  strategy: Strategy;
  codecs: readonly UpdateCodec[];
  shared: SharedParameters;
  log: (event: AuditEvent) => Promise<void>;
}

export class Desk {
  /** Announced after every join, leave and answer. */
  readonly answers = new Change();
  /** Bodies of this round, by client. */
  readonly traffic = new Map<string, { up: number; down: number }>();
  readonly #options: DeskOptions;
  /** Announced when there is something new to do. */
  readonly #tasks = new Change();
  readonly #transfers = new Slots(TRANSFERS, OWN_TRANSFERS);
  /** Updates are checked one at a time: one is in memory. */
  readonly #checks = new Slots(1);
  readonly #uploads = new Map<string, { stop: () => unknown; ended: Promise<unknown> }>();
  /** Each client's last answer that counts. */
  readonly #last = new Map<string, { id: string; digest: string; round: number; seconds: number }>();
  #work: Work | undefined;
  /** Tasks of this process in order, and the last one each client was late for. */
  readonly #ids = new Map<string, number>();
  readonly #late = new Map<string, number>();
  /** Before its first task a server that came back does not know what is late. */
  #begun = false;
  #over: 'no' | 'done' | 'closing' = 'no';
  readonly #told = new Set<string>();

  constructor(options: DeskOptions) {
    this.#options = options;
  }

  /** Hands out tasks from now on. */
  begin(work: Work): void {
    this.#work = work;
    this.#begun = true;
    this.#ids.set(this.#idOf(work), this.#ids.size);
    this.#tasks.announce();
  }

  /** What comes from now on is late; resolves once nothing is in between any more. */
  async end(): Promise<void> {
    this.#work = undefined;
    await this.#checks.run(async () => {});
  }

  /** Every client hears that the run is over, or that this server goes away for now. */
  leave(how: 'done' | 'closing'): void {
    this.#work = undefined;
    this.#over = how;
    this.#tasks.announce();
  }

  /** Everyone who is there knows that the run is done. */
  get toldAll(): boolean {
    return this.#options.nodes.present().every(({ name }) => this.#told.has(name));
  }

  status(): NodeStatus[] {
    return this.#options.nodes.all().map((node) => {
      const { name, bytes, failures } = node;
      const work = this.#taskOf(name) && this.#work;
      const { round, seconds } = this.#last.get(name) ?? { round: 0, seconds: 0 };
      const now = work && {
        round: work.open.number,
        seconds: (Date.now() - (work.open.closed ?? work.open).startedMs) / 1000,
      };
      return {
        name,
        state: this.#stateOf(node),
        ...(now ?? { round, seconds }),
        bytes: { ...bytes },
        failures,
      };
    });
  }

  #stateOf({ name, left }: NodeRecord): NodeStatus['state'] {
    if (left) return 'left';
    if (!this.#options.nodes.isPresent(name)) return 'away';
    const task = this.#taskOf(name);
    if (!task) return 'waiting';
    if (task.kind === 'evaluate') return 'evaluating';
    return this.#uploads.has(name) ? 'sending' : 'training';
  }

  async answer(request: Request): Promise<Answer> {
    if (this.#over === 'closing')
      throw new Refusal('CLOSING', 'the server goes away for now; try again later');
    const { method, path } = request;
    const route = (wanted: string, prefix: string) => method === wanted && path.startsWith(prefix);
    if (route('POST', PATHS.join)) return this.#join(request);
    const unknown = new Refusal(
      'NOT_FOUND',
      `there is no ${method} ${path.slice(0, 200)}; this server speaks version 1`,
    );
    if (!Object.values(PATHS).some((known) => path.startsWith(known))) throw unknown;
    const node = this.#client(request);
    this.#options.nodes.seen(node.name);
    if (route('GET', PATHS.task)) return this.#next(node, request);
    if (route('POST', PATHS.leave)) return this.#leave(node);
    if (!this.#begun && method !== 'GET')
      throw new Refusal('CLOSING', 'the server looks up where it was; try again later');
    if (route('POST', PATHS.heartbeat))
      return { status: 200, body: { task: this.#taskOf(node.name)?.id ?? null } };
    if (route('GET', PATHS.shared)) return this.#download(node, request);
    if (route('PUT', PATHS.update)) return this.#update(node, request);
    if (route('POST', PATHS.evaluation)) return this.#evaluation(node, request);
    if (route('POST', PATHS.failure)) return this.#failure(node, request);
    throw unknown;
  }

  #client(request: Request): NodeRecord {
    const { session } = request;
    const node = session === undefined ? undefined : this.#options.nodes.bySession(session);
    const other = session === undefined ? undefined : this.#options.nodes.replaced(session);
    if (other !== undefined) throw new Refusal('REPLACED', `another process has joined as ${other}`);
    if (!node || node.left) throw new Refusal('UNKNOWN', 'this session is not known; join first');
    if (request.identity !== undefined && request.identity !== node.name)
      throw new Refusal('FORBIDDEN', `this session is not one of ${request.identity}`);
    request.welcome();
    return node;
  }

  async #join(request: Request): Promise<Answer> {
    const join: Join = await request.message(joinSchema);
    const { nodes, strategy, codecs, shared, settings, log } = this.#options;
    const { name, task } = join;
    if (request.identity !== undefined && request.identity !== name)
      throw new Refusal('FORBIDDEN', `the credentials are those of ${request.identity}, not of ${name}`);
    if (join.strategy !== undefined && join.strategy !== strategy.name)
      throw new Refusal('REFUSED', `this server trains with ${strategy.name}, not with ${join.strategy}`);
    const codec = join.codecs.flatMap((one) => codecs.find(({ name }) => name === one) ?? [])[0];
    if (!codec) {
      const known = codecs.map((one) => one.name).join(', ');
      throw new Refusal('REFUSED', `this server reads updates as ${known}, not as ${join.codecs.join(', ')}`);
    }
    const other = nodes
      .all()
      .find((one) => join.index !== undefined && one.index === join.index && one.name !== name && !one.left);
    if (other)
      throw new Refusal(
        'REFUSED',
        `index ${join.index} belongs to ${other.name} already; give each site its own index (--index)`,
      );
    const parameters = shared.pick((one) => strategy.isShared(one, task));
    if (Object.keys(parameters).length === 0)
      throw new Refusal('REFUSED', `no parameter travels for the task ${task}`);
    request.welcome();
    const { session } = nodes.join(join, codec.name);
    await nodes.save();
    await log({ event: 'joined', client: name, task, codec: codec.name });
    this.answers.announce();
    const welcome: Welcome = {
      ...{ session, run: nodes.run, rounds: settings.rounds, codec: codec.name },
      heartbeatSeconds: settings.heartbeatSeconds,
      sharedBytes: shared.body.length,
      parameters: Object.entries(parameters).map(([one, { shape }]) => ({ name: one, shape })),
    };
    return { status: 200, body: welcome };
  }

  async #leave({ name }: NodeRecord): Promise<Answer> {
    const { nodes, log } = this.#options;
    nodes.leave(name);
    await nodes.save();
    await log({ event: 'left', client: name });
    await this.#reported(name, this.#taskOf(name)?.id, { code: 'CANCELLED', message: 'the client left' });
    this.answers.announce();
    return { status: 204 };
  }

  /** Held open until there is something to do. */
  async #next({ name, session }: NodeRecord, { stream }: Request): Promise<Answer> {
    const { nodes, settings } = this.#options;
    const gone = new AbortController();
    stream.once('close', () => gone.abort());
    const assignment = (): Assignment | undefined =>
      this.#over === 'done' ? { kind: 'done' } : this.#taskOf(name);
    const ready = () => assignment() !== undefined || this.#over !== 'no';
    await this.#tasks.until(ready, settings.heartbeatSeconds * 1000, gone.signal);
    if (nodes.get(name)?.session !== session)
      throw new Refusal('REPLACED', `another process has joined as ${name}`);
    nodes.seen(name);
    const body = assignment();
    if (body?.kind === 'done') this.#told.add(name);
    if (body?.kind === 'done') this.answers.announce();
    return body ? { status: 200, body } : { status: 204 };
  }

  async #download({ name }: NodeRecord, { path, headers, stream }: Request): Promise<Answer> {
    const { shared } = this.#work ?? {};
    if (!shared || path !== `${PATHS.shared}${shared.hash}`)
      throw new Refusal('LATE', 'these shared parameters are not those of an open round');
    const etag = `"${shared.hash}"`;
    if (headers['if-none-match'] === etag) return { status: 304, headers: { etag } };
    await this.#transfers.run(async () => {
      if (stream.destroyed) return;
      stream.setTimeout(STALLED_MS, () => stream.close(constants.NGHTTP2_CANCEL));
      stream.respond({
        ...{ ':status': 200, etag, 'content-type': 'application/octet-stream' },
        'content-length': shared.body.length,
      });
      const closed = new Promise((resolve) => stream.once('close', resolve));
      stream.end(shared.body);
      const late = setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), longest(shared.body.length));
      await closed;
      clearTimeout(late);
      if (stream.writableFinished) this.#count(name, 'down', shared.body.length);
    }, name);
    return { status: 200 };
  }

  async #update(node: NodeRecord, request: Request): Promise<Answer> {
    const { name } = node;
    const digest = request.header(DIGEST_HEADER, /^[0-9a-f]{64}$/);
    const length = Number(request.header(LENGTH_HEADER, /^\d{1,15}$/));
    const offset = Number(request.header(OFFSET_HEADER, /^\d{1,15}$/));
    const id = request.path.slice(PATHS.update.length);
    const before = this.#answered(name, id, digest);
    if (before) return before;
    const { shared } = await this.#due(name, id, 'train');
    const limit = shared.body.length + MAX_HEADER;
    if (length > limit) {
      const message = `the update has ${length} bytes, more than the limit of ${limit}`;
      await this.#reported(name, id, { code: 'REFUSED', message });
      throw new Refusal('TOO_LARGE', message);
    }
    // A client that lost its connection may come back before the server knows of it.
    const older = this.#uploads.get(name);
    const { stream } = request;
    let begun = false;
    const received = this.#transfers.run(async (): Promise<Upload> => {
      await older?.ended;
      if (this.#uploads.get(name) !== entry)
        throw new Refusal('OFFSET', 'another upload of this client has begun');
      begun = true;
      const work = await this.#due(name, id, 'train');
      const upload = { part: await work.open.part(name, digest), offset, length, digest };
      await checkOffset(upload);
      stream.setTimeout(STALLED_MS, () => stream.close(constants.NGHTTP2_CANCEL));
      const endMs = performance.now() + longest(length - offset);
      request.proceed();
      await receive(stream, upload, (count) => {
        this.#count(name, 'up', count);
        if (this.#work !== work || performance.now() > endMs)
          throw new Refusal('CLOSING', 'the update comes too slowly; go on with it later');
      });
      stream.setTimeout(0);
      return upload;
    }, name);
    const entry = {
      stop: () => begun && stream.close(constants.NGHTTP2_CANCEL),
      ended: received.catch(() => {}),
    };
    this.#uploads.set(name, entry);
    older?.stop();
    let upload: Upload;
    try {
      upload = await received;
    } catch (error) {
      // The files of a round that is over are gone.
      const answered = stream.destroyed || (error instanceof Refusal && error.code === 'LATE');
      if (!answered) await this.#due(name, id, 'train');
      throw error;
    } finally {
      if (this.#uploads.get(name) === entry) this.#uploads.delete(name);
    }
    return this.#checks.run(() => this.#check(node, id, upload));
  }

  /** A whole update: does it count? */
  async #check(
    { name, codec: wanted }: NodeRecord,
    id: string,
    { part, digest, length }: Upload,
  ): Promise<Answer> {
    const { strategy, codecs, settings, log } = this.#options;
    const before = this.#answered(name, id, digest);
    if (before) return before;
    const { open, shared } = await this.#due(name, id, 'train');
    const codec = codecs.find((one) => one.name === wanted) as UpdateCodec;
    const parameters = shared.pick((one) => strategy.isShared(one, open.taskOf(name)));
    const limits = settings.limits as UpdateLimits;
    const about = await accept(part, open.updatePath(name), { codec, parameters, limits }).catch(
      async (error: unknown) => {
        if (error instanceof Refusal)
          await this.#failed(open, name, 'train', { code: 'REFUSED', message: error.message });
        throw error;
      },
    );
    const update = await open.count(name, digest, about);
    const { number: round, attempt } = open;
    const { samples } = update;
    await log({ event: 'update', round, attempt, client: name, samples, bytes: length, sha256: digest });
    this.#answer(name, id, digest, round, update.seconds);
    return ACCEPTED;
  }

  async #evaluation({ name }: NodeRecord, request: Request): Promise<Answer> {
    const result = await request.message(evaluationSchema);
    const id = request.path.slice(PATHS.evaluation.length);
    if (this.#last.get(name)?.id === id) return ACCEPTED;
    const { open } = await this.#due(name, id, 'evaluate');
    await open.evaluate(name, result);
    await this.#options.log({ event: 'evaluation', round: open.number, client: name, ...result });
    this.#answer(name, id, '', open.number, (Date.now() - (open.closed?.startedMs ?? 0)) / 1000);
    return ACCEPTED;
  }

  async #failure({ name }: NodeRecord, request: Request): Promise<Answer> {
    const failure = await request.message(failureSchema);
    await this.#reported(name, request.path.slice(PATHS.failure.length), failure);
    return { status: 200 };
  }

  /** Not while an update of this client is checked: it has one answer. */
  #reported(name: string, id: string | undefined, failure: ReportedFailure): Promise<void> {
    return this.#checks.run(async () => {
      const work = this.#work;
      if (work && id !== undefined && this.#taskOf(name)?.id === id)
        await this.#failed(work.open, name, work.kind, failure);
    });
  }

  async #failed(open: OpenRound, name: string, kind: Work['kind'], failure: ReportedFailure): Promise<void> {
    const { nodes, log } = this.#options;
    if (kind === 'train') await open.fail(name, failure);
    else await open.evaluate(name, { failure });
    const node = nodes.get(name);
    if (node) node.failures++;
    const { number: round, attempt } = open;
    await log({ event: 'failure', round, attempt, client: name, during: kind, ...failure });
    this.answers.announce();
  }

  #answer(name: string, id: string, digest: string, round: number, seconds: number): void {
    this.#last.set(name, { id, digest, round, seconds });
    this.answers.announce();
  }

  #idOf({ kind, open }: Work): string {
    return `${this.#options.nodes.run}-${open.number}-${open.attempt}-${kind}`;
  }

  #taskOf(name: string): Exclude<Assignment, { kind: 'done' }> | undefined {
    const work = this.#work;
    if (!work || work.open.due(name) !== work.kind) return undefined;
    const { kind, open, shared, endMs } = work;
    const secondsLeft = Math.max(0, (endMs - performance.now()) / 1000);
    return { kind, id: this.#idOf(work), round: open.number, shared: shared.hash, secondsLeft };
  }

  /** The work this answer is to. @throws Refusal LATE when it is that no more */
  async #due(name: string, id: string, kind: Work['kind']): Promise<Work> {
    const work = this.#work;
    if (work?.kind === kind && this.#taskOf(name)?.id === id) return work;
    const place = this.#ids.get(id) ?? -1;
    if (place > (this.#late.get(name) ?? -1)) {
      this.#late.set(name, place);
      await this.#options.log({ event: 'late', client: name, task: id });
    }
    throw new Refusal(
      'LATE',
      `the task ${id.slice(0, 200)} is over, or was answered before; this answer does not count`,
    );
  }

  /** The answer to an update that was sent before. */
  #answered(name: string, id: string, digest: string): Answer | undefined {
    const last = this.#last.get(name);
    if (last?.id === id && last.digest === digest) return ACCEPTED;
    const work = this.#work;
    if (work?.kind !== 'train' || this.#idOf(work) !== id) return undefined;
    if (work.open.updates.get(name)?.sha256 === digest) return ACCEPTED;
    const failure = work.open.failures.get(name);
    if (failure?.code === 'REFUSED') throw new Refusal('REFUSED', failure.message);
    return undefined;
  }

  #count(name: string, way: 'up' | 'down', bytes: number): void {
    const node = this.#options.nodes.get(name);
    if (node) node.bytes[way] += bytes;
    const round = this.traffic.get(name) ?? { up: 0, down: 0 };
    round[way] += bytes;
    this.traffic.set(name, round);
  }
}

/** Milliseconds a body may take. */
function longest(bytes: number): number {
  return Math.min(STALLED_MS + (1000 * bytes) / SLOWEST, 2 ** 30);
}
