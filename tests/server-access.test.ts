// Who may take part: certificates of both sides, tokens, and servers that are open by mistake.

import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import type { ClientTls } from '../src/federated/server/connection.js';
import { checkAccess, checkPem, readTokens } from '../src/federated/server/credentials.js';
import { temporaryFolder } from './federation-support.js';
import { Authority } from './support/certificates.js';
import { byTheRules, type StartedServer, startClient, startServer, values } from './support/duet-server.js';

const authority = new Authority();
const stranger = new Authority();
const own = authority.issue('server');
const tls = { cert: own.cert, key: own.key };
const mutual = { ...tls, clientCa: authority.cert };

const started: StartedServer[] = [];
afterAll(() => Promise.all(started.map((server) => server.stop())));

async function serve(options: Partial<Parameters<typeof startServer>[0]>): Promise<StartedServer> {
  const server = await startServer({ runDir: await temporaryFolder(), host: 'localhost', ...options });
  started.push(server);
  return server;
}

function certificateOf(name: string, from = authority, options = {}): ClientTls {
  const { cert, key } = from.issue(name, options);
  return { ca: authority.cert, cert, key };
}

test('mutual TLS: a certificate names its client', async () => {
  const server = await serve({ tls: mutual, minClients: 2 });
  expect(server.url).toMatch(/^https:\/\/localhost:\d+$/);
  await Promise.all(
    [0, 1].map((site) => startClient(server.url, site, { tls: certificateOf(`site${site}`) })),
  );
  await server.rounds;
  expect(values(server.server.shared)).toEqual(
    await byTheRules([
      [0, 1],
      [0, 1],
    ]),
  );
});

describe('mutual TLS refuses', () => {
  const cases: [string, () => ClientTls, RegExp][] = [
    [
      'a client without a certificate',
      () => ({ ca: authority.cert }),
      /does not accept the client's certificate/,
    ],
    [
      'one of another authority',
      () => certificateOf('site0', stranger),
      /does not accept .*UNABLE_TO_VERIFY|SELF_SIGNED/,
    ],
    [
      'one that has expired',
      () => certificateOf('site0', authority, { days: -1 }),
      /does not accept .*CERT_HAS_EXPIRED/,
    ],
    ['one of another client', () => certificateOf('site7'), /credentials are those of site7, not of site0/],
  ];
  test.each(cases)('%s', async (_, certificate, words) => {
    const server = await serve({ tls: mutual });
    const run = startClient(server.url, 0, { tls: certificate() });
    await expect(run).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(words),
    });
    await expect.poll(() => server.events.map(({ event }) => event)).toContain('refused');
  });
});

test('certificates and keys that cannot work are named before anything listens or connects', async () => {
  const names = { cert: '--tls-cert a', key: '--tls-key b', ca: '--client-ca c' };
  const good = { ...tls, ca: authority.cert };
  checkPem(good, names);
  const other = authority.issue('other').key;
  for (const [change, words] of [
    [{ key: other }, /Expected the key of --tls-cert a for --tls-key b but received the key of another/],
    [{ key: 'no key' }, /a private key in PEM format, without a passphrase, for --tls-key b/],
    [{ cert: 'no certificate' }, /a certificate in PEM format for --tls-cert a/],
    [{ ca: own.key }, /a certificate in PEM format for --client-ca c/],
  ] as const) {
    expect(() => checkPem({ ...good, ...change }, names)).toThrow(words);
  }
  await expect(serve({ tls: { ...mutual, key: other } })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
  for (const wrong of [{ ca: own.key }, { ...tls, key: other }])
    await expect(startClient('https://localhost:9', 0, { tls: wrong })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    });
});

test('of those who can prove a name, only the listed may take part', async () => {
  const server = await serve({ tls: mutual, clients: ['site0'], rounds: 1 });
  const expelled = startClient(server.url, 1, { tls: certificateOf('site1') });
  await expect(expelled).rejects.toThrow(/this server is not for site1/);
  await startClient(server.url, 0, { tls: certificateOf('site0') });
  await server.rounds;
  expect(() => checkAccess({ host: 'localhost', clients: ['site0'], insecure: false })).toThrow(/that prove/);
});

describe('a client does not trust', () => {
  test('a server of an unknown authority', async () => {
    const server = await serve({ tls });
    for (const client of [{}, { tls: { ca: stranger.cert } }])
      await expect(startClient(server.url, 0, client)).rejects.toThrow(
        /Cannot trust .*unknown authority|signed by itself/,
      );
  });

  test('a server whose certificate has expired', async () => {
    const { cert, key } = authority.issue('expired', { days: -1 });
    const server = await serve({ tls: { cert, key } });
    const run = startClient(server.url, 0, { tls: { ca: authority.cert } });
    await expect(run).rejects.toThrow(/Cannot trust .*has expired/);
  });

  test('a server with a certificate for another host', async () => {
    const { cert, key } = authority.issue('elsewhere', { altNames: 'DNS:elsewhere.example' });
    const server = await serve({ tls: { cert, key } });
    const run = startClient(server.url, 0, { tls: { ca: authority.cert } });
    await expect(run).rejects.toThrow(/Cannot trust .*another host/);
  });

  test('a server that speaks no TLS', async () => {
    const server = await serve({});
    const run = startClient(server.url.replace('http:', 'https:'), 0);
    await expect(run).rejects.toThrow(/Cannot trust .*/);
  });
});

describe('tokens', () => {
  const tokens = new Map([
    ['site0', 'a'.repeat(32)],
    ['site1', 'b'.repeat(32)],
  ]);

  test('name their clients', async () => {
    const server = await serve({ tls, tokens, minClients: 2, rounds: 1 });
    const client = { tls: { ca: authority.cert } };
    await Promise.all(
      [0, 1].map((site) =>
        startClient(server.url, site, { ...client, token: tokens.get(`site${site}`) as string }),
      ),
    );
    await server.rounds;
    expect(values(server.server.shared)).toEqual(await byTheRules([[0, 1]]));
  });

  test.each([
    ['none', undefined, /asks for a token/],
    ['a wrong one', 'c'.repeat(32), /does not know the token/],
    ['part of one', 'a'.repeat(31), /does not know the token/],
    ['the one of another client', 'b'.repeat(32), /credentials are those of site1, not of site0/],
  ])('%s is refused', async (_, token, words) => {
    const server = await serve({ tokens });
    const run = startClient(server.url, 0, token === undefined ? {} : { token });
    await expect(run).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(words),
    });
  });

  test('come from a file, whose faults are named', async () => {
    const path = join(await temporaryFolder(), 'tokens');
    await writeFile(path, `# clinics\nnorth ${'n'.repeat(16)}\n\nsouth\t${'s'.repeat(20)}\n`);
    expect([...(await readTokens(path))]).toEqual([
      ['north', 'n'.repeat(16)],
      ['south', 's'.repeat(20)],
    ]);
    for (const [text, words] of [
      ['north', /a name and a token in line 1/],
      [
        `north ${'n'.repeat(16)}\nnorth ${'m'.repeat(16)}`,
        /each name once but north is there again in line 2/,
      ],
      ['north short', /at least 16 ASCII characters for the token of north/],
      [`north ${'n'.repeat(16)}\nsouth ${'n'.repeat(16)}`, /a token of its own/],
      ['# nobody', /at least 1 token/],
    ] as const) {
      await writeFile(path, text);
      const reading = readTokens(path);
      await expect(reading).rejects.toThrow(words);
      await expect(reading).rejects.not.toThrow(/nnnn/);
    }
  });
});

test('beyond this machine there is TLS and identity, or a word that says otherwise', async () => {
  const open = { host: '0.0.0.0', insecure: false };
  expect(() => checkAccess(open)).toThrow(/certificate and key \(tls\) to listen on 0.0.0.0/);
  expect(() => checkAccess({ ...open, tls })).toThrow(/tokens or an authority of clients/);
  checkAccess({ ...open, tls: mutual });
  checkAccess({ ...open, tls, tokens: new Map() });
  checkAccess({ ...open, insecure: true });
  for (const host of ['localhost', '127.0.0.1', '127.1.2.3', '::1']) checkAccess({ host, insecure: false });
  for (const host of ['127.0.0.1.example.org', '128.0.0.1', '10.0.0.1'])
    expect(() => checkAccess({ host, insecure: false })).toThrow(/tls/);
  expect(() => checkAccess({ ...open, tls: mutual, tokens: new Map() })).toThrow(/not both/);
  await expect(startClient('http://example.org:1', 0)).rejects.toThrow(/https:\/\/ for the server/);
  await expect(startClient('example.org', 0)).rejects.toThrow(/https:\/\/host:port/);
});
