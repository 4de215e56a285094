/** What a SuperLink, or the way to it, answers instead of what was asked for. */

import { DuetError, type DuetErrorCode } from '../../errors.js';

/** gRPC's names, whatever the transport. */
export type FleetStatus =
  | 'UNAVAILABLE'
  | 'DEADLINE_EXCEEDED'
  | 'RESOURCE_EXHAUSTED'
  | 'ABORTED'
  | 'UNAUTHENTICATED'
  | 'PERMISSION_DENIED'
  | 'FAILED_PRECONDITION'
  | 'INVALID_ARGUMENT'
  | 'UNIMPLEMENTED'
  | 'INTERNAL'
  | 'UNKNOWN';

const CODES: Partial<Record<FleetStatus, DuetErrorCode>> = {
  UNAVAILABLE: 'UNAVAILABLE',
  DEADLINE_EXCEEDED: 'UNAVAILABLE',
  RESOURCE_EXHAUSTED: 'UNAVAILABLE',
  ABORTED: 'UNAVAILABLE',
  UNAUTHENTICATED: 'UNAUTHENTICATED',
  PERMISSION_DENIED: 'UNAUTHENTICATED',
  FAILED_PRECONDITION: 'UNAUTHENTICATED',
  INVALID_ARGUMENT: 'INVALID_ARGUMENT',
  UNIMPLEMENTED: 'UNSUPPORTED',
};

/** Passes by itself, or may. */
const PASSING: readonly FleetStatus[] = ['UNAVAILABLE', 'DEADLINE_EXCEEDED', 'RESOURCE_EXHAUSTED', 'ABORTED'];
/** A server that is broken, perhaps for this one request. */
const BROKEN: readonly FleetStatus[] = ['INTERNAL', 'UNKNOWN'];

export class FleetError extends DuetError {
  readonly status: FleetStatus;
  /** What the server said, in its own words. */
  readonly details: string;
  /** Flower's own number of the error, where it gives one. */
  readonly flowerCode: number | undefined;

  constructor(status: FleetStatus, message: string, said: Said = {}, options?: ErrorOptions) {
    super(CODES[status] ?? 'IO', message, options);
    this.status = status;
    this.details = said.details ?? '';
    this.flowerCode = said.flowerCode;
  }
}

export interface Said {
  details?: string;
  flowerCode?: number;
}

export function isPassing(error: unknown): error is FleetError {
  return error instanceof FleetError && PASSING.includes(error.status);
}

export function isBroken(error: unknown): error is FleetError {
  return error instanceof FleetError && BROKEN.includes(error.status);
}

export function hasStatus(error: unknown, ...statuses: FleetStatus[]): error is FleetError {
  return error instanceof FleetError && statuses.includes(error.status);
}

/** The words and the number of an error: newer SuperLinks send JSON, over gRPC and over HTTP with other names. */
export function readDetails(text: string): Said {
  try {
    const parsed = JSON.parse(text) as Record<string, unknown> | null;
    const words = [parsed?.public_message ?? parsed?.detail, parsed?.public_details ?? parsed?.extra];
    const details = words.filter((part) => typeof part === 'string').join(' ');
    const code = parsed?.code;
    if (details !== '') return { details, ...(typeof code === 'number' && { flowerCode: code }) };
  } catch {
    // Plain words of an older SuperLink, or of something else that answers there.
  }
  return { details: text.slice(0, 300) };
}

/** How far a clock may be off: seconds fast, and slow. SuperLinks take 5 and 305. */
const [FAST, SLOW] = [4, 300];

/** Words of an error about a certificate. */
export const CERTIFICATE =
  /certificate|self[- ]signed|unable to (verify|get)|altname|CERT_|UNABLE_TO|DEPTH_ZERO|does not match/i;

/** What to do about a refusal, to put after it. */
export function advice(status: FleetStatus, { details = '' }: Said, skewSeconds?: number): string {
  if (status === 'UNAUTHENTICATED') {
    const off = skewSeconds !== undefined && (skewSeconds > FAST || skewSeconds < -SLOW);
    if (off || /timestamp/i.test(details)) {
      const by = off ? ` by ${Math.abs(Math.round(skewSeconds))} seconds` : '';
      const way = off ? (skewSeconds > 0 ? 'is fast' : 'is slow') : "differs from the SuperLink's";
      return `; the clock of this machine ${way}${by}: set it (at most ${FAST} seconds fast, ${SLOW} slow)`;
    }
    return '; the SuperLink does not know this node and its key';
  }
  if (status === 'UNIMPLEMENTED') return '; is this the Fleet API of Flower 1.23 to 1.42?';
  if (status !== 'UNAVAILABLE') return '';
  if (/wrong version number|EPROTO|packet length too long/i.test(details))
    return '; the SuperLink does not use TLS there: start it with certificates, or use tls: false (--insecure)';
  if (/altname|does not match/i.test(details))
    return '; connect by a name that is in its certificate, or have it issued for this one';
  if (/expired/i.test(details)) return '; renew it';
  if (CERTIFICATE.test(details)) return '; give the authority that signed it: tls.ca (--root-certificates)';
  return '';
}
