// What a benchmark of two sides reports of one case, and how it reads.
import type { ProductRates } from './product-rate.js';
import { alignRows, digits, gigabytes, percent, type Summary, seconds } from './statistics.js';

/** Times are of one step, in seconds. */
export interface Side extends Summary {
  name: string;
  seconds: number[];
  /** Median processor time of a step over all threads. It suffers less than wall time when the machine is not quiet. */
  processorSeconds: number;
  /** Processor time of each step. */
  processorSteps: number[];
  /** Processor time over wall time times threads; well below 1, something else was running or a thread was waiting. */
  processorUse: number;
  /** Largest resident size of the process, and the one before a model existed. */
  peakBytes: number;
  importedBytes: number;
  memory?: { parameterBytes: number; arenaPeakBytes: number };
}

export interface CaseResult {
  title: string;
  dtype: 'fp32' | 'bf16';
  threads: number;
  /** The sides ran one after the other, not taking turns. */
  apart: boolean;
  ours: Side;
  /** FLOP of our passes, and how many forwards that is. */
  work: { total: number; parts: Record<string, number>; forwards?: number };
  /** Rates of packed products, measured before and after; the faster. */
  rates: ProductRates;
  /** Time of our work at that rate. */
  floorSeconds: number;
  /** floorSeconds over our median: share of the product rate reached over the whole step. */
  ofRate: number;
  /** The same with processor time instead of time. */
  ofRateByProcessor: number;
  // With a peer:
  peer?: Side;
  /** FLOP of the peer's passes. */
  peerWork?: number;
  /** The peer's median over ours; above 1 we are faster. */
  ratio?: number;
  /** The same ratio of each pair of neighbouring steps. */
  pairs?: Summary;
  /** The ratio of the processor times. */
  processorRatio?: number;
  /** Our peak memory over the peer's; below 1 we need less. */
  memoryRatio?: number;
  /** The ratio at which our step would run at the full product rate: no schedule of this work is faster. */
  ratioAtFloor?: number;
  /** Relative difference of the losses of both sides. */
  lossDifference?: { firstStep: number; largest: number };
}

export function describeCase(r: CaseResult): string {
  const lines = [
    `${r.title}, ${r.dtype}, ${r.threads} threads${r.apart ? ', one side after the other' : ''}`,
  ];
  const rows = [['', 'median (range)', 'processor time', 'use', 'peak memory']];
  const row = (name: string, side: Side): string[] => [
    name,
    seconds(side),
    `${digits(side.processorSeconds)} s`,
    percent(side.processorUse),
    gigabytes(side.peakBytes),
  ];
  rows.push(row('ours', r.ours));
  if (r.peer) rows.push(row(r.peer.name, r.peer));
  lines.push(alignRows(rows));
  const { processorSteps } = r.ours;
  lines.push(
    `processor times of our steps, s: ${processorSteps.map(digits).join(' ')}; the least ${digits(Math.min(...processorSteps))}`,
  );
  if (Math.min(r.ours.processorUse, r.peer?.processorUse ?? 1) < 0.85) {
    lines.push(
      'The threads had to wait for processors: these times are of a machine that was busy with other things.',
    );
  }
  if (r.ratio !== undefined && r.pairs && r.memoryRatio !== undefined && r.ratioAtFloor !== undefined) {
    lines.push(
      `ratio of times ${r.ratio.toFixed(2)} (pairs ${r.pairs.min.toFixed(2)} to ${r.pairs.max.toFixed(2)}); ` +
        `at the full product rate it would be ${r.ratioAtFloor.toFixed(2)}`,
      `ratio of processor times ${(r.processorRatio ?? Number.NaN).toFixed(2)}, of peak memory ${r.memoryRatio.toFixed(2)}`,
    );
  }
  lines.push(
    `work ${digits(r.work.total / 1e9)} GFLOP` +
      (r.work.forwards ? ` = ${r.work.forwards.toFixed(2)} forwards` : '') +
      (r.peerWork ? ` (published order: ${digits(r.peerWork / 1e9)} GFLOP)` : ''),
    `floor ${digits(r.floorSeconds)} s at ${r.rates.gflops.toFixed(0)} GFLOP/s of packed products; ` +
      `we reach ${percent(r.ofRate)} of that rate over the whole step, ${percent(r.ofRateByProcessor)} by processor time`,
  );
  if (r.lossDifference) {
    const { firstStep, largest } = r.lossDifference;
    lines.push(
      `losses differ by ${firstStep.toExponential(1)} at the first step, ${largest.toExponential(1)} at most`,
    );
  }
  return lines.join('\n');
}
