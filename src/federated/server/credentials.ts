/** Who may speak to a server, and how a server is kept from being open by mistake. */

import { createHash, createPrivateKey, timingSafeEqual, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createSecureContext, type TLSSocket } from 'node:tls';
import { DuetError, ioError, messageOf } from '../../errors.js';
import { nameSchema, Refusal } from './protocol.js';

/** PEM texts of a server. */
export interface ServerTls {
  cert: string;
  key: string;
  /** Clients must have a certificate signed by one of these authorities; its common name is the client's name. */
  clientCa?: string;
}

/** What goes into a TLS connection, or what those things are called. */
export type PemTexts = Record<'cert' | 'key' | 'ca', string | undefined>;

/**
 * @param names what a message calls them, e.g. the flags and files they come from
 * @throws DuetError INVALID_ARGUMENT for what is not PEM, a key in place of a certificate, or a key of another certificate
 */
export function checkPem({ cert, key, ca }: PemTexts, names: PemTexts): void {
  const wrong = (expected: string, error?: unknown) => {
    const reason = error === undefined ? '' : ` (${messageOf(error)})`;
    return new DuetError('INVALID_ARGUMENT', `Expected ${expected}${reason}`, { cause: error });
  };
  const certificate = (text: string, name: string | undefined) => {
    try {
      return new X509Certificate(text);
    } catch (error) {
      throw wrong(`a certificate in PEM format for ${name}`, error);
    }
  };
  const privateKey = (text: string) => {
    try {
      return createPrivateKey(text);
    } catch (error) {
      throw wrong(`a private key in PEM format, without a passphrase, for ${names.key}`, error);
    }
  };
  if (ca !== undefined) certificate(ca, names.ca);
  const own = cert === undefined ? undefined : certificate(cert, names.cert);
  const ownKey = key === undefined ? undefined : privateKey(key);
  if (own && ownKey && !own.checkPrivateKey(ownKey))
    throw wrong(`the key of ${names.cert} for ${names.key} but received the key of another certificate`);
  try {
    createSecureContext({ cert, key, ca });
  } catch (error) {
    const given = [names.cert, names.key, names.ca].filter(
      (_, place) => [cert, key, ca][place] !== undefined,
    );
    throw wrong(`certificates and keys that TLS can use for ${given.join(', ')}`, error);
  }
}

const LEAST_TOKEN = 16;

/**
 * A file of tokens: one client a line, its name and its token with white space between them; empty lines and those that begin with #
 * count for nothing.
 * @returns tokens by name
 * @throws DuetError INVALID_ARGUMENT naming the line that is wrong
 */
export async function readTokens(path: string): Promise<Map<string, string>> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw ioError(error, `read the tokens in ${path}`);
  }
  const tokens = new Map<string, string>();
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '' || line.startsWith('#')) continue;
    const [name = '', token = '', ...rest] = line.trim().split(/\s+/);
    const wrong = (expected: string) =>
      new DuetError('INVALID_ARGUMENT', `Expected ${expected} in line ${index + 1} of ${path}`);
    if (token === '' || rest.length > 0) throw wrong('a name and a token');
    if (tokens.has(name)) throw wrong(`each name once but ${name} is there again`);
    tokens.set(name, token);
  }
  return checkedTokens(tokens);
}

/** @throws DuetError INVALID_ARGUMENT for names or tokens that cannot work */
export function checkedTokens(tokens: ReadonlyMap<string, string>): Map<string, string> {
  if (tokens.size === 0) throw new DuetError('INVALID_ARGUMENT', 'Expected at least 1 token but received 0');
  for (const [name, token] of tokens) {
    if (!nameSchema.safeParse(name).success)
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected a printable name of at most 100 characters for a token`,
      );
    if (token.length < LEAST_TOKEN || !/^[\x21-\x7e]+$/.test(token)) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected at least ${LEAST_TOKEN} ASCII characters for the token of ${name}, e.g. of \`openssl rand -hex 32\``,
      );
    }
  }
  if (new Set(tokens.values()).size < tokens.size)
    throw new DuetError('INVALID_ARGUMENT', 'Expected a token of its own for each client');
  return new Map(tokens);
}

export interface Access {
  host: string;
  tls?: ServerTls | undefined;
  tokens?: ReadonlyMap<string, string> | undefined;
  /** Only these, of those that can prove a name. */
  clients?: readonly string[] | undefined;
  insecure: boolean;
}

/** @throws DuetError INVALID_ARGUMENT for a server others could reach without TLS or without identities */
export function checkAccess({ host, tls, tokens, clients, insecure }: Access): void {
  if (tokens && tls?.clientCa !== undefined)
    throw new DuetError(
      'INVALID_ARGUMENT',
      'Expected tokens or an authority of clients (clientCa), not both',
    );
  if (clients && !tokens && tls?.clientCa === undefined)
    throw new DuetError(
      'INVALID_ARGUMENT',
      'Expected tokens or an authority of clients (clientCa) that prove the names of `clients`',
    );
  if (insecure || isLoopback(host)) return;
  const open = 'or say `insecure` where the network itself is trusted';
  if (!tls)
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected a certificate and key (tls) to listen on ${host}; give them, ${open}`,
    );
  if (!tokens && tls.clientCa === undefined) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected tokens or an authority of clients (clientCa) to listen on ${host}; give one of them, ${open}`,
    );
  }
}

export function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host);
}

/** Says who sends a request; undefined where a server asks for no proof. */
export type Identify = (socket: unknown, authorization: string | undefined) => string | undefined;

/** @throws Refusal FORBIDDEN from what it returns, when there is no proof or a wrong one */
export function identification({ clients, ...access }: Pick<Access, 'tls' | 'tokens' | 'clients'>): Identify {
  const identify = proof(access);
  if (!clients) return identify;
  return (socket, authorization) => {
    const name = identify(socket, authorization);
    if (name === undefined || clients.includes(name)) return name;
    throw new Refusal('FORBIDDEN', `this server is not for ${name}`);
  };
}

function proof({ tls, tokens }: Pick<Access, 'tls' | 'tokens'>): Identify {
  if (tls?.clientCa !== undefined) return (socket) => commonName(socket as TLSSocket);
  if (!tokens) return () => undefined;
  const known = [...tokens].map(([name, token]) => ({ name, digest: digestOf(token) }));
  return (_, authorization) => {
    const [, token] = /^Bearer (.+)$/.exec(authorization ?? '') ?? [];
    if (token === undefined) throw new Refusal('FORBIDDEN', 'this server asks for a token and received none');
    // Digests of one length, all of them compared: the time tells nothing about a token.
    const digest = digestOf(token);
    const found = known.filter((one) => timingSafeEqual(one.digest, digest));
    if (!found[0]) throw new Refusal('FORBIDDEN', 'this server does not know the token');
    return found[0].name;
  };
}

function commonName(socket: TLSSocket): string {
  if (!socket.authorized) {
    const reason = String(socket.authorizationError ?? 'it has none');
    throw new Refusal('FORBIDDEN', `this server does not accept the client's certificate (${reason})`);
  }
  const name: unknown = socket.getPeerCertificate().subject?.CN;
  if (nameSchema.safeParse(name).success) return name as string;
  throw new Refusal('FORBIDDEN', "the client's certificate has no single common name");
}

function digestOf(token: string): Buffer {
  return createHash('sha256').update(token).digest();
}
