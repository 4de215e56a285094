/**
 * Who a node is: an EC key, and the three headers every call carries. The signature (ECDSA, SHA-256) is over the timestamp alone, so
 * one is used for a while; what protects it on its way is TLS.
 */

import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
} from 'node:crypto';
import { DuetError, messageOf } from '../../errors.js';

/** The key of a node that an operator registered. */
export interface NodeKeys {
  /** EC private key on P-256, P-384 or P-521: text of a PEM (PKCS#8, SEC 1) or OpenSSH file. */
  privateKey: string;
  /** Of an encrypted PEM. */
  passphrase?: string;
}

/** A signed moment. */
export interface Signature {
  /** ISO 8601 with an offset in digits: Python 3.10 does not read `Z`. */
  timestamp: string;
  signature: Buffer;
}

/** How long a signature is used; SuperLinks take it for 300 seconds. */
const REUSE_MS = 60_000;

/** OpenSSH's names of curves, those of JSON web keys, bytes of a coordinate. */
const CURVES = [
  { ssh: 'nistp256', jwk: 'P-256', node: 'prime256v1', bytes: 32 },
  { ssh: 'nistp384', jwk: 'P-384', node: 'secp384r1', bytes: 48 },
  { ssh: 'nistp521', jwk: 'P-521', node: 'secp521r1', bytes: 66 },
] as const;

/** A node's key and what it signs; `openSshPublicKey` is what an operator registers. */
export class NodeIdentity {
  /** PEM, SubjectPublicKeyInfo. */
  readonly publicKey: Buffer;
  readonly #privateKey: KeyObject;
  readonly #now: () => number;
  #last: (Signature & { at: number }) | undefined;

  /**
   * @param keys absent: a new P-256 key
   * @param now milliseconds since 1970
   * @throws DuetError INVALID_ARGUMENT for a key that is none, UNSUPPORTED for another kind of key
   */
  constructor(keys?: NodeKeys, now: () => number = Date.now) {
    this.#privateKey = keys
      ? readKey(keys)
      : generateKeyPairSync('ec', { namedCurve: 'prime256v1' }).privateKey;
    this.publicKey = Buffer.from(
      createPublicKey(this.#privateKey).export({ type: 'spki', format: 'pem' }) as string,
    );
    this.#now = now;
  }

  /** The private key as PEM. */
  get privateKey(): string {
    return this.#privateKey.export({ type: 'pkcs8', format: 'pem' }) as string;
  }

  /** sha256 of the public key, hex: names it in messages and files. */
  get fingerprint(): string {
    return createHash('sha256').update(this.publicKey).digest('hex');
  }

  /** A signature that is at most a minute old. */
  sign(): Signature {
    const at = this.#now();
    if (this.#last === undefined || Math.abs(at - this.#last.at) >= REUSE_MS) {
      const timestamp = new Date(at).toISOString().replace('Z', '+00:00');
      this.#last = { at, timestamp, signature: sign('sha256', Buffer.from(timestamp), this.#privateKey) };
    }
    return this.#last;
  }

  /** The public key in OpenSSH's format, which `flwr supernode register` takes. */
  get openSshPublicKey(): string {
    const { crv, x, y } = createPublicKey(this.#privateKey).export({ format: 'jwk' });
    const { ssh } = CURVES.find((curve) => curve.jwk === crv) as (typeof CURVES)[number];
    const point = Buffer.concat([
      Buffer.from([4]),
      Buffer.from(x as string, 'base64url'),
      Buffer.from(y as string, 'base64url'),
    ]);
    const fields = [Buffer.from(`ecdsa-sha2-${ssh}`), Buffer.from(ssh), point].flatMap((field) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(field.length);
      return [length, field];
    });
    return `ecdsa-sha2-${ssh} ${Buffer.concat(fields).toString('base64')}`;
  }
}

/** Makes a key whose public half is `node.key.pub`. */
export const KEYGEN = 'ssh-keygen -t ecdsa -b 384 -N "" -C "" -f node.key';
const MEND = `make one with \`${KEYGEN}\``;

function readKey({ privateKey, passphrase }: NodeKeys): KeyObject {
  const text = String(privateKey);
  let key: KeyObject;
  try {
    key = text.includes('BEGIN OPENSSH PRIVATE KEY')
      ? openSshKey(text)
      : createPrivateKey({ key: text, format: 'pem', ...(passphrase !== undefined && { passphrase }) });
  } catch (error) {
    if (error instanceof DuetError) throw error;
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected an EC private key (PEM or OpenSSH) for keys.privateKey (--key) but it cannot be read: ${messageOf(error)}; ${MEND}`,
      { cause: error },
    );
  }
  const curve = key.asymmetricKeyDetails?.namedCurve;
  if (key.asymmetricKeyType === 'ec' && CURVES.some(({ node }) => node === curve)) return key;
  const kind = [key.asymmetricKeyType, curve].filter(Boolean).join(' ');
  throw new DuetError(
    'UNSUPPORTED',
    `Expected an EC private key on P-256, P-384 or P-521 for keys.privateKey (--key) but received ${kind}; ${MEND}`,
  );
}

/** OpenSSH's own format (PROTOCOL.key), one key, not encrypted. */
function openSshKey(text: string): KeyObject {
  const base64 = /-----BEGIN OPENSSH PRIVATE KEY-----([^-]+)-----END/.exec(text)?.[1] ?? '';
  const reader = new FieldReader(Buffer.from(base64, 'base64'));
  const magic = 'openssh-key-v1\0';
  if (reader.take(magic.length).toString('latin1') !== magic) throw new Error('its head is damaged');
  const cipher = reader.field().toString();
  if (cipher !== 'none') {
    throw new DuetError(
      'UNSUPPORTED',
      `Expected a key without a passphrase for keys.privateKey (--key) but it is encrypted with ${cipher}; ` +
        'remove it with `ssh-keygen -p -N "" -f <file>`',
    );
  }
  reader.field();
  reader.field();
  if (reader.count() !== 1) throw new Error('it holds more than one key');
  reader.field();
  const own = new FieldReader(reader.field());
  const checks = [own.count(), own.count()];
  if (checks[0] !== checks[1]) throw new Error('it is damaged');
  const type = own.field().toString();
  const curve = CURVES.find(({ ssh }) => type === `ecdsa-sha2-${ssh}`);
  if (!curve) {
    throw new DuetError(
      'UNSUPPORTED',
      `Expected an EC private key on P-256, P-384 or P-521 for keys.privateKey (--key) but received ${type}; ${MEND}`,
    );
  }
  own.field();
  const point = own.field();
  const scalar = own.field();
  const { bytes, jwk } = curve;
  if (point.length !== 1 + 2 * bytes || point[0] !== 4) throw new Error('its point is damaged');
  const coordinate = (value: Buffer): string => value.toString('base64url');
  // A scalar is written without leading zeros, or with one more.
  const padded = Buffer.concat([Buffer.alloc(bytes), scalar]).subarray(-bytes);
  return createPrivateKey({
    key: {
      kty: 'EC',
      crv: jwk,
      x: coordinate(point.subarray(1, 1 + bytes)),
      y: coordinate(point.subarray(1 + bytes)),
      d: coordinate(padded),
    },
    format: 'jwk',
  });
}

/** Numbers and byte strings with their length before them, big-endian. */
class FieldReader {
  #offset = 0;
  constructor(readonly bytes: Buffer) {}

  take(length: number): Buffer {
    const end = this.#offset + length;
    if (end > this.bytes.length) throw new Error('it is cut off');
    const taken = this.bytes.subarray(this.#offset, end);
    this.#offset = end;
    return taken;
  }

  count(): number {
    return this.take(4).readUInt32BE();
  }

  field(): Buffer {
    return this.take(this.count());
  }
}
