/** Numbers and names as a person reads them. */

import type { DatasetCounts } from '../data/report.js';
import type { DataReport } from '../federated/data-report.js';
import type { Accuracies } from '../federated/evaluation.js';
import type { RoundReport } from '../federated/report.js';
import type { SiteProgress, SiteReport } from '../federated/site.js';
import type { EpochReport } from '../pretraining/pretraining.js';

/** What the kinds of evaluation mean. */
export const EVALUATION_WORDS: Record<string, string> = {
  gated: 'gated (own + shared)',
  local: 'own adapter',
  shared: 'shared adapter',
};

export function duration(seconds: number): string {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  if (count < 999_500) return `${(count / 1e3).toFixed(count < 99_500 ? 1 : 0)} kB`;
  if (count < 999.5e6) return `${(count / 1e6).toFixed(count < 99.5e6 ? 1 : 0)} MB`;
  return `${(count / 1e9).toFixed(count < 99.5e9 ? 1 : 0)} GB`;
}

export function accuracies(values: Accuracies | undefined): string {
  return Object.entries(values ?? {})
    .map(([name, value]) => `${name} ${(100 * value).toFixed(1)} %`)
    .join('  ');
}

/** The line of a finished round. */
export function roundLine(report: RoundReport, rounds: number, label: string): string {
  const { loss, accuracy } = report.metrics;
  const parts = [
    `${label}  round ${report.number}/${rounds}`,
    loss === undefined ? '' : `loss ${loss.toFixed(3)}`,
    accuracies(accuracy),
    report.bytes.up > 0 ? `sent ${bytes(report.bytes.up)}` : '',
    duration(report.timing.seconds),
  ];
  return parts.filter((part) => part !== '').join('  ');
}

/** The line of a site's training or evaluation. */
export function siteLine(report: SiteReport, label: string): string {
  const { round, training, evaluation, bytes: travelled, timing } = report;
  const parts = [
    `${label}  round ${round}`,
    training === undefined ? '' : `loss ${training.loss.toFixed(3)}`,
    accuracies(evaluation?.accuracy),
    travelled.up > 0 ? `update ${bytes(travelled.up)}` : '',
    duration(timing.seconds),
  ];
  return parts.filter((part) => part !== '').join('  ');
}

/** What is going on inside a round. */
export function progressLine(progress: SiteProgress, label: string, secondsLeft?: number): string {
  const { round, rounds, phase, client, batch, batches, loss } = progress;
  const parts = [
    `${label}  round ${round}${rounds === undefined ? '' : `/${rounds}`}`,
    `${phase === 'training' ? '' : 'evaluating '}${client}  batch ${batch}/${batches}`,
    loss === undefined ? '' : `loss ${loss.toFixed(3)}`,
    secondsLeft === undefined ? '' : `about ${duration(secondsLeft)} left`,
  ];
  return parts.filter((part) => part !== '').join('  ');
}

/** The line of a finished epoch of pretraining. */
export function epochLine(report: EpochReport, epochs: number): string {
  const { loss, trainAccuracy, accuracy } = report.metrics;
  const parts = [
    `pretraining  epoch ${report.number}/${epochs}`,
    `loss ${loss.toFixed(3)}`,
    `training accuracy ${(100 * trainAccuracy).toFixed(1)} %`,
    accuracy === undefined ? '' : `accuracy ${(100 * accuracy).toFixed(1)} %`,
    duration(report.timing.seconds),
  ];
  return parts.filter((part) => part !== '').join('  ');
}

/** What was left out of a run's data: one line each for training and evaluation where there is something to say. */
export function dataLines({ train, evaluation }: DataReport): string[] {
  return [
    ...leftOut('training data', train, 'nothing to learn from'),
    ...leftOut('evaluation data', evaluation, 'counted as wrong'),
  ];
}

function leftOut(name: string, reports: readonly DatasetCounts[], unanswerable: string): string[] {
  const total = (count: (report: DatasetCounts) => number) =>
    reports.reduce((sum, report) => sum + count(report), 0);
  const reasons = new Map<string, number>();
  for (const [reason, count] of reports.flatMap((report) => Object.entries(report.skipped)))
    reasons.set(reason, (reasons.get(reason) ?? 0) + count);
  const unknown = total((report) => report.unanswerable ?? 0);
  const parts = [
    reasons.size === 0
      ? ''
      : `${total(({ questions, kept }) => questions - kept)} of ${total(({ questions }) => questions)} questions skipped ` +
        `(${[...reasons].map(([reason, count]) => `${count} ${reason}`).join(', ')})`,
    unknown === 0 ? '' : `${unknown} without a known answer (${unanswerable})`,
    reports
      .flatMap(({ examples }) => examples)
      .slice(0, 1)
      .map((example) => `for example ${example}`),
  ]
    .flat()
    .filter((part) => part !== '');
  return parts.length === 0 ? [] : [`${name}: ${parts.join('; ')}`];
}
