/** Requests as a node takes them, and answers as it gives them. */

import { codeOf, DuetError, messageOf } from '../../errors.js';
import { Rejected } from './exchange.js';
import type { StoredMessage, StoredReply } from './message-store.js';
import { encodeMessage } from './objects.js';
import type { PullMessagesResponse } from './proto/fleet_pb.js';
import { type FlowerMessage, replyTo } from './records.js';
import { metadataOf } from './wire.js';

const TYPES = ['train', 'evaluate', 'query', 'get_parameters', 'get_properties'];
const ID = /^[0-9a-f]{64}$/;

/** The messages of an answer; one without a usable id cannot be answered. */
export function received({ messagesList, messageObjectTrees }: PullMessagesResponse): StoredMessage[] {
  return messagesList.flatMap(({ metadata: wire }, index) => {
    const tree = messageObjectTrees[index];
    if (wire === undefined || tree?.objectId !== wire.messageId || !ID.test(wire.messageId)) return [];
    if (!Number.isFinite(wire.ttl) || !Number.isFinite(wire.createdAt)) return [];
    const metadata = metadataOf(wire, 'a message');
    return [{ id: metadata.messageId, metadata, tree }];
  });
}

export function checkTime({ metadata }: StoredMessage, nodeId: bigint): void {
  if (metadata.createdAt + metadata.ttl <= Date.now() / 1000)
    throw new Rejected(`its time to live of ${metadata.ttl} seconds has passed`);
  if (metadata.dstNodeId !== nodeId)
    throw new Rejected(`it was for node ${metadata.dstNodeId}, which the SuperLink does not know any more`);
}

export function checkType({ metadata: { messageType } }: FlowerMessage): void {
  if (TYPES.includes(messageType.split('.')[0] as string)) return;
  throw new DuetError(
    'UNSUPPORTED',
    `Expected a message of type ${TYPES.join(', ')} but received ${messageType}`,
  );
}

export function encodeReply(
  { metadata }: StoredMessage,
  answer: Pick<FlowerMessage, 'content' | 'error'>,
): StoredReply {
  const reply = replyTo(metadata, Date.now() / 1000);
  const { id: messageId, tree, objects } = encodeMessage({ metadata: reply, ...answer });
  const { error } = answer;
  return { message: { metadata: { ...reply, messageId }, ...(error && { error }) }, tree, objects };
}

/** What a ServerApp is told of a failure. */
export function reasonOf(error: unknown): string {
  const code = codeOf(error);
  return `${code === undefined ? '' : `${code}: `}${messageOf(error)}`.slice(0, 1000);
}
