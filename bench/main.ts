#!/usr/bin/env node
// Benchmarks: `npm run bench -- <name> [options] [--json]`. Without a name the benchmarks are listed.
import { Command } from 'commander';
import { addCompression } from './compression.js';
import { addDfgnSample, addDfgnStep } from './dfgn-step.js';
import { addFeddatStep } from './feddat-step.js';
import { addFlowerLoad } from './flower-load.js';
import { addProductRate } from './product-rate.js';
import { addServerLoad } from './server-load.js';

const program = new Command('npm run bench --')
  .description('Measures duet-train. Times depend on the machine; ratios are taken within one run.')
  .helpCommand(false)
  .showHelpAfterError()
  .action(() => program.outputHelp());

addFeddatStep(program);
addDfgnStep(program);
addDfgnSample(program);
addProductRate(program);
addFlowerLoad(program);
addCompression(program);
addServerLoad(program);

try {
  await program.parseAsync();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}
