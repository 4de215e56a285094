/** What training a frame generation network will take of the memory, as a small table. */

import { totalmem } from 'node:os';
import { DuetError } from '../errors.js';
import type { MemoryPlan } from '../native/stickers.js';
import { bytes } from '../report/words.js';

/** What the memory of a training depends on, of its settings. */
export interface MemorySettings {
  space: 'pixels' | object;
  patch: number;
  /** Pixels a side of the clips. */
  size: number;
  batchSize: number;
  gradientCheckpointing: boolean;
}

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
 * @throws DuetError INVALID_ARGUMENT with what can still be done
 */
export function requireMemory(plan: MemoryPlan, settings: MemorySettings, available = totalmem()): void {
  const wanted = totalBytes(plan);
  if (wanted <= available) return;
  throw new DuetError(
    'INVALID_ARGUMENT',
    `Expected a training that fits into the ${bytes(available)} of this machine but it needs ${bytes(wanted)}, ` +
      `${bytes(plan.activations)} of them activations; ${advice(settings)}`,
  );
}

/** What of the settings takes the most and can still be changed. */
function advice({ space, patch, size, batchSize, gradientCheckpointing }: MemorySettings): string {
  const larger = patch < 2 ? 2 : 4;
  const ways = [
    space === 'pixels' && patch < larger && size % larger === 0 && `set patch (--patch) to ${larger}`,
    batchSize > 1 && 'make batchSize (--batch-size) smaller and accumulation (--accumulation) larger for it',
    !gradientCheckpointing && 'set gradientCheckpointing (--checkpointing)',
    'take a smaller network or size',
  ].filter((way) => way !== false);
  return ways.length === 1 ? String(ways) : [...ways.slice(0, -1), `or ${ways.at(-1)}`].join(', ');
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
