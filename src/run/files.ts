/** Small files of a run folder, written so that a crash leaves the old or the new content, never half of one. */

import { open, readFile, rename } from 'node:fs/promises';
import { dirname } from 'node:path';
import { codeOf, DuetError, ioError } from '../errors.js';

/** Writes beside, flushes to the disk, renames. */
export async function writeAtomic(path: string, text: string): Promise<void> {
  const beside = `${path}.partial-${process.pid}`;
  try {
    const file = await open(beside, 'w');
    try {
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, path);
    await syncFolder(dirname(path));
  } catch (error) {
    throw ioError(error, `write ${path}`);
  }
}

/** Appends and flushes to the disk. */
export async function appendDurably(path: string, text: string): Promise<void> {
  try {
    const file = await open(path, 'a');
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
