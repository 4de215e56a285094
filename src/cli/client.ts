/** duet client: one site of a federation across machines, at a Flower SuperLink or at a duet server. */

import { readFile } from 'node:fs/promises';
import { Command, Option } from 'commander';
import { DuetError, ioError, throwIfAborted } from '../errors.js';
import type { FederatedClient } from '../federated/client.js';
import { FlowerClient } from '../federated/flower/client.js';
import type { NodeState } from '../federated/flower/node-events.js';
import { Site } from '../federated/site.js';
import type { StrategyName } from '../federated/strategies/by-name.js';
import { dataLines, duration, progressLine, siteLine } from '../report/words.js';
import { ProgressLine } from '../run/progress.js';
import { checkRunFolder } from '../run/run-folder.js';
import {
  dataOptions,
  type ModelFlags,
  machineOptions,
  openModel,
  placeOptions,
  type StrategyFlags,
  strategyOf,
  strategyOptions,
  type TrainingFlags,
  trainingOf,
  trainingOptions,
} from './federated-options.js';
import { type DataFlags, loadFederation } from './federation-data.js';
import { integer, list } from './options.js';
import { resumeCommand, untilStopped } from './stopping.js';

interface ConnectionFlags {
  superlink?: string;
  server?: string;
  insecure: boolean;
  rootCertificates?: string;
  key?: string;
  certificate?: string;
  tokenFile?: string;
  transport: 'auto' | 'grpc' | 'http';
  metrics?: string[];
}

interface ClientFlags extends ConnectionFlags, DataFlags, TrainingFlags, StrategyFlags, ModelFlags {
  client: string;
  strategy: StrategyName;
  index: number;
  rounds?: number;
  seed: number;
  run: string;
  resume: boolean;
}

export function clientCommand(): Command {
  const command = new Command('client').description(
    'Takes part in a federation with a server on another machine; the data stay here.',
  );
  placeOptions(command)
    .requiredOption('--client <name>', "this site's name among the clients of the data folder")
    .requiredOption('--run <dir>', 'run folder: config, metrics, checkpoints, messages')
    .option('--resume', 'continue what is in the run folder; an empty one starts a new run', false);
  connectionOptions(command);
  command
    .optionsGroup('Training:')
    .addOption(
      new Option('--strategy <name>', 'that of the server and of all sites')
        .choices(['feddat', 'fedavg'])
        .default('feddat'),
    );
  trainingOptions(command)
    .option(
      '--seed <integer>',
      'of the initial adapters and of every draw, the same at all sites',
      integer(0),
      0,
    )
    .option('--index <number>', "this site's number from 0, which names its draws", integer(0), 0)
    .option('--rounds <count>', 'rounds of the federation, for the progress', integer(1));
  dataOptions(command, { clients: false });
  strategyOptions(command, { server: false });
  return machineOptions(command).action(function (this: Command, data: string, flags: ClientFlags) {
    checkConnection(this, flags);
    return runClient(data, flags);
  });
}

function connectionOptions(command: Command): void {
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
        'SuperLink: only these metrics, where other nodes answer fewer (default: all)',
      )
        .argParser(list)
        .conflicts('server'),
    );
}

/** What commander cannot tell. */
function checkConnection(command: Command, flags: ConnectionFlags): void {
  const { superlink, server, key, certificate } = flags;
  const refuse = (message: string) => command.error(`error: ${message}`, { exitCode: 2 });
  if (superlink === undefined && server === undefined)
    refuse('Expected a server: --superlink <host:port> or --server <url>');
  if (certificate !== undefined && key === undefined) refuse('Expected the --key of --certificate');
  if (server !== undefined && key !== undefined && certificate === undefined)
    refuse('Expected the --certificate of --key; a duet server knows sites by certificates or tokens');
}

async function runClient(data: string, flags: ClientFlags): Promise<void> {
  const progress = new ProgressLine();
  await untilStopped(
    progress,
    () => `Continue with: ${resumeCommand()}`,
    async (signal) => {
      const connect = await connection(flags);
      await checkRunFolder(flags.run, flags.resume);
      const { clients, answers } = await loadFederation(data, flags.model, {
        ...flags,
        clients: [flags.client],
      });
      using model = await openModel(flags, answers, flags.seed);
      const site = await Site.open({
        model,
        strategy: strategyOf(flags.strategy, flags),
        client: clients[0] as FederatedClient,
        index: flags.index,
        ...trainingOf(flags),
        seed: flags.seed,
        ...(flags.rounds !== undefined && { rounds: flags.rounds }),
        runDir: flags.run,
        resume: flags.resume,
        onProgress: (now) => progress.update(progressLine(now, flags.client)),
        onRound: (report) => progress.note(siteLine(report, flags.client)),
      });
      try {
        for (const line of dataLines(site.data)) progress.note(line);
        if (site.round > 0) progress.note(`${flags.client}  resumed after round ${site.round}`);
        for (const lost of site.damaged) progress.note(`${flags.client}  not readable, left out: ${lost}`);
        await connect(site, progress, signal);
        throwIfAborted(signal, 'The run');
      } finally {
        if (site.round > 0) await site.export();
        await site.close();
      }
    },
  );
}

type Connect = (site: Site, progress: ProgressLine, signal: AbortSignal) => Promise<void>;

/** Reads keys and certificates; what it returns takes part until the run is over or the signal aborted. */
async function connection(flags: ConnectionFlags): Promise<Connect> {
  const ca = await pem(flags.rootCertificates, 'the root certificates');
  const key = await pem(flags.key, 'the key');
  const { superlink, transport, metrics, insecure } = flags;
  if (superlink === undefined) {
    throw new DuetError(
      'UNSUPPORTED',
      'A duet server is not in this version; connect to a Flower SuperLink (--superlink)',
    );
  }
  return (site, progress, signal) => {
    const { name } = site.client;
    let trouble: string | undefined;
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
          if (state === 'waiting' && trouble !== undefined) progress.note(`${name}  connected`);
          if (state === 'waiting') trouble = undefined;
          progress.update(`${name}  ${STATES[state]}`);
        },
        onRetry: ({ reason, seconds }) => {
          if (reason !== trouble) progress.note(`${name}  ${reason}; trying again`);
          trouble = reason;
          progress.update(`${name}  trying again in ${duration(seconds)}`);
        },
        onMessage: ({ type, outcome, reason }) => {
          if (reason !== undefined) progress.note(`${name}  ${type} message: ${outcome}: ${reason}`);
        },
      },
    });
  };
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

async function pem(path: string | undefined, what: string): Promise<string | undefined> {
  if (path === undefined) return undefined;
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw ioError(error, `read ${what} ${path}`);
  }
}
