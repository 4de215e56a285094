/**
 * The round a server is in, as a folder, so that a server that is killed goes on where it was:
 *
 * ```
 * rounds/0007-1/round.json              round 7, first attempt: who was asked to train
 *               0003.<digest>.part      update of the fourth of them, on its way
 *               0003.safetensors        the same, whole and checked: it counts
 *               0003.failure.json       or why there is none
 *               evaluation.json         the training is over: hash of the new shared parameters, who was asked to evaluate
 *               evaluation-0003.json    what the fourth of those answered
 * ```
 *
 * Every file but a part is written whole, flushed and renamed. The folder goes once its round is in metrics and checkpoint.
 */

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { DuetError, messageOf } from '../../errors.js';
import { native } from '../../native.js';
import { makeFolder, parseJson, readIfThere, writeAtomic } from '../../run/files.js';
import { validated } from '../../validation.js';
import { evaluationSchema, failureSchema, type ReportedFailure, updateSchema } from './protocol.js';
import { isUnfit, type UpdateWords } from './uploads.js';

const participantSchema = z.object({ name: z.string(), task: z.string() });
const roundSchema = z.object({
  number: z.int().min(1),
  attempt: z.int().min(1),
  startedMs: z.number(),
  participants: z.array(participantSchema),
});
const closedSchema = z.object({
  shared: z.string(),
  startedMs: z.number(),
  evaluators: z.array(participantSchema),
});

/** A client in a round, by the name and head it had when the round began. */
export type Participant = z.output<typeof participantSchema>;

/** An update that counts. */
export interface SpooledUpdate extends UpdateWords {
  client: string;
  task: string;
  path: string;
  bytes: number;
  sha256: string;
  /** From the begin of the round until it was here. */
  seconds: number;
}

export type Evaluated = z.output<typeof evaluationSchema> | { failure: ReportedFailure };

const ROUND = /^(\d+)-(\d+)$/;
const evaluatedSchema = z.union([evaluationSchema, z.object({ failure: failureSchema })]);

export class OpenRound {
  readonly folder: string;
  readonly number: number;
  readonly attempt: number;
  /** Wall clock. */
  readonly startedMs: number;
  readonly participants: readonly Participant[];
  readonly updates = new Map<string, SpooledUpdate>();
  readonly failures = new Map<string, ReportedFailure>();
  readonly evaluations = new Map<string, Evaluated>();
  /** Updates that were here and do not fit: those clients are asked again. */
  readonly dropped: { client: string; message: string }[] = [];
  /** Set once the training is over. */
  closed: z.output<typeof closedSchema> | undefined;
  /** Of those who were asked. */
  readonly #places: Map<string, number>;

  private constructor(folder: string, round: z.output<typeof roundSchema>) {
    this.folder = folder;
    this.number = round.number;
    this.attempt = round.attempt;
    this.startedMs = round.startedMs;
    this.participants = round.participants;
    this.#places = new Map(round.participants.map(({ name }, place) => [name, place]));
  }

  /** Begins a round or another attempt at it; what was open before is gone afterwards. */
  static async begin(
    root: string,
    round: { number: number; attempt: number; participants: Participant[] },
  ): Promise<OpenRound> {
    const folder = join(root, `${String(round.number).padStart(4, '0')}-${round.attempt}`);
    await rm(folder, { recursive: true, force: true });
    await makeFolder(folder, `make the folder of round ${round.number}`);
    const content = { ...round, startedMs: Date.now() };
    await writeAtomic(join(folder, 'round.json'), JSON.stringify(content));
    const open = new OpenRound(folder, content);
    await removeOthers(root, folder);
    return open;
  }

  /**
   * The last attempt at this round, with everything that was answered; undefined where none was begun.
   * @param read throws for an update that does not fit
   */
  static async recover(
    root: string,
    number: number,
    read: (update: SpooledUpdate) => Promise<unknown>,
  ): Promise<OpenRound | undefined> {
    await makeFolder(root, `make the folder ${root}`);
    const attempts = (await readdir(root)).flatMap((name) => {
      const [, round, attempt] = ROUND.exec(name) ?? [];
      return Number(round) === number ? [{ name, attempt: Number(attempt) }] : [];
    });
    for (const { name } of attempts.sort((a, b) => b.attempt - a.attempt)) {
      const folder = join(root, name);
      const text = await readIfThere(join(folder, 'round.json'));
      if (text === undefined) continue;
      const round = validated(roundSchema, parseJson(text, folder), folder, 'CORRUPT');
      const open = new OpenRound(folder, round);
      await open.#read(read);
      await removeOthers(root, folder);
      return open;
    }
    await removeOthers(root, undefined);
    return undefined;
  }

  isAsked(client: string): boolean {
    return this.#places.has(client);
  }

  /** Everyone has answered, with an update or a failure. */
  get trained(): boolean {
    return this.participants.every(({ name }) => this.updates.has(name) || this.failures.has(name));
  }

  get evaluated(): boolean {
    return this.closed !== undefined && this.evaluations.size === this.closed.evaluators.length;
  }

  /** What this client is still to do. */
  due(client: string): 'train' | 'evaluate' | undefined {
    if (!this.closed) {
      const open = this.isAsked(client) && !this.updates.has(client) && !this.failures.has(client);
      return open ? 'train' : undefined;
    }
    const asked = this.closed.evaluators.some(({ name }) => name === client);
    return asked && !this.evaluations.has(client) ? 'evaluate' : undefined;
  }

  /** Where the part of an update lies; parts of other updates of this client go. */
  async part(client: string, digest: string): Promise<string> {
    const own = `${this.#place(client)}.${digest.slice(0, 32)}.part`;
    for (const name of await readdir(this.folder)) {
      const other = name.startsWith(`${this.#place(client)}.`) && name.endsWith('.part') && name !== own;
      if (other) await rm(join(this.folder, name), { force: true });
    }
    return join(this.folder, own);
  }

  /** The task a client was asked to train for. */
  taskOf(client: string): string {
    return this.participants[Number(this.#place(client))]?.task ?? '';
  }

  updatePath(client: string): string {
    return join(this.folder, `${this.#place(client)}.safetensors`);
  }

  async fail(client: string, failure: ReportedFailure): Promise<void> {
    await writeAtomic(join(this.folder, `${this.#place(client)}.failure.json`), JSON.stringify(failure));
    this.failures.set(client, failure);
  }

  /** The training is over: `shared` is the hash of the new parameters. */
  async close(shared: string, evaluators: Participant[]): Promise<void> {
    const closed = { shared, startedMs: Date.now(), evaluators };
    await writeAtomic(join(this.folder, 'evaluation.json'), JSON.stringify(closed));
    this.closed = closed;
  }

  async evaluate(client: string, result: Evaluated): Promise<void> {
    const place = this.closed?.evaluators.findIndex(({ name }) => name === client);
    await writeAtomic(join(this.folder, `evaluation-${place}.json`), JSON.stringify(result));
    this.evaluations.set(client, result);
  }

  /** Updates that count, in the order of the clients. */
  inOrder(): SpooledUpdate[] {
    return this.participants.flatMap(({ name }) => this.updates.get(name) ?? []);
  }

  async remove(): Promise<void> {
    // Without this file the rest is no round.
    await rm(join(this.folder, 'round.json'), { force: true });
    await rm(this.folder, { recursive: true, force: true });
  }

  /** A checked file counts. @param about what it says of itself */
  async count(client: string, sha256: string, about: UpdateWords): Promise<SpooledUpdate> {
    const path = this.updatePath(client);
    const { size, mtimeMs } = await stat(path);
    const seconds = Math.max(0, (mtimeMs - this.startedMs) / 1000);
    const update = { ...about, client, task: this.taskOf(client), path, bytes: size, sha256, seconds };
    this.updates.set(client, update);
    return update;
  }

  async #read(read: (update: SpooledUpdate) => Promise<unknown>): Promise<void> {
    const names = new Set(await readdir(this.folder));
    const closed = await readIfThere(join(this.folder, 'evaluation.json'));
    if (closed !== undefined)
      this.closed = validated(closedSchema, parseJson(closed, this.folder), this.folder, 'CORRUPT');
    for (const { name: client } of this.participants) {
      const update = this.updatePath(client);
      const failure = await readIfThere(join(this.folder, `${this.#place(client)}.failure.json`));
      if (failure !== undefined)
        this.failures.set(client, validated(failureSchema, parseJson(failure, update), update, 'CORRUPT'));
      else if (names.has(`${this.#place(client)}.safetensors`)) await this.#recount(client, read);
    }
    for (const [place, { name: client }] of (this.closed?.evaluators ?? []).entries()) {
      const path = join(this.folder, `evaluation-${place}.json`);
      const text = await readIfThere(path);
      if (text !== undefined)
        this.evaluations.set(client, validated(evaluatedSchema, parseJson(text, path), path, 'CORRUPT'));
    }
    for (const name of names)
      if (name.includes('.partial-')) await rm(join(this.folder, name), { force: true });
  }

  async #recount(client: string, read: (update: SpooledUpdate) => Promise<unknown>): Promise<void> {
    const path = this.updatePath(client);
    try {
      await read(await this.count(client, await fileHash(path), await wordsOf(path)));
    } catch (error) {
      // Once the training is over its sum is known, and every update is part of it.
      if (this.closed || !isUnfit(error)) throw error;
      this.updates.delete(client);
      this.dropped.push({ client, message: messageOf(error) });
      await rm(path, { force: true });
    }
  }

  #place(client: string): string {
    const place = this.#places.get(client);
    if (place === undefined)
      throw new DuetError('INTERNAL', `Client ${client} is not in round ${this.number}`);
    return String(place).padStart(4, '0');
  }
}

async function removeOthers(root: string, kept: string | undefined): Promise<void> {
  for (const name of await readdir(root))
    if (join(root, name) !== kept) await rm(join(root, name), { recursive: true, force: true });
}

async function wordsOf(path: string): Promise<UpdateWords> {
  const { metadata } = await native.readSafetensors(path);
  return validated(updateSchema, parseJson(metadata.duet ?? 'null', path), path, 'CORRUPT');
}

/** SHA-256 of a file, hex. */
async function fileHash(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array);
  return hash.digest('hex');
}
