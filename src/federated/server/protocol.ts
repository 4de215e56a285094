/**
 * The messages between DuetServer and DuetClient (docs/server.md describes them for other programs). Everything is JSON but
 * parameters, which are safetensors.
 */

import { z } from 'zod';
import { isPrintable } from '../../report/printable.js';

/** In the path of every request. */
export const PROTOCOL_VERSION = 1;
/** Longest JSON message in bytes, both ways. */
export const MAX_MESSAGE = 1 << 20;

/** Bytes of bodies that may be on their way, by stream and connection: 6 Mbit/s at 80 ms. With 1 MiB a server of 200 clients needs twice the memory. */
export const WINDOW = 1 << 16;

/** Names the hold a joined client has on its place. */
export const SESSION_HEADER = 'duet-session';
/** Byte of the update at which the body of an upload begins, and in answers the one at which it must begin. */
export const OFFSET_HEADER = 'upload-offset';
/** SHA-256 of a whole update, lower-case hex. */
export const DIGEST_HEADER = 'upload-sha256';
/** Length of a whole update. */
export const LENGTH_HEADER = 'upload-length';

/** A client's name: printable, at most 100 characters. */
export const nameSchema = z.string().min(1).max(100).refine(isPrintable, 'Expected printable characters');
const codecNames = z.array(z.string().min(1).max(20)).min(1).max(20);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const finite = z.number();

export const joinSchema = z.strictObject({
  name: nameSchema,
  /** Order of the clients, for sampling and for the sum; those without one come last, by name. */
  index: z.int().min(0).max(65_534).optional(),
  /** Head of the model this client trains. */
  task: nameSchema,
  /** Encodings of updates this client can make, best first. */
  codecs: codecNames,
  /** Name of the strategy the client trains by; another one than the server's is refused. */
  strategy: nameSchema.optional(),
});
export type Join = z.output<typeof joinSchema>;

export const welcomeSchema = z.object({
  session: z.string().min(1).max(100),
  run: z.string().min(1).max(100),
  rounds: z.int().min(1),
  codec: z.string(),
  heartbeatSeconds: z.number().gt(0),
  /** Of every download. */
  sharedBytes: z.int().min(1),
  /** Those that travel between the server and this client. */
  parameters: z.array(z.object({ name: z.string(), shape: z.array(z.int().min(0)) })).max(100_000),
});
export type Welcome = z.output<typeof welcomeSchema>;

export const assignmentSchema = z.discriminatedUnion('kind', [
  z.object({
    kind: z.enum(['train', 'evaluate']),
    id: z.string().min(1).max(200),
    round: z.int().min(1),
    /** SHA-256 of the shared parameters. */
    shared: sha256,
    /** Until the deadline. */
    secondsLeft: z.number(),
  }),
  z.object({ kind: z.literal('done') }),
]);
export type Assignment = z.output<typeof assignmentSchema>;
export type Task = Exclude<Assignment, { kind: 'done' }>;

export const heartbeatSchema = z.object({ task: z.string().nullable() });

const numbers = (value: z.ZodNumber) =>
  z
    .record(z.string().min(1).max(100), value)
    .refine((values) => Object.keys(values).length <= 100, 'Expected at most 100 numbers');

/** In the metadata of an update, as JSON under the key `duet`. */
export const updateSchema = z.strictObject({
  samples: z.int().min(1),
  codec: z.string(),
  metrics: numbers(finite),
});

export const evaluationSchema = z.strictObject({
  samples: z.int().min(0),
  accuracy: numbers(z.number().min(0).max(1)),
});

export const failureSchema = z.strictObject({
  code: z.string().max(100),
  message: z.string().max(10_000),
});
export type ReportedFailure = z.output<typeof failureSchema>;

/** The body of every refusal. */
export const refusalSchema = z.object({ code: z.string(), message: z.string() });

/** Why a request was refused. */
export type RefusalCode =
  | 'UNKNOWN' // not joined, or joined again elsewhere: join
  | 'REPLACED'
  | 'FORBIDDEN'
  | 'INVALID'
  | 'LATE'
  | 'OFFSET'
  | 'DIGEST'
  | 'REFUSED'
  | 'TOO_LARGE'
  | 'NOT_FOUND'
  | 'CLOSING'
  | 'INTERNAL';

export const REFUSAL_STATUS: Record<RefusalCode, number> = {
  UNKNOWN: 410,
  REPLACED: 410,
  FORBIDDEN: 403,
  INVALID: 400,
  LATE: 409,
  OFFSET: 409,
  DIGEST: 400,
  REFUSED: 422,
  TOO_LARGE: 413,
  NOT_FOUND: 404,
  CLOSING: 503,
  INTERNAL: 500,
};

/** A request that is answered with its status and these words. */
export class Refusal extends Error {
  readonly code: RefusalCode;
  readonly headers: Record<string, string>;

  constructor(code: RefusalCode, message: string, headers: Record<string, string> = {}) {
    super(message);
    this.code = code;
    this.headers = headers;
  }
}

/** Paths under the version. */
export const PATHS = {
  join: '/v1/join',
  leave: '/v1/leave',
  heartbeat: '/v1/heartbeat',
  task: '/v1/task',
  shared: '/v1/shared/',
  update: '/v1/update/',
  evaluation: '/v1/evaluation/',
  failure: '/v1/failure/',
} as const;
