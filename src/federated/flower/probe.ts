/**
 * Finds out what a SuperLink speaks, and says in words what is wrong with a connection. The first bytes tell: a gRPC server answers the
 * preface of HTTP/2 with settings, an HTTP server with an error, one that wants TLS with an alert.
 */

import { connect as connectTcp, isIP, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { DuetError, messageOf, throwIfAborted } from '../../errors.js';
import { advice, CERTIFICATE, FleetError, hasStatus } from './fleet-error.js';
import { grpcTransport } from './grpc-transport.js';
import { httpTransport } from './http-transport.js';
import {
  type Address,
  addressOf,
  type FleetTransport,
  type FlowerConnection,
  fleetTransport,
} from './transport.js';

export interface OpenOptions {
  signal?: AbortSignal;
  /** TCP connections to spread calls over. */
  connections?: number;
  /** Default: 10 seconds. */
  timeoutMs?: number;
}

type Kind = 'grpc' | 'http';

const NAMES = {
  grpc: 'gRPC (Flower before 1.40)',
  http: 'HTTP (Flower 1.40 or newer)',
};

/**
 * A transport to a SuperLink that answers.
 * @throws FleetError (UNAVAILABLE) where nothing answers; DuetError UNSUPPORTED for a server that is no SuperLink of a supported
 *   version, or TLS on one side only; UNAUTHENTICATED for a certificate that is not trusted
 */
export async function openFleet(
  connection: FlowerConnection,
  options: OpenOptions = {},
): Promise<FleetTransport> {
  const address = addressOf(connection);
  const { signal, connections, timeoutMs = 10_000 } = options;
  throwIfAborted(signal, 'Connecting');
  const found = await whatAnswers(address, timeoutMs);
  if (address.transport !== 'auto' && found !== address.transport && !address.secure) {
    throw new DuetError(
      'UNSUPPORTED',
      `Expected a SuperLink that speaks ${NAMES[address.transport]} at ${address.text} but it speaks ${NAMES[found]}; ` +
        "use transport 'auto' and host:port",
    );
  }
  const other = found === 'grpc' ? 'http' : 'grpc';
  for (const kind of address.transport === 'auto' ? [found, other] : [address.transport]) {
    const make = kind === 'grpc' ? grpcTransport : httpTransport;
    const transport = fleetTransport(make(address, connections));
    try {
      // Nobody may ask this without a signature: a SuperLink refuses, anything else does not know it.
      await transport.sendNodeHeartbeat({ heartbeatInterval: 30 }, { ...(signal && { signal }), timeoutMs });
      return transport;
    } catch (error) {
      if (hasStatus(error, 'UNAUTHENTICATED')) return transport;
      transport.close();
      // A server of the other kind cannot make sense of the call.
      const alien = hasStatus(error, 'UNIMPLEMENTED', 'INTERNAL', 'UNKNOWN') || kind !== found;
      if (!alien) throw error;
    }
  }
  throw new DuetError(
    'UNSUPPORTED',
    `Expected Flower's Fleet API (Flower 1.23 to 1.42) at ${address.text} but the server there, which speaks ` +
      `${found === 'grpc' ? 'gRPC' : 'HTTP'}, does not know it; check the port (9092, or 8000 from Flower 1.40) and ` +
      'the version of Flower',
  );
}

async function whatAnswers(address: Address, timeoutMs: number): Promise<Kind> {
  if (address.secure) return overTls(address, timeoutMs);
  const answer = await overTcp(address, timeoutMs);
  if (answer !== 'tls') return answer;
  throw new DuetError(
    'UNSUPPORTED',
    `Expected a SuperLink without TLS at ${address.text} but it uses TLS; leave out tls: false (--insecure) and give its ` +
      'authority if the system does not know it',
  );
}

const PREFACE = Buffer.concat([
  Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'),
  Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]),
]);

/** What answers a connection without TLS. */
async function overTcp(address: Address, timeoutMs: number): Promise<Kind | 'tls'> {
  const { host, port } = address;
  const first = await firstBytes(connectTcp({ host, port }), PREFACE, timeoutMs).catch((error) => {
    throw unreachable(address, error);
  });
  if (first.subarray(0, 5).toString('latin1') === 'HTTP/') return 'http';
  if (first.length >= 9 && first[3] === 4) return 'grpc';
  if (first[0] === 0x15 && first[1] === 3) return 'tls';
  const socket = connectTls({ host, port, rejectUnauthorized: false, ...serverName(host) });
  if (await handshake(socket, timeoutMs).then(Boolean, () => false)) return 'tls';
  throw new DuetError(
    'UNSUPPORTED',
    `Expected a SuperLink at ${address.text} but what answers there speaks neither gRPC nor HTTP; check the port`,
  );
}

async function overTls(address: Address, timeoutMs: number): Promise<Kind> {
  const { host, port, ca } = address;
  try {
    const socket = connectTls({
      host,
      port,
      ...(ca !== undefined && { ca }),
      ...serverName(host),
      ALPNProtocols: ['h2', 'http/1.1'],
    });
    const protocol = await handshake(socket, timeoutMs);
    return protocol === 'h2' ? 'grpc' : 'http';
  } catch (error) {
    const details = tlsDetails(error);
    if (CERTIFICATE.test(details)) {
      throw new DuetError(
        'UNAUTHENTICATED',
        `The certificate of the SuperLink at ${address.text} is not trusted: ${details}${advice('UNAVAILABLE', { details })}`,
        { cause: error },
      );
    }
    if (UNREACHABLE.test(details)) throw unreachable(address, error);
    const plain = await overTcp(address, timeoutMs).catch(() => undefined);
    if (plain === 'http' || plain === 'grpc') {
      throw new DuetError(
        'UNSUPPORTED',
        `Expected a SuperLink with TLS at ${address.text} but it has none; start it with certificates, or use tls: false ` +
          '(--insecure) where nobody listens',
        { cause: error },
      );
    }
    throw unreachable(address, error);
  }
}

const serverName = (host: string) => (isIP(host) ? {} : { servername: host });

const UNREACHABLE = /ECONNREFUSED|ENOTFOUND|EHOSTUNREACH|ENETUNREACH|EAI_AGAIN|ETIMEDOUT/;

function tlsDetails(error: unknown): string {
  const code = (error as NodeJS.ErrnoException).code;
  const words = messageOf(error);
  return code === undefined || words.includes(code) ? words : `${words} (${code})`;
}

function unreachable(address: Address, error: unknown): FleetError {
  const details = tlsDetails(error);
  return new FleetError(
    'UNAVAILABLE',
    `No SuperLink can be reached at ${address.text}: ${details}; is it running, and is this its host and port?`,
    { details },
    { cause: error },
  );
}

/** What comes back first, or nothing when the connection ends before. */
function firstBytes(socket: Socket, send: Buffer, timeoutMs: number): Promise<Buffer> {
  return new Promise<Buffer>((resolve, reject) => {
    let received = Buffer.alloc(0);
    let connected = false;
    socket.setTimeout(timeoutMs, () =>
      connected ? resolve(received) : reject(new Error(`no answer in ${timeoutMs / 1000} s (ETIMEDOUT)`)),
    );
    socket.on('connect', () => {
      connected = true;
      socket.write(send);
    });
    socket.on('data', (part: Buffer) => {
      received = Buffer.concat([received, part]);
      if (received.length >= 9) resolve(received);
    });
    socket.on('error', (error) => (connected ? resolve(received) : reject(error)));
    socket.on('close', () => resolve(received));
  }).finally(() => socket.destroy());
}

/** @returns the protocol both sides agreed on, or false */
function handshake(socket: ReturnType<typeof connectTls>, timeoutMs: number): Promise<string | true> {
  return new Promise<string | true>((resolve, reject) => {
    socket.setTimeout(timeoutMs, () => reject(new Error(`no answer in ${timeoutMs / 1000} s (ETIMEDOUT)`)));
    socket.on('secureConnect', () => resolve(socket.alpnProtocol || true));
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the connection was closed in the handshake')));
  }).finally(() => socket.destroy());
}
