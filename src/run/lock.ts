/**
 * One process a run folder: the file `.lock` names who writes there. It is made whole (a link to a finished file), so nobody
 * ever sees half of one, and a lock whose process is gone, or whose id now belongs to a younger process, is replaced.
 */

import { link, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { codeOf, DuetError, ioError } from '../errors.js';

interface Owner {
  pid: number;
  host: string;
  /** Start of the process as the kernel counts it; absent where it does not tell. */
  started?: string;
}

export interface Lock {
  release(): Promise<void>;
}

/** @throws DuetError IO when another live process holds the lock */
export async function lockFolder(folder: string): Promise<Lock> {
  const path = join(folder, '.lock');
  const own: Owner = { pid: process.pid, host: hostname() };
  const started = await startOf(process.pid);
  if (started !== undefined) own.started = started;
  const mine = join(folder, `.lock.${process.pid}.${Math.random().toString(36).slice(2)}`);
  try {
    await writeFile(mine, JSON.stringify(own), { flag: 'wx' });
    await claim(path, mine, folder);
    await removeLeftovers(folder);
  } catch (error) {
    throw ioError(error, `lock the run folder ${folder}`, 'choose a folder that can be written');
  } finally {
    await rm(mine, { force: true });
  }
  return { release: () => rm(path, { force: true }) };
}

async function claim(path: string, mine: string, folder: string): Promise<void> {
  for (let attempt = 0; ; attempt++) {
    try {
      await link(mine, path);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    }
    const holder = await readOwner(path);
    if (holder !== undefined && (attempt > 5 || (await isAlive(holder)))) {
      throw new DuetError(
        'IO',
        `The run folder ${folder} is in use by process ${holder.pid} on ${holder.host}; wait for it, stop it, or ` +
          `choose another folder (if no such process exists, delete ${path})`,
      );
    }
    await removeStale(path, `${mine}.stale`);
  }
}

/** Moves a lock aside before deleting it: of two processes that find it stale, one moves it. */
async function removeStale(path: string, aside: string): Promise<void> {
  try {
    await rename(path, aside);
  } catch {
    return; // another process was faster
  }
  const moved = await readOwner(aside);
  // Another process replaced the stale lock in the meantime: its lock is put back.
  if (moved !== undefined && (await isAlive(moved))) await link(aside, path).catch(() => {});
  await rm(aside, { force: true });
}

/** Files of processes that were killed while they made their lock. */
async function removeLeftovers(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    const pid = /^\.lock\.(\d+)\./.exec(name)?.[1];
    if (pid !== undefined && !(await isAlive({ pid: Number(pid), host: hostname() }))) {
      await rm(join(folder, name), { force: true });
    }
  }
}

async function readOwner(path: string): Promise<Owner | undefined> {
  try {
    const owner = JSON.parse(await readFile(path, 'utf8')) as Partial<Owner> | null;
    return typeof owner?.pid === 'number' && typeof owner.host === 'string' ? (owner as Owner) : undefined;
  } catch (error) {
    if (codeOf(error) === undefined || codeOf(error) === 'NOT_FOUND') return undefined;
    throw error;
  }
}

async function isAlive(owner: Owner): Promise<boolean> {
  if (owner.host !== hostname()) return true;
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  const started = await startOf(owner.pid);
  return owner.started === undefined || started === undefined || started === owner.started;
}

/** Field 22 of /proc/<pid>/stat: start of a process in ticks since boot. Undefined off Linux. */
async function startOf(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    // The second field is the command in parentheses and may hold anything.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}
