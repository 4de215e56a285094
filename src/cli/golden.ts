/** duet golden: reference numbers, one line a case. */

import { Command } from 'commander';
import { DuetError } from '../errors.js';
import { findCases, runCase } from '../golden/run.js';
import { formatOutcome, summaryOf } from '../report/golden.js';
import { deviceOption, type RuntimeFlags, threadsOption } from './options.js';

export function goldenCommand(): Command {
  return new Command('golden')
    .description('Compares with reference numbers of the published code and prints one line a case.')
    .argument(
      '<dir>',
      'folder of reference numbers (folders vilt_tiny, adapter, kl_loss, dat_steps, federation, ...)',
    )
    .option('--only <text>', 'run only the cases whose name contains this text')
    .addOption(deviceOption())
    .addOption(threadsOption())
    .action(async (folder: string, flags: RuntimeFlags & { only?: string }) => {
      const cases = await findCases({ folder, device: flags.device, threads: flags.threads });
      const chosen = cases.filter((one) => flags.only === undefined || one.name.includes(flags.only));
      const width = Math.max(...chosen.map((one) => one.name.length), 10);
      const outcomes = [];
      for (const one of chosen) {
        const outcome = await runCase(one);
        outcomes.push(outcome);
        process.stdout.write(`${formatOutcome(outcome, width)}\n`);
      }
      if (outcomes.length === 0) {
        throw new DuetError(
          'NOT_FOUND',
          `Expected cases to run in ${folder} but none has a name with "${flags.only}"`,
        );
      }
      process.stdout.write(`${summaryOf(outcomes)}\n`);
      if (outcomes.some((outcome) => outcome.status === 'fail')) process.exitCode = 1;
    });
}
