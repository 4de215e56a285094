/** Runs strategies and seeds one after the other, each in a run folder of its own, with progress on the terminal. */

import { join } from 'node:path';
import type { FederatedClient } from '../federated/client.js';
import type { DataReport } from '../federated/data-report.js';
import { Federation } from '../federated/federation.js';
import type { FederationOptions } from '../federated/options.js';
import type { RoundReport } from '../federated/report.js';
import type { Strategy } from '../federated/strategies/strategy.js';
import type { Vilt } from '../models/vilt.js';
import type { RunResult } from '../report/accuracy.js';
import { dataLines, progressLine, roundLine } from '../report/words.js';
import type { ProgressLine } from '../run/progress.js';
import { requireLayout, runName } from './run-layout.js';

export interface RunsOptions {
  /** Made anew for every run. */
  strategies: readonly (() => Strategy)[];
  seeds: readonly number[];
  /** A fresh model with the initial adapters and heads of a seed. */
  openModel: (seed: number) => Promise<Vilt>;
  clients: readonly FederatedClient[];
  settings: Omit<FederationOptions, 'model' | 'strategy' | 'clients' | 'seed' | 'runDir' | 'onProgress'>;
  /** Folder of all runs; with one strategy and one seed it is the run folder itself, unless `nested`. */
  runDir?: string | undefined;
  nested?: boolean;
  progress: ProgressLine;
  signal: AbortSignal;
}

/** The last evaluation of every run. */
export async function runFederations(options: RunsOptions): Promise<RunResult[]> {
  const { strategies, seeds, runDir } = options;
  const alone = strategies.length === 1 && !options.nested;
  const layout = seeds.length > 1 ? 'seeds' : alone ? 'single' : 'strategies';
  if (runDir !== undefined) await requireLayout(runDir, layout);
  const results: RunResult[] = [];
  const told = new Set<string>();
  const tell = (data: DataReport) => {
    for (const line of dataLines(data)) {
      if (!told.has(line)) options.progress.note(line);
      told.add(line);
    }
  };
  for (const seed of seeds) {
    for (const make of strategies) {
      const strategy = make();
      const folder = runDir && join(runDir, runName(layout, strategy.name, seed));
      const label = seeds.length === 1 ? strategy.name : `${strategy.name} seed ${seed}`;
      const reports = await runOne(options, strategy, seed, folder, label, tell);
      const evaluation = reports.findLast((report) => report.evaluation)?.evaluation;
      if (evaluation) results.push({ strategy: strategy.name, seed, evaluation });
    }
  }
  return results;
}

async function runOne(
  options: RunsOptions,
  strategy: Strategy,
  seed: number,
  runDir: string | undefined,
  label: string,
  tell: (data: DataReport) => void,
): Promise<RoundReport[]> {
  const { progress, settings, signal } = options;
  using model = await options.openModel(seed);
  let secondsLeft: number | undefined;
  const federation = new Federation({
    ...settings,
    model,
    strategy,
    clients: options.clients,
    seed,
    ...(runDir !== undefined && { runDir }),
    onProgress: (now) => progress.update(progressLine(now, label, secondsLeft)),
  });
  tell(federation.data);
  const reports: RoundReport[] = [];
  let seconds = 0;
  const rounds = federation.run({ signal });
  for await (const report of rounds) {
    if (reports.length === 0 && federation.history.length > 0) {
      progress.note(`${label}  resumed after round ${federation.history.at(-1)?.number}`);
      for (const lost of federation.damaged) progress.note(`${label}  not readable, left out: ${lost}`);
    }
    reports.push(report);
    seconds += report.timing.seconds;
    secondsLeft = (seconds / reports.length) * (federation.settings.rounds - report.number);
    progress.note(roundLine(report, federation.settings.rounds, label));
    for (const failure of report.failures) {
      progress.note(`${label}  client ${failure.client} failed in ${failure.during}: ${failure.message}`);
    }
  }
  tell(federation.data);
  if (reports.length === 0) progress.note(`${label}  was complete before (${runDir})`);
  return [...federation.history, ...reports];
}
