/** The HTTP/2 side of a server: TLS, who asks, sizes, and refusals as words. What is answered is decided in server.ts. */

import http2 from 'node:http2';
import type { AddressInfo, Socket } from 'node:net';
import type { z } from 'zod';
import { ioError, messageOf } from '../../errors.js';
import { validated } from '../../validation.js';
import { type Access, type Identify, identification } from './credentials.js';
import { MAX_MESSAGE, REFUSAL_STATUS, Refusal, SESSION_HEADER, WINDOW } from './protocol.js';

const IDLE_MS = 120_000;
const DRAIN_MS = 5000;
/** Connections that have not shown yet that they may be here: so many, the oldest goes first, and for so long. */
const STRANGERS = 128;
const STRANGER_MS = 10_000;
const MAX_STREAMS = 32;
const MAX_HEADERS = 16 * 1024;

/** One request. */
export class Request {
  readonly method: string;
  readonly path: string;
  readonly headers: http2.IncomingHttpHeaders;
  readonly stream: http2.ServerHttp2Stream;
  /** Whoever the credentials prove; undefined where none are asked for. */
  readonly identity: string | undefined;
  /** Whoever asks may be here. */
  readonly welcome: () => void;

  constructor(
    stream: http2.ServerHttp2Stream,
    headers: http2.IncomingHttpHeaders,
    identity: string | undefined,
    welcome: () => void,
  ) {
    this.method = headers[':method'] ?? '';
    this.path = headers[':path'] ?? '';
    this.headers = headers;
    this.stream = stream;
    this.identity = identity;
    this.welcome = welcome;
  }

  get session(): string | undefined {
    const value = this.headers[SESSION_HEADER];
    return typeof value === 'string' ? value : undefined;
  }

  /** Of a header that must be there. */
  header(name: string, pattern: RegExp): string {
    const value = this.headers[name];
    if (typeof value === 'string' && pattern.test(value)) return value;
    throw new Refusal('INVALID', `expected a header ${name} of the form ${pattern.source}`);
  }

  /** The body as a message. */
  async message<S extends z.ZodType>(schema: S): Promise<z.output<S>> {
    const chunks: Uint8Array[] = [];
    let size = 0;
    for await (const chunk of this.stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>) {
      size += chunk.length;
      if (size > MAX_MESSAGE) throw new Refusal('TOO_LARGE', `expected at most ${MAX_MESSAGE} bytes of JSON`);
      chunks.push(chunk);
    }
    try {
      return validated(schema, JSON.parse(Buffer.concat(chunks).toString()), 'the message');
    } catch (error) {
      throw new Refusal('INVALID', messageOf(error));
    }
  }

  /** The client may send its body now. */
  proceed(): void {
    const waits = this.headers.expect === '100-continue';
    if (waits && !this.stream.destroyed) this.stream.additionalHeaders({ ':status': 100 });
  }
}

export interface Answer {
  status: number;
  headers?: Record<string, string>;
  /** JSON, or bytes as they are. */
  body?: unknown;
}

export interface EndpointOptions extends Access {
  port: number;
  answer: (request: Request) => Promise<Answer>;
  /** Told of refusals and of errors of the server itself. */
  onRefusal: (
    refusal: Refusal,
    request: { identity?: string | undefined; address: string; path: string },
  ) => void;
  onError: (error: unknown) => void;
}

export class Endpoint {
  readonly #options: EndpointOptions;
  readonly #server: http2.Http2Server | http2.Http2SecureServer;
  readonly #sessions = new Set<http2.ServerHttp2Session>();
  /** What is behind the sessions: one that is closing does not end while its line is cut. */
  readonly #sockets = new Set<Socket>();
  /** By port of the other side: behind TLS a session has another socket. */
  readonly #strangers = new Map<string, Socket>();
  readonly #identify: Identify;

  constructor(options: EndpointOptions) {
    this.#options = options;
    this.#identify = identification(options);
    const settings = {
      ...{ maxConcurrentStreams: MAX_STREAMS, maxHeaderListSize: MAX_HEADERS },
      ...{ initialWindowSize: WINDOW, enablePush: false },
    };
    const { tls } = options;
    // A wrong certificate of a client is answered with the reason, and nothing else (see identification).
    this.#server = tls
      ? http2.createSecureServer({
          ...{ cert: tls.cert, key: tls.key, settings, minVersion: 'TLSv1.2' },
          ...(tls.clientCa !== undefined && {
            ca: tls.clientCa,
            requestCert: true,
            rejectUnauthorized: false,
          }),
        })
      : http2.createServer({ settings });
    this.#server.on('connection', (socket: Socket) => {
      this.#sockets.add(socket);
      const from = origin(socket);
      this.#strangers.set(from, socket);
      const late = setTimeout(() => {
        if (this.#strangers.get(from) === socket) socket.destroy();
      }, STRANGER_MS);
      socket.once('close', () => {
        clearTimeout(late);
        this.#sockets.delete(socket);
        if (this.#strangers.get(from) === socket) this.#strangers.delete(from);
      });
      if (this.#strangers.size > STRANGERS) {
        const [[name, oldest] = []] = this.#strangers;
        this.#strangers.delete(name ?? '');
        oldest?.destroy();
      }
    });
    this.#server.on('session', (session: http2.ServerHttp2Session) => {
      this.#sessions.add(session);
      session.setLocalWindowSize(WINDOW);
      session.setTimeout(IDLE_MS, () => session.destroy());
      session.on('close', () => this.#sessions.delete(session));
      session.on('error', () => session.destroy());
    });
    this.#server.on('stream', (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => {
      stream.on('error', () => {});
      void this.#serve(stream, headers);
    });
  }

  /** @returns the address clients connect to */
  async listen(): Promise<string> {
    const { host, port, tls } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', (error) => reject(ioError(error, `listen on ${host}:${port}`)));
      this.#server.listen({ host: host.replace(/^\[|\]$/g, ''), port }, resolve);
    });
    this.#server.on('error', this.#options.onError);
    const bound = (this.#server.address() as AddressInfo).port;
    const name = host.includes(':') && !host.startsWith('[') ? `[${host}]` : host;
    return `${tls ? 'https' : 'http'}://${name}:${bound}`;
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const session of this.#sessions) session.close();
    const late = setTimeout(() => {
      for (const socket of this.#sockets) socket.destroy();
    }, 1000);
    await closed;
    clearTimeout(late);
  }

  async #serve(stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders): Promise<void> {
    const address = stream.session?.socket?.remoteAddress ?? '';
    const from = origin(stream.session?.socket);
    let identity: string | undefined;
    try {
      identity = this.#identify(stream.session?.socket, headers.authorization);
      const answer = await this.#options.answer(
        new Request(stream, headers, identity, () => this.#strangers.delete(from)),
      );
      send(stream, answer);
    } catch (error) {
      if (stream.destroyed && !(error instanceof Refusal)) return;
      if (!(error instanceof Refusal)) this.#options.onError(error);
      const refusal = error instanceof Refusal ? error : internal();
      this.#options.onRefusal(refusal, { identity, address, path: headers[':path'] ?? '' });
      const { code, message } = refusal;
      send(stream, { status: REFUSAL_STATUS[code], headers: refusal.headers, body: { code, message } });
    }
  }
}

function origin(socket: Socket | undefined): string {
  return `${socket?.remoteAddress} ${socket?.remotePort}`;
}

/** What went wrong inside is told to the server's own people. */
function internal(): Refusal {
  return new Refusal('INTERNAL', 'something went wrong at the server; try again later');
}

function send(stream: http2.ServerHttp2Stream, { status, headers, body }: Answer): void {
  if (stream.destroyed || stream.closed) return;
  const bytes =
    body === undefined ? undefined : body instanceof Uint8Array ? body : Buffer.from(JSON.stringify(body));
  stream.respond({ ':status': status, ...(bytes && { 'content-length': bytes.length }), ...headers });
  stream.end(bytes);
  // What a refused client still sends counts for nothing, and not for long.
  stream.resume();
  const late = setTimeout(() => stream.close(), DRAIN_MS);
  stream.once('close', () => clearTimeout(late));
}
