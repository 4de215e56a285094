/** What training a frame generation network will take of the memory, as a small table. */

import { totalmem } from 'node:os';
import { DuetError } from '../errors.js';
import type { MemoryPlan } from '../native/stickers.js';
import { bytes } from '../report/words.js';

const WORDS: [keyof MemoryPlan, string][] = [
  ['parameters', 'weights'],
  ['gradients', 'gradients'],
  ['moments', 'moments of the optimizer'],
  ['averages', 'moving averages'],
  ['activations', 'activations of the largest step'],
];

export function totalBytes(plan: MemoryPlan): number {
  return WORDS.reduce((sum, [part]) => sum + plan[part], 0);
}

/**
 * Refuses what this machine cannot hold, which the system would otherwise end without a word.
 * @throws DuetError INVALID_ARGUMENT
 */
export function requireMemory(plan: MemoryPlan, available = totalmem()): void {
  const wanted = totalBytes(plan);
  if (wanted <= available) return;
  throw new DuetError(
    'INVALID_ARGUMENT',
    `Expected a training that fits into the ${bytes(available)} of this machine but it needs ${bytes(wanted)}, ` +
      `${bytes(plan.activations)} of them activations; set patch to 2 (a quarter of the work), make ` +
      'batchSize smaller and accumulation larger, set gradientCheckpointing, or take a smaller network or size',
  );
}

/** A line for every part that takes something, and their sum. */
export function memoryTable(plan: MemoryPlan): string {
  const rows = WORDS.filter(([part]) => plan[part] > 0).map(
    ([part, words]) => [words, bytes(plan[part])] as const,
  );
  const lines = [['memory', ''] as const, ...rows, ['together', bytes(totalBytes(plan))] as const];
  const width = (column: 0 | 1) => Math.max(...lines.map((line) => line[column].length));
  const [left, right] = [width(0), width(1)];
  return lines.map(([words, size]) => `${words.padEnd(left)}  ${size.padStart(right)}`.trimEnd()).join('\n');
}
