// Checks style, or mends it:
//
//   npm run lint      Biome (lint, format, import order), clang-format and gaps in the API docs, as checks
//   npm run format    the same tools, writing what they can mend
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { hasProgram, outputOf, root, run, runModule, tryRun } from './common.mjs';
import { setup } from './setup.mjs';

// Other versions of clang-format lay out a few constructs differently; this one is Debian 12's.
const clangFormatMajor = '14';

function cppFiles() {
  const files = ['native', 'binding'].flatMap((folder) =>
    readdirSync(path.join(root, folder), { recursive: true }).map((name) => path.join(folder, name)),
  );
  return files.filter((name) => /\.(cpp|h|cu|cuh)$/.test(name) && !name.includes('build')).sort();
}

function clangFormat() {
  const versionOf = (name) => /version (\d+)/.exec(outputOf(name, ['--version']) ?? '')?.[1];
  const names = ['clang-format', `clang-format-${clangFormatMajor}`].filter(hasProgram);
  const found = names.find((name) => versionOf(name) === clangFormatMajor);
  if (!found) {
    const reason = names.length > 0 ? `this is version ${versionOf(names[0])}` : 'it is not installed';
    process.stderr.write(`C++ layout not checked: it follows clang-format ${clangFormatMajor}, ${reason}\n`);
  }
  return found;
}

const write = process.argv.includes('--write');
setup();
runModule('@biomejs/biome/bin/biome', ['check', '--error-on-warnings', ...(write ? ['--write'] : [])]);
if (!write) run(process.execPath, [path.join(root, 'scripts/docs.mjs'), '--check']);
const formatter = clangFormat();
if (formatter) {
  const status = tryRun(formatter, [...(write ? ['-i'] : ['--dry-run', '-Werror']), ...cppFiles()]);
  if (status !== 0) process.stderr.write('C++ layout differs from .clang-format. Run: npm run format\n');
  process.exitCode = status;
}
