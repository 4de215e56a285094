/** duet info: versions and what this machine offers. */

import { availableParallelism, totalmem } from 'node:os';
import { Command } from 'commander';
import { addonPath } from '../native.js';
import { versions } from '../run/versions.js';

export function infoCommand(): Command {
  return new Command('info')
    .description('Prints versions, the native addon in use and what this machine offers.')
    .option('--json', 'as JSON', false)
    .action((flags: { json: boolean }) => {
      const facts = {
        ...versions(),
        addon: addonPath(),
        processors: availableParallelism(),
        memoryGB: Math.round(totalmem() / 1e8) / 10,
      };
      if (flags.json) {
        process.stdout.write(`${JSON.stringify(facts, null, 2)}\n`);
        return;
      }
      for (const [name, value] of Object.entries(facts))
        process.stdout.write(`${name.padEnd(11)} ${value}\n`);
    });
}
