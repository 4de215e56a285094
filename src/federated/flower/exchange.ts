/** How messages come and go: a request's objects are pulled one by one and checked, an answer's are pushed back to back. */

import { forEachAtOnce } from '../../data/concurrency.js';
import { DuetError } from '../../errors.js';
import { corrupt } from './corrupt.js';
import { FleetError } from './fleet-error.js';
import type { StoredMessage, StoredReply } from './message-store.js';
import { checkObject, objectIds } from './objects.js';
import type { Message } from './proto/message_pb.js';
import { type Backoff, backoffSeconds } from './retry.js';
import type { FleetMethod, FleetRequest, FleetResponse } from './transport.js';
import { wireMessage } from './wire.js';

/** A node as it asks its SuperLink: signed, counted, tried again. */
export interface Caller {
  readonly nodeId: bigint;
  /** How often something was tried again so far. */
  readonly retries: number;
  call<M extends FleetMethod>(method: M, request: FleetRequest<M>): Promise<FleetResponse<M>>;
  /** @throws DuetError CANCELLED when there is no time left */
  wait(seconds: number): Promise<void>;
}

/** Where objects are looked for before they are pulled. */
export interface ObjectCache {
  /** The object, pulled if nobody has it. */
  get(id: string, pull: () => Promise<Uint8Array>): Promise<Uint8Array>;
}

/** Requests under way for one message. */
const AT_ONCE = 4;
const DAMAGED_TRIES = 3;
const MAX_BYTES = 2 ** 31;
/** An object that is not uploaded yet is asked for again after 1, 2, 4, 8, 10, 10 ... seconds. */
const NOT_YET: Backoff = { firstSeconds: 1, mostSeconds: 10 };
/** Rounds of pushing what the SuperLink still misses. */
const PUSH_ROUNDS = 20;

/**
 * All objects of a message, checked.
 * @throws DuetError NOT_FOUND for one the SuperLink has no more, CORRUPT for one that is damaged every time
 */
export async function pullObjects(
  caller: Caller,
  { metadata, tree }: StoredMessage,
  cache?: ObjectCache,
  notYet: Backoff = NOT_YET,
): Promise<Map<string, Uint8Array>> {
  const ids = objectIds(tree);
  const found = new Map<string, Uint8Array>(ids.map((id) => [id, new Uint8Array()]));
  let total = 0;
  const node = { nodeId: caller.nodeId };
  const pull = async (objectId: string): Promise<Uint8Array> => {
    let damaged = 0;
    for (let failures = 1; ; failures++) {
      const answer = await caller.call('pullObject', { node, runId: metadata.runId, objectId });
      if (!answer.objectFound)
        throw new DuetError(
          'NOT_FOUND',
          `Expected object ${objectId} of a message but the SuperLink has it no more`,
        );
      if (answer.objectAvailable) {
        try {
          checkObject(objectId, answer.objectContent);
          return answer.objectContent;
        } catch (error) {
          if (++damaged >= DAMAGED_TRIES) throw error;
        }
      }
      await caller.wait(backoffSeconds(failures, notYet));
    }
  };
  await forEachAtOnce(ids, AT_ONCE, async (id) => {
    const bytes = await (cache ? cache.get(id, () => pull(id)) : pull(id));
    total += bytes.length;
    if (total > MAX_BYTES) throw corrupt(`at most ${MAX_BYTES} bytes`, 'the objects of a message', total);
    found.set(id, bytes);
  });
  return found;
}

/** A SuperLink will not have an answer: the request is void, or was another node's. */
export class Rejected extends Error {}

/**
 * Pushes an answer. Every round the SuperLink says what it misses, so one that broke off goes on where it was. A newer SuperLink says
 * it once: asked again it names nothing (a first answer always misses something, itself), and takes what is still missing from a
 * node that names no session, until the session of the first time is over and the answer is new to it.
 * @param resumed whether it may have been pushed before; older SuperLinks then refuse the message and take its objects
 * @throws Rejected
 */
export async function pushReply(
  caller: Caller,
  { message, tree, objects }: StoredReply,
  { seconds = 0, resumed = false, backoff }: { seconds?: number; resumed?: boolean; backoff?: Backoff } = {},
): Promise<void> {
  const node = { nodeId: caller.nodeId };
  const { runId, messageId } = message.metadata;
  const sent: Message = wireMessage(message);
  for (let round = 1; ; round++) {
    const before = caller.retries;
    const answer = await caller.call('pushMessages', {
      node,
      messagesList: [sent],
      messageObjectTrees: [tree],
      clientappRuntimeList: [seconds],
    });
    const refused = answer.results.some(({ key }) => key === 'None');
    const first = round === 1 && !resumed && caller.retries === before;
    if (refused && first)
      throw new Rejected(
        'the SuperLink rejected the answer: its request is void, or belongs to another node',
      );
    const repeated = answer.objectsToPush.length === 0;
    const sessionId = repeated ? '' : answer.sessionId;
    let [missing, taken] = [0, 0];
    await forEachAtOnce(
      new Set(repeated ? objects.keys() : answer.objectsToPush),
      AT_ONCE,
      async (objectId) => {
        const objectContent = objects.get(objectId);
        if (objectContent === undefined) return;
        const { stored } = await caller.call('pushObject', {
          node,
          runId,
          objectId,
          objectContent,
          sessionId,
        });
        stored ? taken++ : missing++;
      },
    );
    if (missing === 0 || (repeated && (taken > 0 || round > 1))) return;
    if (round >= PUSH_ROUNDS) {
      throw new FleetError(
        'INTERNAL',
        `The SuperLink did not store ${missing} objects of answer ${messageId} in ${round} rounds`,
      );
    }
    await caller.wait(backoffSeconds(round, backoff));
  }
}
