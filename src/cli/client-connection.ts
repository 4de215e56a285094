/** How `duet client` reaches its server: its options, and taking part once a site is open. */

import { X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { type Command, Option } from 'commander';
import { DuetError, ioError, messageOf } from '../errors.js';
import { CODEC_NAMES, type CodecName, updateCodec } from '../federated/compression.js';
import { FlowerClient } from '../federated/flower/client.js';
import type { NodeState } from '../federated/flower/node-events.js';
import { type ClientEvent, DuetClient } from '../federated/server/client.js';
import { checkPem } from '../federated/server/credentials.js';
import type { Site } from '../federated/site.js';
import { printable } from '../report/printable.js';
import { bytes, duration } from '../report/words.js';
import type { ProgressLine } from '../run/progress.js';
import { list } from './options.js';

export interface ConnectionFlags {
  superlink?: string;
  server?: string;
  insecure: boolean;
  rootCertificates?: string;
  key?: string;
  index?: number;
  certificate?: string;
  tokenFile?: string;
  transport: 'auto' | 'grpc' | 'http';
  metrics?: string[];
  compression: CodecName;
}

export function connectionOptions(command: Command): void {
  command
    .optionsGroup('Server (one of the first two):')
    .option('--superlink <host:port>', 'the Fleet API of a Flower SuperLink, or http(s)://host:port')
    .addOption(new Option('--server <url>', 'a duet server: https://host:port').conflicts('superlink'))
    .addOption(
      new Option(
        '--root-certificates <file>',
        "authority of the server's certificate, PEM (default: the system's)",
      ),
    )
    .addOption(new Option('--insecure', 'without TLS').default(false).conflicts('rootCertificates'))
    .option('--key <file>', "this site's private key: registered at the SuperLink, or of --certificate")
    .addOption(
      new Option(
        '--certificate <file>',
        "this site's certificate, for a duet server that asks for one",
      ).conflicts(['superlink', 'insecure', 'tokenFile']),
    )
    .addOption(
      new Option('--token-file <file>', "this site's token, for a duet server that asks for one").conflicts(
        'superlink',
      ),
    )
    .addOption(
      new Option('--transport <kind>', 'SuperLink: what it speaks')
        .choices(['auto', 'grpc', 'http'])
        .default('auto')
        .conflicts('server'),
    )
    .addOption(
      new Option(
        '--metrics <names>',
        'SuperLink: only these metrics, where other nodes answer fewer, or none (default: all)',
      )
        .argParser((text) => (text === 'none' ? [] : list(text)))
        .conflicts('server'),
    )
    .addOption(
      new Option('--compression <type>', 'duet server: how updates are written, where the server takes it')
        .choices(CODEC_NAMES)
        .default('fp32')
        .conflicts('superlink'),
    );
}

/** Ends with wrong usage. */
export function refuse(command: Command, message: string): never {
  command.error(`error: ${message}`, { exitCode: 2 });
}

/** What commander cannot tell. */
export function checkConnection(command: Command, flags: ConnectionFlags): void {
  const { superlink, server, key, certificate } = flags;
  if (superlink === undefined && server === undefined)
    refuse(command, 'Expected a server: --superlink <host:port> or --server <url>');
  if (certificate !== undefined && key === undefined) refuse(command, 'Expected the --key of --certificate');
  if (server !== undefined && key !== undefined && certificate === undefined)
    refuse(
      command,
      'Expected the --certificate of --key; a duet server knows sites by certificates or tokens',
    );
}

/** Takes part until the run is over, or the signal aborted. */
export type Connect = (site: Site, progress: ProgressLine, signal: AbortSignal) => Promise<void>;

/** Reads keys, certificates and tokens. */
export async function connection(flags: ConnectionFlags): Promise<Connect> {
  const { superlink, server } = flags;
  const files = {
    ca: checkedAuthority(flags.rootCertificates, await text(flags.rootCertificates, 'the root certificates')),
    key: await text(flags.key, 'the key'),
    certificate: await text(flags.certificate, 'the certificate'),
    token: (await text(flags.tokenFile, 'the token'))?.trim(),
  };
  if (superlink !== undefined) return atSuperLink(superlink, flags, files);
  return atDuetServer(server as string, flags, files);
}

/** TLS would take a file without a certificate for an empty list of authorities. */
function checkedAuthority(path: string | undefined, pem: string | undefined): string | undefined {
  if (pem === undefined) return undefined;
  try {
    new X509Certificate(pem);
    return pem;
  } catch (error) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected a certificate (PEM) in ${path} for --root-certificates but there is none: ${messageOf(error)}`,
      { cause: error },
    );
  }
}

interface Files {
  ca: string | undefined;
  key: string | undefined;
  certificate: string | undefined;
  token: string | undefined;
}

function atSuperLink(superlink: string, flags: ConnectionFlags, { ca, key }: Files): Connect {
  const { transport, metrics, insecure } = flags;
  return (site, progress, signal) => {
    const { name } = site.client;
    const trouble = troubleOf(name, progress);
    return FlowerClient.run({
      superlink,
      transport,
      tls: insecure ? false : { ...(ca !== undefined && { ca }) },
      ...(key !== undefined && { keys: { privateKey: key } }),
      ...(metrics && { metrics }),
      site,
      signal,
      events: {
        onState: (state) => {
          if (state === 'waiting') trouble.over();
          progress.update(`${name}  ${STATES[state]}`);
        },
        onRetry: ({ reason }) => trouble.met(reason),
        onMessage: ({ type, outcome, reason }) => {
          if (reason !== undefined)
            progress.note(printable(`${name}  ${type} message: ${outcome}: ${reason}`));
        },
      },
    });
  };
}

function atDuetServer(server: string, flags: ConnectionFlags, files: Files): Connect {
  const { ca, certificate: cert, key, token } = files;
  const { insecure, compression, index } = flags;
  checkPem(
    { ca, cert, key },
    {
      ca: `--root-certificates ${flags.rootCertificates}`,
      cert: `--certificate ${flags.certificate}`,
      key: `--key ${flags.key}`,
    },
  );
  const codecs = [...new Set([compression, 'fp32'] as const)].map((name) => updateCodec(name));
  return async (site, progress, signal) => {
    const { client, strategy } = site;
    const trouble = troubleOf(client.name, progress);
    await DuetClient.run({
      server,
      name: client.name,
      ...(client.task !== undefined && { task: client.task }),
      ...(index !== undefined && { index }),
      strategy: strategy.name,
      tls: {
        ...(ca !== undefined && { ca }),
        ...(cert !== undefined && { cert }),
        ...(key !== undefined && { key }),
      },
      ...(token !== undefined && { token }),
      insecure,
      codecs,
      site,
      signal,
      onEvent: (event) => {
        if (event.event === 'retry') trouble.met(event.message);
        else {
          trouble.over();
          progress.note(printable(`${client.name}  ${eventLine(event)}`));
        }
      },
    });
    progress.note(`${client.name}  the server's run is done`);
  };
}

/** Says once what keeps a site from its server, and when that is over. */
function troubleOf(name: string, progress: ProgressLine) {
  let last: string | undefined;
  return {
    met(reason: string): void {
      if (reason !== last) progress.note(printable(`${name}  ${reason}; trying again`));
      last = reason;
    },
    over(): void {
      if (last !== undefined) progress.note(`${name}  connected`);
      last = undefined;
    },
  };
}

function eventLine(event: Exclude<ClientEvent, { event: 'retry' }>): string {
  switch (event.event) {
    case 'joined':
      return `connected; ${event.rounds} rounds`;
    case 'task':
      return `round ${event.round}  asked to ${event.kind}  at most ${duration(event.secondsLeft)} left`;
    case 'answered':
      return `round ${event.round}  answered  ${bytes(event.bytes)}  ${duration(event.seconds)}`;
    default:
      return `round ${event.round}  ${event.kind} ${event.event}: ${event.message}`;
  }
}

const STATES: Record<NodeState, string> = {
  joining: 'joining the SuperLink',
  waiting: 'waiting for a round',
  pulling: 'receiving',
  working: 'working',
  pushing: 'sending',
  leaving: 'leaving the SuperLink',
  stopped: 'stopped',
};

async function text(path: string | undefined, what: string): Promise<string | undefined> {
  if (path === undefined) return undefined;
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw ioError(error, `read ${what} ${path}`);
  }
}
