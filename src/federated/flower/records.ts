/** Messages of Flower and the records in them. Integers are bigint, floating point numbers are number. */

import type { NumpyArray } from './npy.js';

export type { ArrayData, NumpyArray } from './npy.js';

/** Model parameters by name, in the order that names them for the legacy strategies. */
export type ArrayRecord = { kind: 'arrays'; values: Map<string, NumpyArray> };

export type MetricValue = number | bigint | (number | bigint)[];

/** Numbers by name; the elements of a list are of one type. */
export type MetricRecord = { kind: 'metrics'; values: Map<string, MetricValue> };

export type ConfigScalar = number | bigint | boolean | string | Uint8Array;

export type ConfigValue = ConfigScalar | ConfigScalar[];

/** Settings by name; the elements of a list are of one type. */
export type ConfigRecord = { kind: 'config'; values: Map<string, ConfigValue> };

export type RecordDict = Map<string, ArrayRecord | MetricRecord | ConfigRecord>;

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
