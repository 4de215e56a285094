/**
 * Who has joined a server: clients in the order in which they are sampled and summed up, kept in clients.json so that a server that
 * was killed knows them when it comes back.
 */

import { randomBytes } from 'node:crypto';
import { z } from 'zod';
import { parseJson, readIfThere, writeAtomic } from '../../run/files.js';
import { validated } from '../../validation.js';
import { type Join, joinSchema } from './protocol.js';

const recordSchema = z.object({
  ...joinSchema.omit({ codecs: true, strategy: true }).shape,
  codec: z.string(),
  session: z.string(),
  left: z.boolean(),
  bytes: z.object({ up: z.number(), down: z.number() }),
  failures: z.int(),
});
const fileSchema = z.object({ run: z.string(), clients: z.array(recordSchema) });

/** One client that has joined. */
export type NodeRecord = z.output<typeof recordSchema>;

interface Joined extends NodeRecord {
  /** Of the monotonic clock. */
  seenMs: number;
  /** The session this one took the place of. */
  replaced?: string | undefined;
}

export class Nodes {
  /** Names this run among all runs. */
  readonly run: string;
  readonly #path: string;
  readonly #awayMs: number;
  readonly #byName = new Map<string, Joined>();
  #writing: Promise<void> = Promise.resolve();
  #next: Promise<void> | undefined;

  private constructor(path: string, run: string, awayMs: number) {
    this.#path = path;
    this.run = run;
    this.#awayMs = awayMs;
  }

  /** @param awayMs after so long without a word a client counts as away */
  static async open(path: string, awayMs: number): Promise<Nodes> {
    const text = await readIfThere(path);
    const file =
      text === undefined
        ? { run: randomBytes(8).toString('hex'), clients: [] }
        : validated(fileSchema, parseJson(text, path), path, 'CORRUPT');
    const nodes = new Nodes(path, file.run, awayMs);
    // Everyone has a full time to show that it is still there.
    for (const record of file.clients)
      nodes.#byName.set(record.name, { ...record, seenMs: performance.now() });
    await nodes.save();
    return nodes;
  }

  /** A client that joins, or joins again and gets back its place; an older process of the same name loses it. */
  join({ name, index, task }: Join, codec: string): NodeRecord {
    const before = this.#byName.get(name);
    const { bytes, failures } = before ?? { bytes: { up: 0, down: 0 }, failures: 0 };
    const session = randomBytes(16).toString('hex');
    const node: Joined = {
      ...{ name, task, codec, session, left: false, bytes, failures },
      seenMs: performance.now(),
      replaced: before?.session,
    };
    if (index !== undefined) node.index = index;
    this.#byName.set(name, node);
    return node;
  }

  get(name: string): NodeRecord | undefined {
    return this.#byName.get(name);
  }

  bySession(session: string): NodeRecord | undefined {
    for (const node of this.#byName.values()) if (node.session === session) return node;
    return undefined;
  }

  /** The name of a session whose place another one has taken. */
  replaced(session: string): string | undefined {
    for (const node of this.#byName.values()) if (node.replaced === session) return node.name;
    return undefined;
  }

  seen(name: string): void {
    const node = this.#byName.get(name);
    if (node) node.seenMs = performance.now();
  }

  leave(name: string): void {
    const node = this.#byName.get(name);
    if (node) node.left = true;
  }

  isPresent(name: string): boolean {
    const node = this.#byName.get(name);
    return node !== undefined && !node.left && performance.now() - node.seenMs < this.#awayMs;
  }

  /** Everyone who ever joined, in order: by index, those without one after them, by name. */
  all(): NodeRecord[] {
    const last = Number.POSITIVE_INFINITY;
    return [...this.#byName.values()].sort(
      (a, b) => (a.index ?? last) - (b.index ?? last) || (a.name < b.name ? -1 : 1),
    );
  }

  present(): NodeRecord[] {
    return this.all().filter(({ name }) => this.isPresent(name));
  }

  /** Resolves once all that was changed before the call is on the disk; calls that come meanwhile share one write. */
  save(): Promise<void> {
    this.#next ??= this.#writing.then(() => {
      this.#next = undefined;
      const clients = this.all().map((node) => recordSchema.parse(node));
      this.#writing = writeAtomic(this.#path, `${JSON.stringify({ run: this.run, clients }, null, 1)}\n`);
      return this.#writing;
    });
    return this.#next;
  }
}
