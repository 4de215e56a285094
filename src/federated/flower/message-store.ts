/**
 * The journal of a node: messages it has pulled and not answered yet. A SuperLink delivers a message once, so what is not here
 * after a crash is never answered. A message is stored three times, each time with more: when it was pulled, when all of its objects
 * are here (before that is confirmed), and when its answer is ready (before it is pushed: an answer has one id for ever).
 *
 * A folder has these files a message, the last ones written first:
 *   <id>.request  message and tree          <id>.objects  its objects
 *   <id>.answer   message and tree          <id>.answer-objects
 * and node.json, who the node is.
 */

import { createHash } from 'node:crypto';
import { chmod, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { create, fromBinary, toBinary } from '@bufbuild/protobuf';
import { z } from 'zod';
import { DuetError, ioError, messageOf } from '../../errors.js';
import { makeFolder, parseJson, readIfThere, writeAtomic } from '../../run/files.js';
import { validated } from '../../validation.js';
import type { ObjectTree } from './objects.js';
import { objectIds } from './objects.js';
import { PullMessagesResponseSchema } from './proto/fleet_pb.js';
import type { FlowerMessage, MessageMetadata } from './records.js';
import { metadataOf, wireMessage } from './wire.js';

/** An answer as it is pushed. */
export interface StoredReply {
  /** Without content, which the objects are. */
  message: Omit<FlowerMessage, 'content'>;
  tree: ObjectTree;
  objects: ReadonlyMap<string, Uint8Array>;
}

/** A message that a node took and has not answered to the end. */
export interface StoredMessage {
  /** Id of the request. */
  id: string;
  metadata: MessageMetadata;
  /** Ids of its objects. */
  tree: ObjectTree;
  /** All objects of the request, when they have been pulled; may be left out when there is a reply. */
  objects?: ReadonlyMap<string, Uint8Array>;
  /** The answer, once there is one. */
  reply?: StoredReply;
}

/** Who a node is to a SuperLink, for its return after a crash. */
export interface StoredNode {
  superlink: string;
  nodeId: bigint;
  /** sha256 of the public key. */
  fingerprint: string;
  /** Of a node that made its own key: PEM. */
  privateKey?: string;
  /** Whether the node registered itself, and so unregisters itself. */
  selfRegistered: boolean;
}

/** A node's journal: what it took from its SuperLink, which is never delivered twice. */
export interface MessageStore {
  /** Keeps a message, or more of it. */
  put(message: StoredMessage): Promise<void>;
  /** In the order in which they came. */
  pending(): Promise<StoredMessage[]>;
  /** Forgets a message that is answered. */
  remove(id: string): Promise<void>;
  /** Absent: a node that comes back is a new one. */
  node?(): Promise<StoredNode | undefined>;
  /** Keeps who the node is. @param node undefined: forget it */
  keepNode?(node: StoredNode | undefined): Promise<void>;
}

/** For nodes that need not survive their process. */
export class MemoryMessageStore implements MessageStore {
  readonly #messages = new Map<string, StoredMessage>();
  #node: StoredNode | undefined;

  async put(message: StoredMessage): Promise<void> {
    this.#messages.set(message.id, message);
  }

  async pending(): Promise<StoredMessage[]> {
    return [...this.#messages.values()];
  }

  async remove(id: string): Promise<void> {
    this.#messages.delete(id);
  }

  async node(): Promise<StoredNode | undefined> {
    return this.#node;
  }

  async keepNode(node: StoredNode | undefined): Promise<void> {
    this.#node = node;
  }
}

const nodeSchema = z.object({
  superlink: z.string(),
  nodeId: z.string().regex(/^\d{1,20}$/),
  fingerprint: z.string(),
  privateKey: z.string().optional(),
  selfRegistered: z.boolean(),
});

const NAME = /^([0-9a-f]{64})\.(request|objects|answer|answer-objects)(\.partial-\d+)?$/;

/** A folder on the disk. It holds a private key where the node made its own; nobody else can read it. */
export class FolderMessageStore implements MessageStore {
  #ready: Promise<void> | undefined;

  constructor(readonly folder: string) {}

  async put({ id, metadata, tree, objects, reply }: StoredMessage): Promise<void> {
    await this.#open();
    if (reply) {
      await this.#write(id, 'answer-objects', packObjects(reply.objects));
      await this.#write(id, 'answer', packMessage(reply.message, reply.tree));
      return;
    }
    if (objects) await this.#write(id, 'objects', packObjects(objects));
    else await this.#write(id, 'request', packMessage({ metadata }, tree));
  }

  async pending(): Promise<StoredMessage[]> {
    await this.#open();
    const names = new Set(await readdir(this.folder));
    const found: StoredMessage[] = [];
    for (const name of names) {
      const [, id, part, partial] = NAME.exec(name) ?? [];
      if (id === undefined) continue;
      // Left by a crash in the middle of writing or removing.
      if (partial !== undefined || !names.has(`${id}.request`)) await this.#delete(name);
      else if (part === 'request') found.push(await this.#read(id, names));
    }
    return found.sort((one, other) => one.metadata.createdAt - other.metadata.createdAt);
  }

  async remove(id: string): Promise<void> {
    // The first one decides whether the message is there.
    for (const part of ['request', 'objects', 'answer', 'answer-objects'])
      await this.#delete(`${id}.${part}`);
  }

  async node(): Promise<StoredNode | undefined> {
    await this.#open();
    const text = await readIfThere(this.#nodeFile);
    if (text === undefined) return undefined;
    const { privateKey, ...node } = this.#parsedNode(text);
    return { ...node, nodeId: BigInt(node.nodeId), ...(privateKey !== undefined && { privateKey }) };
  }

  async keepNode(node: StoredNode | undefined): Promise<void> {
    await this.#open();
    if (node === undefined) return this.#delete('node.json');
    await writeAtomic(
      this.#nodeFile,
      `${JSON.stringify({ ...node, nodeId: String(node.nodeId) }, null, 2)}\n`,
      0o600,
    );
  }

  #parsedNode(text: string): z.output<typeof nodeSchema> {
    try {
      return validated(nodeSchema, parseJson(text, this.#nodeFile), this.#nodeFile, 'CORRUPT');
    } catch (error) {
      throw new DuetError('CORRUPT', `${messageOf(error)}; delete the file, and the node joins anew`, {
        cause: error,
      });
    }
  }

  get #nodeFile(): string {
    return join(this.folder, 'node.json');
  }

  #open(): Promise<void> {
    this.#ready ??= (async () => {
      await makeFolder(this.folder, `make the folder of messages ${this.folder}`);
      await chmod(this.folder, 0o700);
    })().catch((error) => {
      throw ioError(error, `open the folder of messages ${this.folder}`);
    });
    return this.#ready;
  }

  #write(id: string, part: string, content: Uint8Array): Promise<void> {
    return writeAtomic(join(this.folder, `${id}.${part}`), content);
  }

  async #delete(name: string): Promise<void> {
    const path = join(this.folder, name);
    await rm(path, { force: true }).catch((error) => {
      throw ioError(error, `delete ${path}`);
    });
  }

  async #read(id: string, names: ReadonlySet<string>): Promise<StoredMessage> {
    const content = async (part: string): Promise<Buffer | undefined> => {
      if (!names.has(`${id}.${part}`)) return undefined;
      const path = join(this.folder, `${id}.${part}`);
      return readFile(path).catch((error) => {
        throw ioError(error, `read ${path}`);
      });
    };
    const damaged = (part: string, error: unknown) =>
      new DuetError(
        'CORRUPT',
        `Expected a message of Flower in ${join(this.folder, `${id}.${part}`)} but ${messageOf(error)}; delete the file`,
        { cause: error },
      );
    const read = async (part: string) => {
      const bytes = await content(part);
      try {
        return bytes && unpackMessage(bytes);
      } catch (error) {
        throw damaged(part, error);
      }
    };
    const request = await read('request');
    if (!request) throw damaged('request', new Error('it is gone'));
    const stored: StoredMessage = { id, metadata: request.message.metadata, tree: request.tree };
    const reply = await read('answer');
    const replyObjects = reply && unpackObjects(await content('answer-objects'), reply.tree);
    if (reply && replyObjects) return { ...stored, reply: { ...reply, objects: replyObjects } };
    // Objects that are damaged or not all there are pulled again.
    const objects = unpackObjects(await content('objects'), request.tree);
    return objects ? { ...stored, objects } : stored;
  }
}

function packMessage(message: Omit<FlowerMessage, 'content'>, tree: ObjectTree): Uint8Array {
  const packed = { messagesList: [wireMessage(message)], messageObjectTrees: [tree] };
  return toBinary(PullMessagesResponseSchema, create(PullMessagesResponseSchema, packed));
}

function unpackMessage(bytes: Uint8Array): { message: Omit<FlowerMessage, 'content'>; tree: ObjectTree } {
  const { messagesList, messageObjectTrees } = fromBinary(PullMessagesResponseSchema, bytes);
  const [message] = messagesList;
  const [tree] = messageObjectTrees;
  if (!message?.metadata || !tree) throw new Error('it is empty');
  const { error } = message;
  return {
    message: {
      metadata: metadataOf(message.metadata, 'a stored message'),
      ...(error && { error: { code: Number(error.code), reason: error.reason } }),
    },
    tree,
  };
}

/** Each object with its length before it. */
function packObjects(objects: ReadonlyMap<string, Uint8Array>): Uint8Array {
  return Buffer.concat(
    [...objects.values()].flatMap((bytes) => {
      const length = Buffer.alloc(4);
      length.writeUInt32LE(bytes.length);
      return [length, bytes];
    }),
  );
}

/** @returns undefined when an object of the tree is missing or damaged */
function unpackObjects(packed: Buffer | undefined, tree: ObjectTree): Map<string, Uint8Array> | undefined {
  if (packed === undefined) return undefined;
  const objects = new Map<string, Uint8Array>();
  for (let offset = 0; offset + 4 <= packed.length; ) {
    const end = offset + 4 + packed.readUInt32LE(offset);
    const bytes = packed.subarray(offset + 4, end);
    objects.set(createHash('sha256').update(bytes).digest('hex'), bytes);
    offset = end;
  }
  return objectIds(tree).every((id) => objects.has(id)) ? objects : undefined;
}
