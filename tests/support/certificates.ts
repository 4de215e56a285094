/** Certificates for tests of TLS, made with the openssl command: an authority of its own, and what it signs. */

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

export interface Certificate {
  /** Paths of PEM files, and their contents. */
  certFile: string;
  keyFile: string;
  cert: string;
  key: string;
}

export class Authority {
  readonly folder = mkdtempSync(join(tmpdir(), 'duet-tls-'));
  readonly certFile = join(this.folder, 'ca.pem');
  readonly #keyFile = join(this.folder, 'ca.key');

  constructor() {
    openssl(['ecparam', '-genkey', '-name', 'prime256v1', '-noout', '-out', this.#keyFile]);
    const subject = ['-subj', '/CN=duet test authority', '-days', '30'];
    openssl(['req', '-x509', '-new', '-key', this.#keyFile, '-out', this.certFile, ...subject]);
  }

  get cert(): string {
    return readFileSync(this.certFile, 'utf8');
  }

  /** A certificate for this common name, valid for localhost and 127.0.0.1, as server and as client. @param days -1: expired */
  issue(
    commonName: string,
    { days = 30, altNames = 'DNS:localhost,IP:127.0.0.1' }: { days?: number; altNames?: string } = {},
  ): Certificate {
    const stem = join(this.folder, commonName);
    const [certFile, keyFile, request, extensions] = ['.pem', '.key', '.csr', '.ext'].map(
      (ending) => stem + ending,
    ) as [string, string, string, string];
    writeFileSync(extensions, `subjectAltName=${altNames}\nextendedKeyUsage=serverAuth,clientAuth\n`);
    openssl(['ecparam', '-genkey', '-name', 'prime256v1', '-noout', '-out', keyFile]);
    openssl(['req', '-new', '-key', keyFile, '-out', request, '-subj', `/CN=${commonName}`]);
    const signed = ['-CA', this.certFile, '-CAkey', this.#keyFile, '-CAcreateserial', '-days', `${days}`];
    openssl(['x509', '-req', '-in', request, '-out', certFile, '-extfile', extensions, ...signed]);
    return {
      certFile,
      keyFile,
      cert: readFileSync(certFile, 'utf8'),
      key: readFileSync(keyFile, 'utf8'),
    };
  }
}

function openssl(args: readonly string[]): void {
  execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
}
