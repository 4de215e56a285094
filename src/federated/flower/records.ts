/**
 * Messages of Flower and the records in them. Integers are bigint, floating point numbers are number; records are maps,
 * because a name may be anything (`1`, `__proto__`) and their order counts.
 */

import type { NumpyArray } from './npy.js';

export type { ArrayData, NumpyArray } from './npy.js';

/** Model parameters by name; the legacy strategies go by their order. */
export type ArrayRecord = { kind: 'arrays'; values: Map<string, NumpyArray> };

/** Integers are bigint. */
export type MetricValue = number | bigint | (number | bigint)[];

/** Numbers by name; the elements of a list are of one type. */
export type MetricRecord = { kind: 'metrics'; values: Map<string, MetricValue> };

/** Integers are bigint. */
export type ConfigScalar = number | bigint | boolean | string | Uint8Array;

/** One value, or a list of one type. */
export type ConfigValue = ConfigScalar | ConfigScalar[];

/** Settings by name; the elements of a list are of one type. */
export type ConfigRecord = { kind: 'config'; values: Map<string, ConfigValue> };

/** The content of a message: records by name. */
export type RecordDict = Map<string, ArrayRecord | MetricRecord | ConfigRecord>;

/** Whom a message goes to, and until when. */
export interface MessageMetadata {
  runId: bigint;
  /** Id of the message's object (sha256, hex); empty before it is encoded. */
  messageId: string;
  srcNodeId: bigint;
  dstNodeId: bigint;
  /** Id of the request this answers, or empty. */
  replyToMessageId: string;
  groupId: string;
  /** Seconds after `createdAt` at which the message is void. */
  ttl: number;
  /** `train`, `evaluate`, `query` (`.action` may follow), or a legacy type. */
  messageType: string;
  /** Seconds since 1970. */
  createdAt: number;
  srcTaskId?: bigint;
  dstTaskId?: bigint;
}

/** Either content or error. */
export interface FlowerMessage {
  metadata: MessageMetadata;
  content?: RecordDict;
  error?: { code: number; reason: string };
}

/**
 * The metadata of the answer to a request, as Flower wants it: it becomes void when the request does.
 * @param now seconds since 1970
 * @returns a ttl of 0 or less when the request is void already
 */
export function replyTo(request: MessageMetadata, now: number): MessageMetadata {
  const { runId, groupId, messageType, srcTaskId, dstTaskId } = request;
  return {
    runId,
    messageId: '',
    srcNodeId: request.dstNodeId,
    dstNodeId: request.srcNodeId,
    replyToMessageId: request.messageId,
    groupId,
    ttl: request.createdAt + request.ttl - now,
    messageType,
    createdAt: now,
    ...(dstTaskId !== undefined && { srcTaskId: dstTaskId }),
    ...(srcTaskId !== undefined && { dstTaskId: srcTaskId }),
  };
}
