// Everything a change must pass, in one command on a bare machine:
//
//   npm test                     setup, style, types, build, tests
//   npm test -- tests/x.test.ts  arguments go to vitest (file names, -t <name>, ...)
//
// The last line printed is `N passed, N failed, N skipped`; the exit code is 0 only if all is well.
import { mkdirSync, rmSync } from 'node:fs';
import path from 'node:path';
import { build } from './build.mjs';
import { root, run } from './common.mjs';
import { setup, setupBrowser, setupEmulation } from './setup.mjs';
import { runTests } from './vitest.mjs';

setup({ python3: 'python3', strip: 'binutils', 'clang-format': 'clang-format', openssl: 'openssl' });
setupBrowser();
setupEmulation();
for (const script of ['lint', 'typecheck']) run(process.execPath, [path.join(root, `scripts/${script}.mjs`)]);
build(['native', 'ts']);
const cache = path.join(root, '.cache');
mkdirSync(cache, { recursive: true });
const report = path.join(cache, `vitest-${process.pid}.json`);
const { status, line } = runTests(process.argv.slice(2), { report });
rmSync(report, { force: true });
process.stdout.write(`${line}\n`);
process.exitCode = status;
