#!/usr/bin/env node
/**
 * The command `duet`. Every subcommand is a file of this folder; this one only puts them together and turns errors into one line and
 * an exit code: 0 done, 1 an error (or failed reference numbers), 2 wrong usage, 130 stopped by Ctrl-C.
 */

import { Command, CommanderError } from 'commander';
import { DuetError, messageOf } from '../errors.js';
import { printable } from '../report/printable.js';
import { EXIT_STOPPED } from '../run/stop.js';
import { packageVersion } from '../run/versions.js';
import { clientCommand } from './client.js';
import { dataCommand } from './data.js';
import { exportFlowerAppCommand } from './export-flower-app.js';
import { federateCommand } from './federate.js';
import { goldenCommand } from './golden.js';
import { infoCommand, inspectCommand } from './info.js';
import { pretrainCommand } from './pretrain.js';
import { quickstartCommand } from './quickstart.js';
import { serverCommand } from './server.js';
import { stickersCommand } from './stickers.js';

export function program(): Command {
  const duet = new Command('duet')
    .description(
      'Trains what Node could not: federated vision-language models (FedDAT) and animated stickers (RDTF).',
    )
    .version(packageVersion())
    .showHelpAfterError('(--help shows the options)')
    .exitOverride();
  const commands = [
    quickstartCommand(),
    dataCommand(),
    pretrainCommand(),
    federateCommand(),
    clientCommand(),
    serverCommand(),
    exportFlowerAppCommand(),
    stickersCommand(),
    goldenCommand(),
    infoCommand(),
    inspectCommand(),
  ];
  for (const command of commands) {
    duet.addCommand(command);
    for (const one of [command, ...command.commands]) one.copyInheritedSettings(duet);
  }
  return duet;
}

/** @returns the exit code */
export async function main(argv: readonly string[]): Promise<number> {
  try {
    await program().parseAsync([...argv]);
    return Number(process.exitCode ?? 0);
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    if (error instanceof DuetError && error.code === 'CANCELLED') return EXIT_STOPPED;
    const known = error instanceof DuetError && error.code !== 'INTERNAL';
    const text = known ? error.message : error instanceof Error ? error.stack : messageOf(error);
    process.stderr.write(`duet: ${String(text).split('\n').map(printable).join('\n')}\n`);
    return 1;
  }
}

// A reader that has seen enough (`duet golden ... | head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});

process.exitCode = await main(process.argv);
