// Brings a bare machine to where the package can be built: system packages, then npm packages.
//
//   npm run setup
//
// Plain Node without dependencies. Looks first and does only what is missing, so a second run changes
// nothing and needs no network. System packages are installed with apt-get where that is allowed
// (root, or sudo without a password); otherwise one line says what to run.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { fail, hasProgram, outputOf, root, tryRun, withLock } from './common.mjs';

function checkNode() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    fail(
      `Expected Node 20.19 or newer but this is ${process.versions.node}: install a newer Node and run again`,
    );
  }
}

/** Can a C++ program with these headers and libraries be compiled and linked? */
function links(code, flags) {
  const compiler = process.env.CXX ?? (hasProgram('g++') ? 'g++' : 'clang++');
  return outputOf(compiler, ['-x', 'c++', '-', '-o', '/dev/null', ...flags], { input: code }) !== undefined;
}

/** The system packages that are missing, by their Debian names. */
function missingPackages() {
  const missing = [];
  if (!hasProgram('g++') && !hasProgram('clang++')) missing.push('g++');
  if (!hasProgram('cmake')) missing.push('cmake');
  if (!hasProgram('make') && !hasProgram('ninja')) missing.push('make');
  if (missing.includes('g++')) return [...missing, 'libdnnl-dev', 'nlohmann-json3-dev'];
  if (!links('#include <omp.h>\nint main() { return omp_get_max_threads() == 0; }', ['-fopenmp'])) {
    missing.push(hasProgram('g++') ? 'g++' : 'libomp-dev');
  }
  const prefix = process.env.DNNL_ROOT;
  const flags = prefix ? [`-I${prefix}/include`, `-L${prefix}/lib`, `-L${prefix}/lib64`] : [];
  const dnnl = '#include <oneapi/dnnl/dnnl.h>\nint main() { return dnnl_version() == nullptr; }';
  if (!links(dnnl, [...flags, '-ldnnl', '-Wl,--unresolved-symbols=ignore-in-shared-libs'])) {
    missing.push('libdnnl-dev');
  }
  const json = '#if !__has_include(<nlohmann/json.hpp>)\n#error missing\n#endif';
  if (!links(json, ['-fsyntax-only'])) missing.push('nlohmann-json3-dev');
  return missing;
}

/** Installs Debian packages; where that does not work, says why and what does. */
function installPackages(names, purpose) {
  if (names.length === 0) return undefined;
  const instruction = `sudo apt-get update && sudo apt-get install -y --no-install-recommends ${names.join(' ')}`;
  const asRoot = process.getuid?.() === 0;
  const allowed = asRoot || outputOf('sudo', ['-n', 'true']) !== undefined;
  if (!hasProgram('apt-get') || !allowed)
    return `System packages are missing for ${purpose}. Run: ${instruction}`;
  process.stderr.write(`Installing system packages for ${purpose}: ${names.join(' ')}\n`);
  const apt = (args) => {
    const command = ['apt-get', '-qq', '-o', 'Dpkg::Use-Pty=0', ...args];
    if (!asRoot) command.unshift('sudo', '-n', 'DEBIAN_FRONTEND=noninteractive');
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    return tryRun(command[0], command.slice(1), { env, stdio: ['ignore', 2, 2] });
  };
  const install = ['install', '-y', '--no-install-recommends', ...names];
  // Package lists may be fresh already; without network an update fails where the install still works.
  if (apt(['update']) !== 0) process.stderr.write('apt-get update failed; trying with the lists at hand\n');
  if (apt(install) === 0) return undefined;
  return `The system packages for ${purpose} could not be installed. Run: ${instruction}`;
}

/** Of these the tests take the first that is there (tests/browser-support.ts). */
const browsers = ['chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome'];

/** A browser for the tests that open generated files; without one they are skipped. */
export function setupBrowser() {
  if (process.env.DUET_BROWSER || browsers.some(hasProgram)) return;
  const problem = installPackages(['chromium-headless-shell'], 'the browser tests');
  if (problem) process.stderr.write(`${problem}\nWithout it the browser tests are skipped\n`);
}

/** For the emulated GPU of the tests; without it they run on the CPU alone. */
export function setupEmulation() {
  const code = '#if !__has_include(<boost/context/fiber.hpp>)\n#error missing\n#endif';
  if (links(code, ['-fsyntax-only'])) return;
  const problem = installPackages(['libboost-context-dev'], 'the tests on an emulated GPU');
  if (problem) process.stderr.write(`${problem}\nWithout it GPU kernels are not tested\n`);
}

/**
 * Does node_modules hold what package-lock.json says? npm writes its own record of what it installed,
 * as its last act; packages for other platforms may be absent from it.
 */
function modulesAreCurrent() {
  const record = path.join(root, 'node_modules', '.package-lock.json');
  if (!existsSync(record)) return false;
  const wanted = JSON.parse(readFileSync(path.join(root, 'package-lock.json'), 'utf8')).packages;
  const installed = JSON.parse(readFileSync(record, 'utf8')).packages;
  for (const [name, entry] of Object.entries(wanted)) {
    if (name === '') continue;
    const found = installed[name];
    if (!found && (entry.optional || entry.peer)) continue;
    if (found?.version !== entry.version || found?.integrity !== entry.integrity) return false;
  }
  return Object.keys(installed).every((name) => name in wanted);
}

/** Everything a build needs. `extras` maps further programs to Debian packages (python3 for the prebuild). */
export function setup(extras = {}) {
  checkNode();
  const programs = Object.entries(extras).filter(([program]) => !hasProgram(program));
  const names = [...new Set([...missingPackages(), ...programs.map(([, name]) => name)])];
  const problem = installPackages(names, 'the native build');
  if (problem) fail(problem);
  if (modulesAreCurrent()) return;
  withLock('install', () => {
    if (modulesAreCurrent()) return;
    process.stderr.write('Installing npm packages as package-lock.json says\n');
    const npm = process.platform === 'win32' ? 'npm.cmd' : 'npm';
    const args = ['ci', '--prefer-offline', '--no-audit', '--no-fund', '--loglevel=error'];
    if (tryRun(npm, args, { stdio: ['ignore', 2, 2] }) !== 0) {
      fail('The npm packages could not be installed. Run, with a network: npm ci');
    }
  });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) setup();
