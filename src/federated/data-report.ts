/** What a run trains and evaluates on, and what had to be left out: the file data.json of its folder. */

import { type DatasetCounts, SkipReport } from '../data/report.js';
import type { BatchSource } from './batch-source.js';

/** One entry a source (a client's training or evaluation data) that can tell; see `DatasetCounts`. */
export interface DataReport {
  /** Of the trainees; a pooled strategy has one. */
  train: DatasetCounts[];
  /** Of the clients that are evaluated. */
  evaluation: DatasetCounts[];
}

/** Reports of sources; bad entries that belong to none of them come last, once. */
export function reportsOf(sources: readonly (BatchSource | undefined)[]): DatasetCounts[] {
  const reports: DatasetCounts[] = [];
  const unassigned = new SkipReport();
  for (const source of sources) {
    if (source?.report) reports.push(source.report);
    if (source?.unassigned) unassigned.include(source.unassigned);
  }
  if (unassigned.size > 0) reports.push(unassigned.asCounts('entries without an id of their own'));
  return reports;
}
