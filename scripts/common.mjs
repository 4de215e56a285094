// What the scripts share: the package root, running a command, and letting two builds take turns.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..');
export const jobs = String(process.env.DUET_JOBS ?? os.availableParallelism());

/** Ends the script with one line on stderr. */
export function fail(message, code = 1) {
  process.stderr.write(`${message}\n`);
  process.exit(code);
}

/** Runs a command in the package root with its output shown; returns its exit code (1 for a signal). */
export function tryRun(command, args, options = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options });
  if (result.error) fail(`${command} could not be started: ${result.error.message}`);
  return result.status ?? 1;
}

/** Runs a command; ends this script with the command's exit code if it fails. */
export function run(command, args, options = {}) {
  const status = tryRun(command, args, options);
  if (status !== 0) {
    fail(`Failed with exit code ${status}: ${[path.basename(command), ...args].join(' ')}`, status);
  }
}

/** Runs the JavaScript entry point of an installed package with this very Node. */
export function runModule(relativePath, args, options = {}) {
  run(process.execPath, [path.join(root, 'node_modules', relativePath), ...args], options);
}

/** The output of a command, or undefined when it is missing or fails. */
export function outputOf(command, args, options = {}) {
  const result = spawnSync(command, args, { encoding: 'utf8', ...options });
  return result.status === 0 ? result.stdout.trim() : undefined;
}

/** Is there such a program in PATH? */
export function hasProgram(name) {
  return (process.env.PATH ?? '')
    .split(path.delimiter)
    .some((dir) => dir && existsSync(path.join(dir, name)));
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}

/**
 * Does `work` while no other script of this checkout holds the lock `name`. The lock is a file with a
 * process id; one whose process is gone is taken over. Nested use within one process tree passes through.
 */
export function withLock(name, work) {
  const variable = `DUET_LOCK_${name.toUpperCase()}`;
  if (process.env[variable]) return work();
  const file = path.join(root, '.cache', `${name}.lock`);
  mkdirSync(path.dirname(file), { recursive: true });
  for (let told = false; ; ) {
    try {
      writeFileSync(file, String(process.pid), { flag: 'wx' });
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
      let owner = 0;
      try {
        owner = Number(readFileSync(file, 'utf8'));
      } catch {
        continue;
      }
      if (owner > 0 && !isAlive(owner)) {
        rmSync(file, { force: true });
        continue;
      }
      if (!told) process.stderr.write(`Waiting for another ${name} in this folder (process ${owner}) ...\n`);
      told = true;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
    }
  }
  const release = () => rmSync(file, { force: true });
  process.once('exit', release);
  process.env[variable] = '1';
  try {
    return work();
  } finally {
    delete process.env[variable];
    process.removeListener('exit', release);
    release();
  }
}
