/** duet info: versions and what this machine offers; duet inspect: what it can compute with. */

import { availableParallelism, totalmem } from 'node:os';
import { Command } from 'commander';
import { type Inspection, inspect } from '../device.js';
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

export function inspectCommand(): Command {
  return new Command('inspect')
    .description('Prints the devices there are, which one --device auto takes, and why a GPU is not used.')
    .option('--json', 'as JSON', false)
    .action((flags: { json: boolean }) => {
      const found = inspect();
      process.stdout.write(flags.json ? `${JSON.stringify(found, null, 2)}\n` : inspectionLines(found));
    });
}

function inspectionLines({ auto, cpu, gpus, whyNoGpu }: Inspection): string {
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`;
  const lines = [`cpu     ${cpu.isa}, ${cpu.threads} threads, oneDNN ${cpu.onednn}`];
  for (const gpu of gpus) {
    const memory = `${gigabytes(gpu.freeBytes)} of ${gigabytes(gpu.memoryBytes)} free`;
    lines.push(`${gpu.device}  ${gpu.name}, ${gpu.architecture}, ${memory}, driver for CUDA ${gpu.driver}`);
    lines.push(`        products of bf16: ${gpu.products}`);
  }
  if (whyNoGpu !== undefined) lines.push(`no GPU  ${whyNoGpu}`);
  return `${[...lines, `auto    takes ${auto}`].join('\n')}\n`;
}
