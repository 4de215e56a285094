/** The Fleet API over HTTP, as SuperLinks from Flower 1.40 serve it: `POST /v1/fleet/<method>` with protobuf bodies. */

import * as http from 'node:http';
import * as https from 'node:https';
import { DuetError, messageOf } from '../../errors.js';
import { advice, FleetError, type FleetStatus, readDetails } from './fleet-error.js';
import { type Address, type ByteTransport, type CallOptions, MAX_RESPONSE_BYTES } from './transport.js';

const MEDIA_TYPE = 'application/protobuf';

interface Answer {
  statusCode: number;
  headers: http.IncomingHttpHeaders;
  body: Buffer;
}

/** @param connections at most at once */
export function httpTransport(address: Address, connections = 16): ByteTransport {
  const { host, port, secure, ca, path } = address;
  const settings = { keepAlive: true, maxSockets: connections, scheduling: 'lifo' as const };
  const agent = secure ? new https.Agent({ ...settings, ...(ca && { ca }) }) : new http.Agent(settings);
  const request = secure ? https.request : http.request;

  const post = (
    url: string,
    body: Uint8Array,
    { identity, signal, timeoutMs }: CallOptions & { timeoutMs: number },
  ): Promise<Answer> =>
    new Promise((resolve, reject) => {
      const signature = identity?.sign();
      const outgoing = request({
        host,
        port,
        path: url,
        method: 'POST',
        agent,
        ...(signal && { signal }),
        headers: {
          'content-type': MEDIA_TYPE,
          accept: MEDIA_TYPE,
          'content-length': body.length,
          ...(identity &&
            signature && {
              'flwr-public-key': identity.publicKey.toString('base64'),
              'flwr-timestamp': signature.timestamp,
              'flwr-signature': signature.signature.toString('base64'),
            }),
        },
      });
      // Of the whole call from when it has a connection; a socket's own timeout counts only silence.
      let timer: NodeJS.Timeout | undefined;
      outgoing.once('socket', () => {
        const late = new FleetError('DEADLINE_EXCEEDED', `no answer in ${timeoutMs / 1000} s`);
        timer = setTimeout(() => outgoing.destroy(late), timeoutMs);
      });
      const fail = (error: unknown) => {
        clearTimeout(timer);
        reject(error);
      };
      outgoing.on('error', (error) => fail(Object.assign(error, { reused: outgoing.reusedSocket })));
      outgoing.on('response', (incoming) => {
        const parts: Buffer[] = [];
        let length = 0;
        incoming.on('data', (part: Buffer) => {
          length += part.length;
          parts.push(part);
          if (length > MAX_RESPONSE_BYTES)
            outgoing.destroy(new FleetError('INTERNAL', `more than ${MAX_RESPONSE_BYTES} bytes`));
        });
        incoming.on('error', fail);
        incoming.on('end', () => {
          clearTimeout(timer);
          const { statusCode = 0, headers } = incoming;
          resolve({ statusCode, headers, body: Buffer.concat(parts) });
        });
      });
      outgoing.end(body);
    });

  return {
    kind: 'http',
    async send(method, body, options) {
      const url = `${path}/v1/fleet/${kebab(method.name)}`;
      let answer: Answer;
      try {
        answer = await post(url, body, options).catch((error) => {
          // The other side had closed a connection that was kept open: the request never reached it.
          if (error.reused && error.code === 'ECONNRESET') return post(url, body, options);
          throw error;
        });
      } catch (error) {
        if (options.signal?.aborted)
          throw new DuetError('CANCELLED', `${method.name} was cancelled`, { cause: error });
        throw connectionError(error, method.name, address);
      }
      if (answer.statusCode === 200) return answer.body;
      throw statusError(answer, method.name, address);
    },
    close: () => agent.destroy(),
  };
}

const kebab = (name: string): string => name.replace(/(?<!^)[A-Z]/g, (letter) => `-${letter}`).toLowerCase();

function connectionError(error: unknown, method: string, address: Address): FleetError {
  const status = error instanceof FleetError ? error.status : 'UNAVAILABLE';
  const said = { details: messageOf(error) };
  return new FleetError(
    status,
    `The SuperLink at ${address.text} did not answer ${method}: ${said.details}${advice(status, said)}`,
    said,
    { cause: error },
  );
}

const STATUS: Record<number, FleetStatus> = {
  400: 'INVALID_ARGUMENT',
  401: 'UNAUTHENTICATED',
  403: 'PERMISSION_DENIED',
  404: 'UNIMPLEMENTED',
  405: 'UNIMPLEMENTED',
  408: 'UNAVAILABLE',
  412: 'FAILED_PRECONDITION',
  415: 'UNIMPLEMENTED',
  429: 'RESOURCE_EXHAUSTED',
  501: 'UNIMPLEMENTED',
  502: 'UNAVAILABLE',
  503: 'UNAVAILABLE',
  504: 'DEADLINE_EXCEEDED',
};

function statusError({ statusCode, headers, body }: Answer, method: string, address: Address): FleetError {
  const status = STATUS[statusCode] ?? (statusCode >= 500 ? 'INTERNAL' : 'UNKNOWN');
  const said = readDetails(body.toString('utf8', 0, 65_536));
  const serverTime = Date.parse(headers.date ?? '');
  const skewSeconds = Number.isNaN(serverTime) ? undefined : (Date.now() - serverTime) / 1000;
  return new FleetError(
    status,
    `The SuperLink at ${address.text} answered ${method} with status ${statusCode}: ` +
      `${said.details}${advice(status, said, skewSeconds)}`,
    said,
  );
}
