// Makes the binary that travels in the package: prebuilds/<platform>-<arch>/ with the stripped addon
// and, beside it, the oneDNN and OpenMP libraries it was built with, found through rpath $ORIGIN, and the
// CUDA plugin where it has been built (npm run build:cuda).
//
//   npm run prebuilds      (npm pack and npm publish run it by themselves)
//
// It is not called `prebuild` because npm would then run it before every `npm run build`.
// cmake-js builds the addon; prebuildify, which only knows node-gyp, works on the shim folder
// binding/prebuild, whose binding.gyp compiles nothing and copies what is built. Ends with a proof:
// the folder is copied away, every library must be found beside the addon, and Node must load it.
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { build } from './build.mjs';
import { fail, outputOf, root, run, runModule, withLock } from './common.mjs';
import { setup } from './setup.mjs';

const folder = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`);

/** Loaded by the addon when a GPU is asked for. */
const plugin = 'duet-cuda.so';

function packPlugin() {
  const built = path.join(root, 'build/Release', plugin);
  if (!existsSync(built)) return;
  const packed = path.join(folder, plugin);
  cpSync(built, packed);
  run('strip', ['--strip-unneeded', packed]);
}

/** Node's own headers, where they lie beside the binary: node-gyp then downloads nothing. */
function nodeDirectory() {
  const prefix = path.resolve(path.dirname(process.execPath), '..');
  return existsSync(path.join(prefix, 'include/node/common.gypi')) ? { npm_config_nodedir: prefix } : {};
}

function verify() {
  const away = mkdtempSync(path.join(os.tmpdir(), 'duet-prebuild-'));
  try {
    cpSync(folder, away, { recursive: true });
    const addon = readdirSync(away).find((name) => name.endsWith('.node'));
    if (!addon) fail(`Expected an addon in ${folder} but found ${readdirSync(away).join(', ')}`);
    const libraries = outputOf('ldd', [path.join(away, addon)]) ?? '';
    if (/not found/.test(libraries)) fail(`The packed addon misses a library:\n${libraries}`);
    for (const name of readdirSync(away).filter((file) => /\.so(\.\d+)?$/.test(file) && file !== plugin)) {
      if (!libraries.includes(path.join(away, name)))
        fail(`${name} was not taken from beside the addon:\n${libraries}`);
    }
    run(process.execPath, ['-e', `require(${JSON.stringify(path.join(away, addon))})`]);
  } finally {
    rmSync(away, { recursive: true, force: true });
  }
}

setup({ python3: 'python3', strip: 'binutils' });
withLock('build', () => {
  build(['native', 'ts']);
  rmSync(folder, { recursive: true, force: true });
  const options = ['--napi', '--strip', '--tag-libc', '--cwd', 'binding/prebuild', '--out', '.'];
  runModule('prebuildify/bin.js', [...options, '-t', process.versions.node, '--quiet'], {
    env: { ...process.env, ...nodeDirectory() },
  });
  const licences = path.join(root, 'binding/prebuild/build/Release/LICENSES.txt');
  if (existsSync(licences)) cpSync(licences, path.join(folder, 'LICENSES.txt'));
  packPlugin();
  verify();
});
const sizes = readdirSync(folder).map((name) => {
  const bytes = statSync(path.join(folder, name)).size;
  return `${name} (${(bytes / 1e6).toFixed(1)} MB)`;
});
process.stderr.write(`${path.relative(root, folder)}: ${sizes.join(', ')}\n`);
