/**
 * Tables of accuracies: strategies and kinds of evaluation down, clients (or question types) across, in percent, with mean and
 * standard deviation over seeds where there are several.
 */

import Table from 'cli-table3';
import type { EvaluationReport } from '../federated/evaluation.js';
import { EVALUATION_WORDS } from './words.js';

/** The last evaluation of one run. */
export interface RunResult {
  strategy: string;
  seed: number;
  evaluation: EvaluationReport;
}

export type TableFormat = 'plain' | 'markdown';

/** One column a client, and their mean. */
export function accuracyTable(results: readonly RunResult[], format: TableFormat = 'plain'): string {
  const clients = unique(
    results.flatMap((result) => result.evaluation.clients.map((client) => client.client)),
  );
  const rows = rowsOf(results).map(({ strategy, evaluation, runs }) => [
    strategy,
    EVALUATION_WORDS[evaluation] ?? evaluation,
    ...clients.map((name) =>
      percent(runs.map((run) => run.clients.find((client) => client.client === name)?.accuracy[evaluation])),
    ),
    percent(runs.map((run) => run.mean[evaluation])),
  ]);
  return drawn(['strategy', 'evaluated', ...clients, 'mean'], rows, format);
}

/** One row a question type, one column a strategy and kind of evaluation. */
export function questionTypeTable(results: readonly RunResult[], format: TableFormat = 'plain'): string {
  const types = unique(
    results.flatMap((result) => Object.keys(result.evaluation.questionTypes ?? {})),
  ).sort();
  const columns = rowsOf(results);
  const rows = types.map((type) => {
    const samples = results.find((result) => result.evaluation.questionTypes?.[type])?.evaluation
      .questionTypes?.[type];
    return [
      type,
      String(samples?.samples ?? 0),
      ...columns.map(({ evaluation, runs }) =>
        percent(runs.map((run) => run.questionTypes?.[type]?.accuracy[evaluation])),
      ),
    ];
  });
  const many = (strategy: string) => columns.filter((column) => column.strategy === strategy).length > 1;
  const head = columns.map(({ strategy, evaluation }) =>
    many(strategy) ? `${strategy} ${evaluation}` : strategy,
  );
  return drawn(['question type', 'questions', ...head], rows, format);
}

interface Row {
  strategy: string;
  evaluation: string;
  runs: EvaluationReport[];
}

function rowsOf(results: readonly RunResult[]): Row[] {
  return unique(results.map((result) => result.strategy)).flatMap((strategy) => {
    const runs = results.filter((result) => result.strategy === strategy).map((result) => result.evaluation);
    return unique(runs.flatMap((run) => Object.keys(run.mean))).map((evaluation) => ({
      strategy,
      evaluation,
      runs,
    }));
  });
}

/** `56.3` or, over several seeds, `56.3 ± 0.4` (sample standard deviation). */
export function percent(values: readonly (number | undefined)[]): string {
  const known = values.filter((value) => value !== undefined);
  if (known.length === 0) return '-';
  const mean = known.reduce((sum, value) => sum + value, 0) / known.length;
  if (known.length === 1) return (100 * mean).toFixed(1);
  const variance = known.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (known.length - 1);
  return `${(100 * mean).toFixed(1)} ± ${(100 * Math.sqrt(variance)).toFixed(1)}`;
}

function drawn(head: string[], rows: string[][], format: TableFormat): string {
  const numeric = (index: number) => index > 0 && rows.every((row) => /^(-|\d)/.test(row[index] ?? '-'));
  const aligns = head.map((_, index) => (numeric(index) ? ('right' as const) : ('left' as const)));
  if (format === 'markdown') {
    const rule = aligns.map((align) => (align === 'right' ? '---:' : '---'));
    return [head, rule, ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
  }
  const table = new Table({ head, colAligns: aligns, style: { head: [], border: [], compact: true } });
  table.push(...rows);
  return table.toString();
}

function unique(values: readonly string[]): string[] {
  return [...new Set(values)];
}
