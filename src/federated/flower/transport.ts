/**
 * How a node talks to a SuperLink: the methods of Flower's Fleet API, over gRPC (Flower before 1.40) or HTTP (1.40 and newer). A
 * transport carries bytes; requests and answers are the same protobuf in both.
 */

import { create, fromBinary, type MessageInitShape, type MessageShape, toBinary } from '@bufbuild/protobuf';
import { invalid, requireText } from '../../arguments.js';
import { messageOf, throwIfAborted } from '../../errors.js';
import type { NodeIdentity, NodeKeys } from './authentication.js';
import { FleetError } from './fleet-error.js';
import { Fleet } from './proto/fleet_pb.js';

/** Where a SuperLink is, and how it is trusted. */
export interface FlowerConnection {
  /** `host:port` of the SuperLink's Fleet API, or `http://host:port`, `https://host:port`. */
  superlink: string;
  /** The authority (PEM) that signed the SuperLink's certificate; default: those the system trusts. `false`: no TLS. */
  tls?: { ca?: string } | false;
  /** Default: `auto`, what the SuperLink turns out to speak. */
  transport?: 'auto' | 'grpc' | 'http';
  /** The node's registered key; absent: a new one for this node. */
  keys?: NodeKeys;
}

/** Of one request. */
export interface CallOptions {
  /** Who asks. Absent: an unsigned call, which a SuperLink refuses. */
  identity?: NodeIdentity;
  signal?: AbortSignal;
  /** Default: 60 seconds. */
  timeoutMs?: number;
  /** Bytes of the request and of the answer. */
  onBytes?: (up: number, down: number) => void;
}

type Methods = (typeof Fleet)['method'];
/** Methods of Flower's Fleet API. */
export type FleetMethod = keyof Methods;
/** What a method takes. */
export type FleetRequest<M extends FleetMethod> = MessageInitShape<Methods[M]['input']>;
/** What a method answers. */
export type FleetResponse<M extends FleetMethod> = MessageShape<Methods[M]['output']>;

/** The Fleet API. A call that fails throws a FleetError, a cancelled one CANCELLED. */
export type FleetTransport = {
  [M in FleetMethod]: (request: FleetRequest<M>, options?: CallOptions) => Promise<FleetResponse<M>>;
} & { readonly kind: 'grpc' | 'http'; close(): void };

/** A method of the Fleet API as transports see it. */
export type MethodDescription = Methods[FleetMethod];

export interface ByteTransport {
  readonly kind: 'grpc' | 'http';
  send(
    method: MethodDescription,
    body: Uint8Array,
    options: CallOptions & { timeoutMs: number },
  ): Promise<Uint8Array>;
  /** Ends its connections. */
  close(): void;
}

const TIMEOUT_MS = 60_000;

/** The largest answer that is read. */
export const MAX_RESPONSE_BYTES = 128 * 2 ** 20;

export function fleetTransport(bytes: ByteTransport): FleetTransport {
  const call = async (method: MethodDescription, request: unknown, options: CallOptions = {}) => {
    throwIfAborted(options.signal, method.name);
    const body = toBinary(method.input, create(method.input, request as never));
    const answer = await bytes.send(method, body, { timeoutMs: TIMEOUT_MS, ...options });
    options.onBytes?.(body.length, answer.length);
    try {
      return fromBinary(method.output, answer, { readUnknownFields: false });
    } catch (error) {
      throw new FleetError(
        'INTERNAL',
        `The answer to ${method.name} cannot be read: ${messageOf(error)}; another version of Flower?`,
        {},
        { cause: error },
      );
    }
  };
  const methods = Object.entries(Fleet.method).map(
    ([name, method]) =>
      [name, (request: unknown, options?: CallOptions) => call(method, request, options)] as const,
  );
  return {
    ...(Object.fromEntries(methods) as unknown as FleetTransport),
    kind: bytes.kind,
    close: () => bytes.close(),
  };
}

/** Where a SuperLink is, read from a FlowerConnection. */
export interface Address {
  host: string;
  port: number;
  /** Before the paths of the API; empty for `host:port`. */
  path: string;
  secure: boolean;
  ca: string | undefined;
  transport: 'auto' | 'grpc' | 'http';
  /** As the user wrote it. */
  text: string;
}

/** @throws DuetError INVALID_ARGUMENT for an address that is none or options that contradict it */
export function addressOf(connection: FlowerConnection): Address {
  const text = requireText(connection.superlink, 'superlink', 'for example localhost:9092');
  const { tls, transport = 'auto' } = connection;
  const scheme = /^(https?):\/\//.exec(text)?.[1];
  const url = URL.canParse(scheme ? text : `grpc://${text}`)
    ? new URL(scheme ? text : `grpc://${text}`)
    : undefined;
  const defaultPort = { http: 80, https: 443 }[scheme ?? ''];
  const port = url?.port ? Number(url.port) : defaultPort;
  if (!url?.hostname || !port || (!scheme && url.pathname !== '') || url.search || url.username)
    throw invalid('host:port or http(s)://host:port', 'superlink', text, 'for example localhost:9092');
  if (!['auto', 'grpc', 'http'].includes(transport))
    throw invalid("'auto', 'grpc' or 'http'", 'transport', transport);
  if (scheme === 'http' && tls) throw invalid('https://', 'superlink', text, 'or leave out tls');
  if (scheme === 'https' && tls === false)
    throw invalid('http://', 'superlink', text, 'or leave out tls: false');
  if (scheme && transport === 'grpc')
    throw invalid('host:port', 'superlink', text, "gRPC's addresses have no http:// before them");
  return {
    host: url.hostname.replace(/^\[|\]$/g, ''),
    port,
    path: scheme ? url.pathname.replace(/\/+$/, '') : '',
    secure: scheme ? scheme === 'https' : tls !== false,
    ca: tls ? tls.ca : undefined,
    transport: scheme ? 'http' : transport,
    text,
  };
}
