// Runs the test suite against an addon built with address sanitizer (and leak sanitizer).
//
//   npm run test:asan                      the whole suite
//   npm run test:asan -- tests/ops   arguments go to vitest
//
// The addon is built into build-asan and chosen through DUET_ADDON; the sanitizer's library is
// preloaded into Node. Reports go to files, because a test runner swallows a worker's last words: a
// report of an error fails the run always, a leak only if the addon is in its stack (Node and V8 keep
// much until the end on purpose; scripts/lsan.supp names what the libraries below keep).
// use_tls=0: the leak sanitizer's scan of thread-local storage crashes in some workers as they end.
// DUET_SANITIZED=1 tells tests that measure memory, or that use the packed addon, to skip.
import { mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { buildNative, buildTypeScript } from './build.mjs';
import { fail, outputOf, root, run } from './common.mjs';
import { setup } from './setup.mjs';
import { runTests } from './vitest.mjs';

/** Is a frame of the addon in this stack? Frames carry the source file where it is known. */
function isOurs(stack) {
  return ['duet.node', `${root}/native/`, `${root}/binding/`].some((place) => stack.includes(place));
}

/** The parts of a sanitizer report that are about this package. */
function findings(text) {
  const parts = text.split(/\n(?=(?:Direct|Indirect) leak of )/);
  const leaks = parts.slice(1).filter(isOurs);
  // An error report (not leaks) stands at the start, before any leak.
  const error = /ERROR: AddressSanitizer|runtime error:/.test(parts[0]) ? [parts[0]] : [];
  return [...error, ...leaks];
}

setup();
buildNative('build-asan', ['DUET_SANITIZE=address']);
buildTypeScript('tsconfig.json');
const compiler = process.env.CXX ?? 'g++';
const library = outputOf(compiler, ['-print-file-name=libasan.so']);
if (!library?.startsWith('/'))
  fail('Expected libasan.so from the compiler but found none. Run: apt-get install g++');
const leakCheck = path.join(root, 'build-asan/leak-check.node');
const headers = path.join(root, 'node_modules/node-api-headers/include');
run(compiler, ['-x', 'c', '-shared', '-fPIC', `-I${headers}`, '-o', leakCheck, 'scripts/leak-check.c']);

const reports = path.join(root, 'build-asan', 'reports');
rmSync(reports, { recursive: true, force: true });
mkdirSync(reports, { recursive: true });
const { status, line } = runTests(process.argv.slice(2), {
  report: path.join(root, 'build-asan', 'vitest.json'),
  env: {
    LD_PRELOAD: library,
    ASAN_OPTIONS: `log_path=${reports}/report:detect_leaks=1:quarantine_size_mb=64:malloc_context_size=12`,
    LSAN_OPTIONS: `suppressions=${path.join(root, 'scripts/lsan.supp')}:print_suppressions=0:exitcode=0:use_tls=0`,
    DUET_ADDON: path.join(root, 'build-asan/Release/duet.node'),
    DUET_LEAK_CHECK: leakCheck,
    DUET_SANITIZED: '1',
    DUET_TEST_PATIENCE: '5',
  },
});
const found = readdirSync(reports).flatMap((name) =>
  findings(readFileSync(path.join(reports, name), 'utf8')),
);
for (const text of found) process.stdout.write(`\n${text}\n`);
process.stdout.write(
  `Address sanitizer: ${found.length === 0 ? 'clean' : `${found.length} findings`}\n${line}\n`,
);
process.exitCode = status !== 0 || found.length > 0 ? 1 : 0;
