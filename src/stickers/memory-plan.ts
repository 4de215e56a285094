/** What training a frame generation network will take of the memory, as a small table. */

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
