/** duet server: rounds for clients on other machines, over HTTP/2 with TLS. */

import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { ioError } from '../errors.js';
import { verifyAudit } from '../federated/server/audit.js';
import { checkPem, readTokens, type ServerTls } from '../federated/server/credentials.js';
import type { ServerRound } from '../federated/server/options.js';
import { DuetServer } from '../federated/server/server.js';
import { strategyByName } from '../federated/strategies/by-name.js';
import type { Strategy } from '../federated/strategies/strategy.js';
import { DEFAULT_TASK, Vilt } from '../models/vilt.js';
import type { TensorData } from '../native/core.js';
import { native } from '../native.js';
import { MetricsFile } from '../run/metrics.js';
import { ProgressLine } from '../run/progress.js';
import { eventLine, NodeTable, serverRoundLine } from './node-table.js';
import { integer, list, positive, share } from './options.js';
import { resumeCommand, untilStopped } from './stopping.js';

interface ServerFlags {
  run?: string;
  resume: boolean;
  rounds: number;
  strategy: string;
  weights: 'samples' | 'uniform';
  gatedWith: 'received' | 'aggregate';
  sharedHead: boolean;
  task: string[];
  seed: number;
  adapterReduction: number;
  writeInitial?: string;
  verify: boolean;
  host: string;
  port: number;
  tlsCert?: string;
  tlsKey?: string;
  clientCa?: string;
  tokens?: string;
  clients?: string[];
  insecure: boolean;
  minClients: number;
  fraction: number;
  quorum: number;
  attempts: number;
  deadline: number;
  heartbeat: number;
  evaluateEvery: number;
  maxNorm?: number;
  maxSamples?: number;
  keep: number;
}

export function serverCommand(): Command {
  const command = new Command('server')
    .description('Serves the rounds of a federation to clients on other machines (`duet client --server`).')
    .argument(
      '<initial>',
      'model folder, or safetensors file of shared parameters (--write-initial makes one)',
    )
    .option('--run <dir>', 'run folder: config, metrics, checkpoints, audit log')
    .option('--resume', 'continue what is in the run folder', false)
    .option('--rounds <count>', 'rounds', integer(1), 30)
    .addOption(
      new Option('--strategy <name>', 'how clients train and updates are combined')
        .choices(['feddat', 'fedavg'])
        .default('feddat'),
    )
    .addOption(
      new Option('--weights <kind>', "a client's share of the average")
        .choices(['samples', 'uniform'])
        .default('samples'),
    )
    .addOption(
      new Option('--gated-with <adapter>', 'FedDAT: shared adapter of a gated evaluation')
        .choices(['received', 'aggregate'])
        .default('received'),
    )
    .option('--shared-head', 'FedAvg: the head travels, too', false)
    .option('--task <names>', 'heads of the clients', list, [DEFAULT_TASK])
    .option('--seed <integer>', 'of new adapters and of the choice of clients', integer(0), 0)
    .option('--adapter-reduction <factor>', 'width of the model / width of its adapters', integer(1), 16)
    .option('--write-initial <file>', 'write the shared parameters of <initial> and end')
    .option('--verify', 'compare audit log and metrics of the run folder <initial> and end', false);
  accessOptions(command);
  roundOptions(command);
  return command.action(serve);
}

function accessOptions(command: Command): void {
  command
    .optionsGroup('Network:')
    .option('--host <address>', 'address to listen on', '127.0.0.1')
    .option('--port <number>', 'port to listen on (0: a free one)', integer(0, 65_535), 9443)
    .option('--tls-cert <file>', "the server's certificate, PEM")
    .option('--tls-key <file>', 'its key, PEM')
    .option(
      '--client-ca <file>',
      'clients show a certificate of this authority; its common name is their name',
    )
    .option('--tokens <file>', 'clients show a token: one client a line, its name and its token')
    .option('--clients <names>', 'of those that can prove a name only these may join (default: all)', list)
    .option('--insecure', 'listen beyond this machine without TLS or without identities', false);
}

function roundOptions(command: Command): void {
  command
    .optionsGroup('Rounds:')
    .option('--min-clients <count>', 'clients that must be there before a round begins', integer(1), 1)
    .option('--fraction <share>', 'share of the clients that take part in a round', share, 1)
    .option('--quorum <share>', "share of a round's clients that must succeed (0: one is enough)", share, 0)
    .option('--attempts <count>', 'times a round is tried for its quorum', integer(1), 3)
    .option('--deadline <seconds>', 'longest time of a training, and of an evaluation', positive, 3600)
    .option('--heartbeat <seconds>', 'how often clients say that they are there', positive, 15)
    .option('--evaluate-every <rounds>', 'evaluate every so many rounds and after the last', integer(1), 1)
    .option(
      '--max-norm <norm>',
      'refuse updates that differ by more from what was sent (default: no)',
      positive,
    )
    .option('--max-samples <count>', 'refuse updates that claim more samples (default: no)', integer(1))
    .option('--keep <count>', 'checkpoints kept besides the best one', integer(1), 2);
}

async function serve(this: Command, initial: string, flags: ServerFlags): Promise<void> {
  if (flags.verify) return verify(initial);
  const { weights, gatedWith, sharedHead, writeInitial, run: runDir } = flags;
  const strategy = strategyByName(flags.strategy, {
    feddat: { weights, gatedWith },
    fedavg: { weights, sharedHead },
  });
  const shared = await initialShared(initial, strategy, flags);
  if (writeInitial !== undefined) {
    await native.writeSafetensors(writeInitial, shared, { strategy: strategy.name });
    process.stdout.write(`${writeInitial}: ${Object.keys(shared).length} shared parameters\n`);
    return;
  }
  if (runDir === undefined) this.error("error: required option '--run <dir>' not specified");
  const tokens = flags.tokens === undefined ? undefined : await readTokens(flags.tokens);
  const tls = await readTls(this, flags);
  const progress = new ProgressLine();
  const table = new NodeTable();
  await untilStopped(
    progress,
    () => `Continue with: ${resumeCommand()}`,
    async (signal) => {
      const { maxNorm, maxSamples } = flags;
      const server = new DuetServer({
        ...{ strategy, initial: shared, runDir },
        ...{ rounds: flags.rounds, resume: flags.resume, seed: flags.seed },
        ...{ host: flags.host, port: flags.port, insecure: flags.insecure },
        ...(tls && { tls }),
        ...(tokens && { tokens }),
        ...(flags.clients && { clients: flags.clients }),
        ...{ minClients: flags.minClients, sampling: { fraction: flags.fraction } },
        ...{ quorum: flags.quorum, attempts: flags.attempts, deadlineSeconds: flags.deadline },
        ...{ heartbeatSeconds: flags.heartbeat, evaluation: { every: flags.evaluateEvery } },
        limits: {
          ...(maxNorm !== undefined && { norm: maxNorm }),
          ...(maxSamples !== undefined && { samples: maxSamples }),
        },
        keepCheckpoints: flags.keep,
        onEvent: (event) => {
          const line = eventLine(event);
          // The table shows who has sent something.
          if (line !== undefined && !(process.stderr.isTTY && event.event === 'update')) table.note(line);
        },
      });
      using _ = table.follow(() => server.nodes());
      for await (const round of server.run({ signal })) table.note(serverRoundLine(round, flags.rounds));
    },
  );
  process.stdout.write(`run folder: ${runDir}\n`);
}

async function verify(runDir: string): Promise<void> {
  const rounds = await new MetricsFile<ServerRound>(join(runDir, 'metrics.jsonl')).read();
  const { lines, head } = await verifyAudit(join(runDir, 'audit.jsonl'), rounds);
  process.stdout.write(
    `${lines.length} lines of audit.jsonl fit each other and ${rounds.length} rounds\nlast line: ${head}\n`,
  );
}

/** What of a model travels, or what a file holds. */
async function initialShared(
  path: string,
  strategy: Strategy,
  { task: tasks, adapterReduction, seed }: ServerFlags,
): Promise<Record<string, TensorData>> {
  const found = await stat(path).catch((error) => {
    throw ioError(error, `read ${path}`);
  });
  if (!found.isDirectory()) return (await native.readSafetensors(path)).tensors;
  using model = await Vilt.fromPretrained(path, { adapters: { reduction: adapterReduction }, seed });
  const names = model.names((name) => tasks.some((task) => strategy.isShared(name, task)));
  return model.withShapes(await model.read(names));
}

async function readTls(command: Command, flags: ServerFlags): Promise<ServerTls | undefined> {
  const { tlsCert, tlsKey, clientCa } = flags;
  if (tlsCert === undefined && tlsKey === undefined && clientCa === undefined) return undefined;
  if (tlsCert === undefined || tlsKey === undefined)
    command.error('error: expected --tls-cert and --tls-key together, and both with --client-ca');
  const [cert, key] = [await pem(tlsCert), await pem(tlsKey)];
  const ca = clientCa === undefined ? undefined : await pem(clientCa);
  const names = { cert: `--tls-cert ${tlsCert}`, key: `--tls-key ${tlsKey}`, ca: `--client-ca ${clientCa}` };
  checkPem({ cert, key, ca }, names);
  return { cert, key, ...(ca !== undefined && { clientCa: ca }) };
}

function pem(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((error) => {
    throw ioError(error, `read ${path}`);
  });
}
