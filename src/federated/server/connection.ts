/** The HTTP/2 side of a client: one connection that is made anew when it was lost, and refusals as errors. */

import http2 from 'node:http2';
import { DuetError, messageOf, throwIfAborted } from '../../errors.js';
import { checkPem, isLoopback } from './credentials.js';
import { MAX_MESSAGE, refusalSchema, WINDOW } from './protocol.js';

const CONNECT_MS = 20_000;
/** When nothing moves on a request for so long, its connection is taken for lost. */
const STALLED_MS = 60_000;
/** Without a byte for twice as long, though it was asked for one, a connection is gone: lines that are cut do not say so. */
const ALIVE_MS = 10_000;

/** PEM texts of a client. */
export interface ClientTls {
  /** Authority of the server's certificate. Default: those of this system. */
  ca?: string;
  /** With `key`: the client's own certificate, where the server asks for one. */
  cert?: string;
  key?: string;
}

export interface ConnectionOptions {
  server: string;
  tls?: ClientTls | undefined;
  token?: string | undefined;
  insecure?: boolean | undefined;
}

export interface Reply {
  status: number;
  headers: http2.IncomingHttpHeaders;
  body: Uint8Array<ArrayBuffer>;
}

export interface Call {
  method: 'GET' | 'POST' | 'PUT';
  path: string;
  headers?: Record<string, string>;
  /** JSON, or bytes, which are sent when the server is ready for them. */
  body?: unknown;
  /** The server may let this one wait in line; that the connection lives is for other requests to find out. */
  patient?: boolean;
  /** Most bytes of the answer. */
  limit?: number;
  signal?: AbortSignal;
  onBytes?: (way: 'up' | 'down', count: number) => void;
}

/** What a server answered that it will not do. */
export class RefusedError extends Error {
  readonly code: string;
  readonly headers: http2.IncomingHttpHeaders;

  constructor(code: string, message: string, headers: http2.IncomingHttpHeaders) {
    super(message);
    this.code = code;
    this.headers = headers;
  }
}

export class Connection {
  readonly #options: ConnectionOptions;
  #session: Promise<http2.ClientHttp2Session> | undefined;

  /** @throws DuetError INVALID_ARGUMENT for an address that cannot be used, or not without TLS */
  constructor(options: ConnectionOptions) {
    const { server, insecure } = options;
    const url = URL.canParse(server) ? new URL(server) : undefined;
    if (url?.protocol !== 'https:' && url?.protocol !== 'http:')
      throw new DuetError('INVALID_ARGUMENT', `Expected https://host:port for server but received ${server}`);
    if (url.protocol === 'http:' && !insecure && !isLoopback(url.hostname)) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected https:// for the server ${server}; say \`insecure\` where the network itself is trusted`,
      );
    }
    const { cert, key, ca } = options.tls ?? {};
    checkPem({ cert, key, ca }, { cert: 'tls.cert', key: 'tls.key', ca: 'tls.ca' });
    this.#options = { ...options, server: url.origin };
  }

  /** @throws RefusedError for a refusal; DuetError INVALID_ARGUMENT where TLS will never work; Error when the connection is lost */
  async call(call: Call): Promise<Reply> {
    throwIfAborted(call.signal, 'The run');
    const session = await this.#connected();
    const reply = await this.#exchange(session, call);
    if (reply.status < 400) return reply;
    let words: unknown;
    try {
      words = JSON.parse(Buffer.from(reply.body).toString());
    } catch {
      // Some other program answers there.
    }
    const { success, data } = refusalSchema.safeParse(words);
    if (success) throw new RefusedError(data.code, data.message, reply.headers);
    throw new Error(`${this.#options.server} answered with status ${reply.status} and no reason`);
  }

  close(): void {
    this.#session?.then(
      (session) => session.destroy(),
      () => {},
    );
    this.#session = undefined;
  }

  async #connected(): Promise<http2.ClientHttp2Session> {
    const known = await this.#session?.catch(() => undefined);
    if (known && !known.closed && !known.destroyed) return known;
    this.#session = this.#connect();
    return this.#session;
  }

  #connect(): Promise<http2.ClientHttp2Session> {
    const { server, tls } = this.#options;
    return new Promise((resolve, reject) => {
      let session: http2.ClientHttp2Session;
      try {
        session = http2.connect(server, {
          ...tls,
          minVersion: 'TLSv1.2',
          settings: { enablePush: false, initialWindowSize: WINDOW },
        });
      } catch (error) {
        return reject(hopeless(error as Error, server) ?? error);
      }
      let seen = -1;
      const alive = setInterval(() => {
        if (session.destroyed) return clearInterval(alive);
        const { bytesRead = 0 } = session.socket ?? {};
        if (bytesRead === seen) fail(new Error(`the connection to ${server} is silent`));
        else if (!session.closed) session.ping(() => {});
        seen = bytesRead;
      }, ALIVE_MS);
      alive.unref();
      const fail = (error: Error) => {
        clearInterval(alive);
        clearTimeout(timer);
        session.destroy();
        reject(hopeless(error, server) ?? error);
      };
      const timer = setTimeout(
        () => fail(new Error(`no connection to ${server} in ${CONNECT_MS / 1000} s`)),
        CONNECT_MS,
      );
      session.once('connect', () => {
        clearTimeout(timer);
        session.setLocalWindowSize(WINDOW);
        resolve(session);
      });
      session.on('goaway', () => session.close());
      session.on('error', fail);
      session.once('close', () => fail(new Error(`the connection to ${server} was closed`)));
    });
  }

  #exchange(session: http2.ClientHttp2Session, call: Call): Promise<Reply> {
    const { method, path, body, limit = MAX_MESSAGE, signal, onBytes } = call;
    const { token, server } = this.#options;
    const bytes = body instanceof Uint8Array ? body : undefined;
    const text = body !== undefined && !bytes ? Buffer.from(JSON.stringify(body)) : undefined;
    const headers: http2.OutgoingHttpHeaders = { ':method': method, ':path': path, ...call.headers };
    if (token !== undefined) headers.authorization = `Bearer ${token}`;
    if (bytes) headers.expect = '100-continue';
    return new Promise((resolve, reject) => {
      const stream = session.request(headers, { endStream: body === undefined });
      const lost = (error?: Error) =>
        reject(error ?? new Error(`the connection to ${server} was lost during ${method} ${path}`));
      const abort = () => stream.close(http2.constants.NGHTTP2_CANCEL);
      signal?.addEventListener('abort', abort, { once: true });
      if (!call.patient) stream.setTimeout(STALLED_MS, () => session.destroy());
      let reply: Reply | undefined;
      let filled = 0;
      stream.on('continue', () => {
        if (bytes) onBytes?.('up', bytes.length);
        stream.end(bytes);
      });
      if (text) stream.end(text);
      stream.on('response', (received) => {
        const length = Number(received['content-length'] ?? 0);
        if (!(length <= limit)) {
          reject(new Error(`${server} answered ${method} ${path} with ${length} bytes, more than ${limit}`));
          return abort();
        }
        reply = { status: Number(received[':status']), headers: received, body: new Uint8Array(length) };
      });
      stream.on('data', (chunk: Uint8Array) => {
        onBytes?.('down', chunk.length);
        if (!reply || filled + chunk.length > reply.body.length) return abort();
        reply.body.set(chunk, filled);
        filled += chunk.length;
      });
      stream.on('end', () => {
        if (reply && filled === reply.body.length) resolve(reply);
        // An upload that was refused before it began.
        if (!stream.writableEnded) abort();
      });
      stream.on('error', lost);
      stream.on('close', () => {
        signal?.removeEventListener('abort', abort);
        lost();
      });
    });
  }
}

const CERTIFICATES: Record<string, string> = {
  CERT_HAS_EXPIRED: 'its certificate has expired',
  CERT_NOT_YET_VALID: 'its certificate is not valid yet',
  ERR_TLS_CERT_ALTNAME_INVALID: 'its certificate is for another host',
  SELF_SIGNED_CERT_IN_CHAIN: 'its certificate is signed by an unknown authority (give its file as ca)',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'its certificate is signed by itself (give its file as ca)',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'its certificate is signed by an unknown authority (give its file as ca)',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    'its certificate is signed by an unknown authority (give its file as ca)',
  ERR_SSL_WRONG_VERSION_NUMBER: 'it does not speak TLS',
};

/** An error that trying again does not mend. */
function hopeless(error: Error, server: string): DuetError | undefined {
  const code = String((error as NodeJS.ErrnoException).code ?? '');
  const reason =
    CERTIFICATES[code] ?? (/^(ERR_SSL_|ERR_OSSL_|CERT_)/.test(code) ? messageOf(error) : undefined);
  if (reason === undefined) return undefined;
  return new DuetError('INVALID_ARGUMENT', `Cannot trust the server ${server}: ${reason}`, { cause: error });
}
