// Builds what is asked for, and only what changed.
//
//   npm run build            the addon (build/Release/duet.node) and the TypeScript (dist)
//   npm run build:native     the addon alone
//   npm run build:ts         the TypeScript alone
//   npm run build:cuda       the CUDA plugin too, where nvcc is found: every kernel for every GPU, which takes minutes
//   node scripts/build.mjs native ts bench     the benchmarks too (dist-bench)
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { fail, hasProgram, jobs, root, runModule, withLock } from './common.mjs';
import { setup } from './setup.mjs';

/** A build folder whose configuration broke off, belongs to another place or lost its tools starts afresh. */
function dropForeignBuild(folder) {
  const cacheFile = path.join(folder, 'CMakeCache.txt');
  if (!existsSync(cacheFile)) return;
  const cache = readFileSync(cacheFile, 'utf8');
  const value = (name) => new RegExp(`^${name}:[A-Z]+=(.*)$`, 'm').exec(cache)?.[1];
  const usable =
    ['Makefile', 'build.ninja'].some((name) => existsSync(path.join(folder, name))) &&
    value('CMAKE_HOME_DIRECTORY') === root &&
    [value('CMAKE_CXX_COMPILER'), value('CMAKE_MAKE_PROGRAM')].every((tool) => tool && existsSync(tool));
  if (!usable) rmSync(folder, { recursive: true, force: true });
}

/** Configures (once) and builds the addon with cmake-js into `<folder>/Release/duet.node`. */
export function buildNative(folder = 'build', definitions = []) {
  const out = path.join(root, folder);
  withLock('build', () => {
    dropForeignBuild(out);
    const options = ['--directory', root, '--out', out, '--parallel', jobs, '--log-level', 'error'];
    runModule('cmake-js/bin/cmake-js', [
      'build',
      '--prefer-make',
      ...options,
      ...definitions.map((d) => `--CD${d}`),
    ]);
  });
}

/** The addon with its CUDA plugin beside it; later builds of the addon keep it current. */
function buildCuda() {
  if (hasProgram('nvcc') || process.env.CUDACXX) buildNative('build', ['DUET_CUDA=ON']);
  else
    process.stderr.write(
      'No CUDA plugin: nvcc was not found (it is needed to build the plugin, not to use it)\n',
    );
}

/** Compiles the TypeScript of one tsconfig. */
export function buildTypeScript(project) {
  withLock('build', () => runModule('typescript/bin/tsc', ['-p', project]));
}

/** What was compiled from a source file that is gone must not stay in the package. */
function sweep(output, sources) {
  const folder = path.join(root, output);
  if (!existsSync(folder)) return;
  for (const name of readdirSync(folder, { recursive: true })) {
    const source = /^(.*?)\.(?:d\.ts|js)$/.exec(name)?.[1];
    if (source && !existsSync(path.join(root, sources, `${source}.ts`))) rmSync(path.join(folder, name));
  }
}

export function build(parts) {
  setup();
  for (const part of parts) {
    if (part === 'native') buildNative();
    else if (part === 'cuda') buildCuda();
    else if (part === 'ts') {
      buildTypeScript('tsconfig.json');
      sweep('dist', 'src');
      const command = path.join(root, 'dist/cli/main.js');
      if (existsSync(command)) chmodSync(command, 0o755);
    } else if (part === 'bench') buildTypeScript('tsconfig.bench.json');
    else fail(`Expected native, cuda, ts or bench but received ${part}`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const parts = process.argv.slice(2);
  build(parts.length > 0 ? parts : ['native', 'ts']);
}
