/** Everything a server can be told, with defaults, and how it is checked. */

import { z } from 'zod';
import { requireFunction, requireList, requireObject } from '../../arguments.js';
import { DuetError } from '../../errors.js';
import type { TensorData } from '../../native/core.js';
import { validated } from '../../validation.js';
import { CODEC_NAMES, type UpdateCodec, updateCodec } from '../compression.js';
import type { EvaluationReport } from '../evaluation.js';
import type { Failure } from '../report.js';
import type { Strategy } from '../strategies/strategy.js';
import type { AuditEvent } from './audit.js';
import { checkAccess, checkedTokens, checkPem, type ServerTls } from './credentials.js';
import { nameSchema } from './protocol.js';
import type { UpdateLimits } from './uploads.js';

/** Everything a server can be told. */
export interface DuetServerOptions {
  /** How updates are combined. Those that are the weighted mean (`FedAvg`, `FedDat`) need the memory of one update. */
  strategy: Strategy;
  /** Shared parameters to begin with, by name: f32. */
  initial: Record<string, TensorData>;
  /** Rounds of the whole run, 1 to 2^20 - 1. */
  rounds: number;
  /** Folder for config, metrics, checkpoints, audit log and the updates of the open round. */
  runDir: string;
  /** Continue what is in `runDir`; an empty folder starts a new run. Default false. */
  resume?: boolean;
  /** Address to listen on. Default 127.0.0.1. */
  host?: string;
  /** Default 0: a free one. */
  port?: number;
  /** Certificate and key of the server, and the authority of its clients. */
  tls?: ServerTls;
  /** Tokens by client name, instead of certificates of clients. */
  tokens?: ReadonlyMap<string, string>;
  /** Names of those who may join, where certificates or tokens prove names. Default: all of them. */
  clients?: readonly string[];
  /** Listen beyond this machine without TLS or without identities. Default false. */
  insecure?: boolean;
  /** Clients that must be there before a round begins. Default 1. */
  minClients?: number;
  /** Clients of a round: a share of those that are there, at least `minimum`. Default: all. */
  sampling?: { fraction?: number; minimum?: number };
  /** Share of a round's clients whose updates must count. Default 0: one is enough. */
  quorum?: number;
  /** Times a round is tried before the run ends for want of a quorum. Default 3. */
  attempts?: number;
  /** Longest time of a round's training, and of its evaluation. Default 3600. */
  deadlineSeconds?: number;
  /** Clients say that they are there so often; after three times that they count as away. At most 30, default 15. */
  heartbeatSeconds?: number;
  /** Evaluate every so many rounds and after the last. Default every round. */
  evaluation?: { every?: number };
  /** Of the draws of `sampling`. Default 0. */
  seed?: number;
  /** What an update may be at most. Default: no limits. */
  limits?: UpdateLimits;
  /** Encodings of updates that are read. Default: fp32, bf16 and int8. */
  codecs?: readonly UpdateCodec[];
  /** Checkpoints kept besides the best one. Default 2. */
  keepCheckpoints?: number;
  /** Told of everything that goes into the audit log. */
  onEvent?: (event: AuditEvent) => void;
}

/** What a client did in a round. */
export interface NodeRound {
  /** Name. */
  client: string;
  samples: number;
  /** From the begin of the round until its update counted. */
  seconds: number;
  /** Of its update, as it was sent. */
  sha256: string;
  /** Losses and other numbers it sent. */
  metrics: Record<string, number>;
}

/** One round: a line of metrics.jsonl. */
export interface ServerRound {
  number: number;
  strategy: string;
  /** Mean loss over clients, and accuracies (0 to 1, mean over clients) when evaluated. */
  metrics: { loss?: number; accuracy?: Record<string, number> };
  /** Those whose updates count, in order. */
  clients: NodeRound[];
  /** Clients that were asked and did not answer, or not well. */
  failures: Failure[];
  evaluation?: EvaluationReport;
  /** Bodies that travelled, by client: to the server (`up`) and back (`down`); of a continued round, since the restart and updates that counted before. */
  bytes: { up: number; down: number; nodes: Record<string, { up: number; down: number }> };
  best?: { round: number; accuracy: number };
  timing: { seconds: number; trainSeconds: number; evaluateSeconds: number };
  attempt: number;
  /** SHA-256 of the shared parameters after this round. */
  shared: string;
  /** Hash of the last line of the audit log before this one. */
  audit: string;
}

const count = z.int().min(1);
const schema = z.strictObject({
  rounds: count.max(2 ** 20 - 1),
  runDir: z.string().min(1),
  resume: z.boolean().default(false),
  host: z.string().min(1).default('127.0.0.1'),
  port: z.int().min(0).max(65_535).default(0),
  tls: z.strictObject({ cert: z.string(), key: z.string(), clientCa: z.string().optional() }).optional(),
  clients: z.array(nameSchema).min(1).optional(),
  insecure: z.boolean().default(false),
  minClients: count.default(1),
  sampling: z
    .strictObject({ fraction: z.number().gt(0).max(1).default(1), minimum: count.default(1) })
    .prefault({}),
  quorum: z.number().min(0).max(1).default(0),
  attempts: count.default(3),
  deadlineSeconds: z.number().gt(0).default(3600),
  heartbeatSeconds: z.number().gt(0).max(30).default(15),
  evaluation: z.strictObject({ every: count.default(1) }).prefault({}),
  seed: z.int().min(0).default(0),
  limits: z.strictObject({ norm: z.number().gt(0).optional(), samples: count.optional() }).prefault({}),
  keepCheckpoints: count.default(2),
});

export type ServerSettings = z.output<typeof schema>;

export interface CheckedOptions {
  settings: ServerSettings;
  tokens: Map<string, string> | undefined;
  codecs: readonly UpdateCodec[];
}

/** @throws DuetError INVALID_ARGUMENT for options that cannot work */
export function serverSettings(options: DuetServerOptions): CheckedOptions {
  const { strategy, initial, tokens, onEvent, ...rest } = requireObject(options, 'options');
  const { codecs = CODEC_NAMES.map((name) => updateCodec(name)), ...values } = rest;
  requireObject(strategy, 'strategy', 'make one, e.g. new FedDat()');
  requireFunction(strategy.aggregate, 'aggregate of the strategy');
  requireObject(initial, 'initial');
  if (onEvent !== undefined) requireFunction(onEvent, 'onEvent');
  if (requireList([...codecs], 'codecs', requireObject).length === 0)
    throw new DuetError('INVALID_ARGUMENT', 'Expected at least 1 codec but received 0');
  const settings = validated(schema, values, 'options of DuetServer');
  const checked = tokens && checkedTokens(tokens);
  const { host, tls, clients, insecure } = settings;
  if (tls)
    checkPem(
      { cert: tls.cert, key: tls.key, ca: tls.clientCa },
      { cert: 'tls.cert', key: 'tls.key', ca: 'tls.clientCa' },
    );
  checkAccess({ host, tls: tls as ServerTls | undefined, tokens: checked, clients, insecure });
  if (strategy.pooled)
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected a strategy that trains at the clients but received ${strategy.name}`,
    );
  return { settings, tokens: checked, codecs };
}
