/**
 * Where the runs of one command lie: in the folder itself (one strategy and seed), in one folder a strategy, or in one folder a
 * strategy and seed. A folder keeps the layout it has, so that no run is trained again beside its first half.
 */

import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { exists } from '../data/files.js';
import { DuetError } from '../errors.js';
import { STRATEGY_NAMES } from '../federated/strategies/by-name.js';

const LAYOUTS = {
  single: 'one strategy and one seed',
  strategies: 'one seed, in a folder a strategy',
  seeds: 'several seeds, in a folder a strategy and seed',
} as const;

export type RunLayout = keyof typeof LAYOUTS;

const NESTED = new RegExp(`^(${STRATEGY_NAMES.join('|')})(-seed\\d+)?$`);

/** Folder of a run, relative to that of all. */
export function runName(layout: RunLayout, strategy: string, seed: number): string {
  return { single: '', strategies: strategy, seeds: `${strategy}-seed${seed}` }[layout];
}

/** @throws DuetError INVALID_ARGUMENT when the folder has runs in another layout */
export async function requireLayout(folder: string, wanted: RunLayout): Promise<void> {
  const config = (name: string) => exists(join(folder, name, 'config.json'));
  const names = await readdir(folder).catch(() => []);
  const found: [RunLayout, string][] = (await config('')) ? [['single', folder]] : [];
  for (const name of names) {
    const nested = NESTED.exec(name);
    if (nested && (await config(name))) found.push([nested[2] ? 'seeds' : 'strategies', join(folder, name)]);
  }
  const other = found.find(([layout]) => layout !== wanted);
  if (other === undefined) return;
  throw new DuetError(
    'INVALID_ARGUMENT',
    `Expected runs of ${LAYOUTS[wanted]} in ${folder} but found ${other[1]} of ${LAYOUTS[other[0]]}; ` +
      'resume with the strategies and seeds it was begun with, or choose another folder',
  );
}
