/**
 * Reading and writing the small text files of a data set, with errors that say which file and what it was
 * for.
 */

import { access, readFile, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { requireText } from '../arguments.js';
import { DuetError, ioError, messageOf } from '../errors.js';
import { makeFolder } from '../run/files.js';

/** Reads UTF-8 text; `what` is what the file holds, e.g. `questions`. */
export async function readText(path: string, what: string, hint?: string): Promise<string> {
  requireText(path, `path of ${what}`);
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw ioError(error, `read ${what} ${path}`, hint);
  }
}

/** Reads and parses JSON. @throws DuetError NOT_FOUND, IO, or CORRUPT when it is not JSON */
export async function readJson(path: string, what: string, hint?: string): Promise<unknown> {
  const text = await readText(path, what, hint);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new DuetError('CORRUPT', `Expected JSON in ${what} ${path} but ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Writes text, making the folder first. */
export async function writeText(path: string, text: string, what: string): Promise<void> {
  requireText(path, `path of ${what}`);
  try {
    await makeFolder(dirname(path), `write ${what} ${path}`);
    await writeFile(path, text);
  } catch (error) {
    throw ioError(error, `write ${what} ${path}`);
  }
}

/** Whether there is a file or folder of this name. */
export async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}
