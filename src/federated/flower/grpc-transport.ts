/** The Fleet API over gRPC, as SuperLinks before Flower 1.40 serve it. */

import { isIPv6 } from 'node:net';
import { Client, credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { DuetError } from '../../errors.js';
import { advice, FleetError, type FleetStatus, readDetails } from './fleet-error.js';
import { type Address, type ByteTransport, MAX_RESPONSE_BYTES } from './transport.js';

const OPTIONS = {
  // Objects have up to 5 MiB and a head; the library's limit is 4 MiB.
  'grpc.max_receive_message_length': MAX_RESPONSE_BYTES,
  'grpc.max_send_message_length': -1,
  // Below 8 MiB a transfer over a long way waits for acknowledgements.
  'grpc-node.flow_control_window': 8 * 2 ** 20,
  'grpc.keepalive_time_ms': 60_000,
  'grpc.keepalive_timeout_ms': 20_000,
  'grpc.initial_reconnect_backoff_ms': 500,
  'grpc.max_reconnect_backoff_ms': 10_000,
  // Channels of one process would otherwise share one connection, which takes 1000 calls at once at most.
  'grpc.use_local_subchannel_pool': 1,
};

const same = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** @param connections how many to spread the calls over: one for some 100 nodes */
export function grpcTransport(address: Address, connections = 1): ByteTransport {
  const { host, port, secure, ca } = address;
  const target = `${isIPv6(host) ? `[${host}]` : host}:${port}`;
  const security = secure
    ? credentials.createSsl(ca === undefined ? null : Buffer.from(ca))
    : credentials.createInsecure();
  const clients = Array.from({ length: connections }, () => new Client(target, security, OPTIONS));
  let turn = 0;
  return {
    kind: 'grpc',
    send: (method, body, { identity, signal, timeoutMs }) =>
      new Promise((resolve, reject) => {
        const metadata = new Metadata();
        if (identity) {
          const { timestamp, signature } = identity.sign();
          metadata.set('flwr-public-key-bin', identity.publicKey);
          metadata.set('flwr-timestamp', timestamp);
          metadata.set('flwr-signature-bin', signature);
        }
        const path = `/${method.parent.typeName}/${method.name}`;
        const client = clients[turn++ % clients.length] as Client;
        const cancel = () => call.cancel();
        const call = client.makeUnaryRequest(
          path,
          same,
          (bytes: Buffer) => bytes,
          body,
          metadata,
          { deadline: Date.now() + timeoutMs },
          (error, answer) => {
            signal?.removeEventListener('abort', cancel);
            if (signal?.aborted) reject(new DuetError('CANCELLED', `${method.name} was cancelled`));
            else if (error) reject(fleetError(error, method.name, address));
            else resolve(answer as Buffer);
          },
        );
        signal?.addEventListener('abort', cancel, { once: true });
      }),
    close() {
      for (const client of clients) client.close();
    },
  };
}

const STATUS: Partial<Record<status, FleetStatus>> = {
  [status.UNAVAILABLE]: 'UNAVAILABLE',
  [status.DEADLINE_EXCEEDED]: 'DEADLINE_EXCEEDED',
  [status.RESOURCE_EXHAUSTED]: 'RESOURCE_EXHAUSTED',
  [status.ABORTED]: 'ABORTED',
  // Of a stream the other side reset.
  [status.CANCELLED]: 'ABORTED',
  [status.UNAUTHENTICATED]: 'UNAUTHENTICATED',
  [status.PERMISSION_DENIED]: 'PERMISSION_DENIED',
  [status.FAILED_PRECONDITION]: 'FAILED_PRECONDITION',
  [status.INVALID_ARGUMENT]: 'INVALID_ARGUMENT',
  [status.UNIMPLEMENTED]: 'UNIMPLEMENTED',
  [status.INTERNAL]: 'INTERNAL',
};

function fleetError(error: ServiceError, method: string, address: Address): FleetError {
  const found = STATUS[error.code] ?? 'UNKNOWN';
  const said = readDetails(error.details || error.message);
  return new FleetError(
    found,
    `The SuperLink at ${address.text} answered ${method} with ${found}: ${said.details}${advice(found, said)}`,
    said,
    { cause: error },
  );
}
