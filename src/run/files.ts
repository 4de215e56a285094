/** Small files of a run folder, written so that a crash leaves the old or the new content, never half of one. */

import {
  access,
  constants,
  type FileHandle,
  mkdir,
  open,
  readFile,
  rename,
  rm,
  stat,
} from 'node:fs/promises';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { requireText } from '../arguments.js';
import { codeOf, DuetError, ioError } from '../errors.js';

/** Makes a folder and those above it. @param what of the message of a failure, e.g. `make the run folder x` */
export async function makeFolder(path: string, what: string, hint?: string): Promise<void> {
  try {
    await makeFolders(path);
  } catch (error) {
    throw ioError(error, what, hint);
  }
}

/** mkdir's own `recursive` never returns on file systems that refuse new folders with ENOENT, such as /proc. */
async function makeFolders(path: string): Promise<void> {
  try {
    await mkdir(path);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === 'EEXIST' && (await stat(path)).isDirectory()) return;
    const above = dirname(path);
    if (code !== 'ENOENT' || above === path || (await isFolder(above))) throw error;
    await makeFolders(above);
    await makeFolders(path);
  }
}

/**
 * Whether a file could be written there, before it is made at some cost.
 * @throws DuetError NOT_FOUND when its folder is missing, INVALID_ARGUMENT when it is a folder itself, IO when its folder cannot be
 *   written
 */
export async function checkFolderOf(path: string): Promise<void> {
  const folder = dirname(path);
  if (!(await isFolder(folder)))
    throw new DuetError('NOT_FOUND', `Expected the folder of ${path} but it is not there; make it first`);
  if (await isFolder(path)) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected a file to write but ${path} is a folder; choose another name`,
    );
  }
  try {
    await access(folder, constants.W_OK);
  } catch (error) {
    throw ioError(error, `write ${path}`, 'choose a folder that can be written');
  }
}

async function isFolder(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/** Writes beside, flushes to the disk, renames. */
export async function writeAtomic(path: string, content: string | Uint8Array, mode = 0o666): Promise<void> {
  const beside = `${requireText(path, 'path')}.partial-${process.pid}`;
  try {
    const file = await opened(beside, 'w', mode);
    try {
      await file.writeFile(content);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
    await syncFolder(dirname(path));
  } catch (error) {
    await rm(beside, { force: true }).catch(() => {});
    throw ioError(error, `write ${path}`);
  }
}

/** Opens a file; where too many are open, waits a while for some to be closed. */
export async function opened(path: string, flags: 'a' | 'w', mode?: number): Promise<FileHandle> {
  for (let tries = 0; ; tries++) {
    try {
      return await open(path, flags, mode);
    } catch (error) {
      const full = ['EMFILE', 'ENFILE'].includes(String((error as NodeJS.ErrnoException).code));
      if (!full || tries === 30) throw error;
      await sleep(500);
    }
  }
}

/** Appends and flushes to the disk. */
export async function appendDurably(path: string, text: string): Promise<void> {
  try {
    const file = await opened(path, 'a');
    try {
      await file.appendFile(text);
      await file.datasync();
    } finally {
      await file.close();
    }
  } catch (error) {
    throw ioError(error, `append to ${path}`);
  }
}

/** The content of a file, or undefined when there is none. */
export async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (codeOf(error) === 'NOT_FOUND') return undefined;
    throw ioError(error, `read ${path}`);
  }
}

export function parseJson(text: string, path: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new DuetError('CORRUPT', `Expected JSON in ${path} but ${(error as Error).message}`, {
      cause: error,
    });
  }
}

async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
