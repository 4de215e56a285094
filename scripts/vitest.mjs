// Runs vitest and counts: its own summary on the terminal, and one plain closing line for machines.
import { readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { root, tryRun } from './common.mjs';

/** `N passed, N failed, N skipped` from vitest's JSON report; a file that did not load counts as failed. */
function closingLine(report, status) {
  let results;
  try {
    results = JSON.parse(readFileSync(report, 'utf8'));
  } catch {
    return '0 passed, 1 failed, 0 skipped';
  }
  const broken = results.testResults.filter(
    (file) => file.status === 'failed' && file.assertionResults.every((test) => test.status !== 'failed'),
  );
  const counted = results.numFailedTests + broken.length;
  // An error outside every test (an unhandled rejection, a dead worker) fails the run without a test.
  const failed = status !== 0 && counted === 0 ? 1 : counted;
  const skipped = results.numPendingTests + results.numTodoTests;
  return `${results.numPassedTests} passed, ${failed} failed, ${skipped} skipped`;
}

/** Runs vitest with these arguments; gives its exit status and the closing line. */
export function runTests(args, { report, env = {} }) {
  rmSync(report, { force: true });
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile.json=${report}`];
  const command = [path.join(root, 'node_modules/vitest/vitest.mjs'), 'run', ...reporters, ...args];
  const status = tryRun(process.execPath, command, { env: { ...process.env, ...env } });
  return { status, line: closingLine(report, status) };
}
