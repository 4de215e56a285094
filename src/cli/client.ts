/** duet client: one site of a federation across machines, at a Flower SuperLink or at a duet server. */

import { join } from 'node:path';
import { Command, Option } from 'commander';
import { throwIfAborted } from '../errors.js';
import type { FederatedClient } from '../federated/client.js';
import { Protection } from '../federated/privacy/protection.js';
import { Site } from '../federated/site.js';
import type { StrategyName } from '../federated/strategies/by-name.js';
import { dataLines, progressLine, siteLine } from '../report/words.js';
import { ProgressLine } from '../run/progress.js';
import { checkRunFolder } from '../run/run-folder.js';
import {
  type ConnectionFlags,
  checkConnection,
  connection,
  connectionOptions,
  refuse,
} from './client-connection.js';
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
import { integer, positive } from './options.js';
import { resumeCommand, untilStopped } from './stopping.js';

interface ProtectionFlags {
  clip?: number;
  noise?: number;
  delta: number;
  epsilon?: number;
}

interface ClientFlags
  extends ConnectionFlags,
    ProtectionFlags,
    DataFlags,
    TrainingFlags,
    StrategyFlags,
    ModelFlags {
  client: string;
  strategy: StrategyName;
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
    .option(
      '--index <number>',
      "this site's number from 0, one of its own: order of the sites and name of their draws (default: order by name, draws of 0)",
      integer(0),
    )
    .option('--rounds <count>', 'rounds of the federation, for the progress', integer(1));
  dataOptions(command, { clients: false });
  protectionOptions(command);
  strategyOptions(command, { server: false });
  return machineOptions(command).action(function (this: Command, data: string, flags: ClientFlags) {
    checkConnection(this, flags);
    checkProtection(this, flags);
    return runClient(data, flags);
  });
}

function protectionOptions(command: Command): void {
  command
    .optionsGroup('Protection of updates:')
    .option('--clip <norm>', 'scale updates down to this norm (default: no)', positive)
    .option(
      '--noise <multiplier>',
      'Gaussian noise of so many norms on every value (default: none)',
      positive,
    )
    .option('--delta <probability>', 'of what is said to be spent', positive, 1e-5)
    .option('--epsilon <limit>', 'send nothing more once it would be spent (default: no limit)', positive);
}

function checkProtection(command: Command, { clip, noise, epsilon }: ProtectionFlags): void {
  if (noise !== undefined && clip === undefined)
    refuse(command, 'Expected the --clip that --noise is a multiple of');
  if (epsilon !== undefined && noise === undefined)
    refuse(command, 'Expected the --noise that spends --epsilon');
}

/** What was spent is kept in the run folder. */
function protectionOf({ clip, noise, delta, epsilon, run }: ClientFlags): Protection | undefined {
  if (clip === undefined) return undefined;
  return new Protection({
    clip,
    ...(noise !== undefined && { noise }),
    delta,
    ...(epsilon !== undefined && { epsilon }),
    ledger: join(run, 'privacy.json'),
  });
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
      const protection = protectionOf(flags);
      using model = await openModel(flags, answers, flags.seed);
      const site = await Site.open({
        model,
        strategy: strategyOf(flags.strategy, flags),
        client: clients[0] as FederatedClient,
        ...(flags.index !== undefined && { index: flags.index }),
        ...trainingOf(flags),
        seed: flags.seed,
        ...(flags.rounds !== undefined && { rounds: flags.rounds }),
        ...(protection && { protection }),
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
        process.stdout.write(`run folder: ${flags.run}\n`);
      } finally {
        try {
          if (site.round > 0) await site.export();
        } finally {
          await site.close();
        }
      }
    },
  );
}
