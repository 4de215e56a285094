/** The lines of `duet golden`. */

import type { Outcome } from '../golden/case.js';

const MARKS = { pass: 'pass', fail: 'FAIL', skipped: 'skip' };

export function formatOutcome(outcome: Outcome, width: number): string {
  const name = outcome.name.padEnd(width);
  const { worst, reason } = outcome;
  if (!worst) return `${MARKS[outcome.status]}  ${name}  ${reason ?? ''}`.trimEnd();
  const numbers = `error ${worst.error.toExponential(1)} of ${worst.tolerance.toExponential(1)}`;
  const where = outcome.status === 'fail' ? `at ${worst.what}` : `${outcome.compared} numbers`;
  return `${MARKS[outcome.status]}  ${name}  ${numbers.padEnd(24)}  ${where}`;
}

export function summaryOf(outcomes: readonly Outcome[]): string {
  const count = (status: Outcome['status']) => outcomes.filter((outcome) => outcome.status === status).length;
  return `${count('pass')} passed, ${count('fail')} failed, ${count('skipped')} skipped`;
}
