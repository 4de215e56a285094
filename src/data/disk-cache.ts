/**
 * What is costly to make, kept on disk from one run to the next.
 *
 * One file an entry, named by the hash of its key. A file is written beside and renamed, and carries a checksum of key and
 * content: what a crash left half-written, what was damaged and what belongs to another key is made again. A folder that
 * cannot be written and a disk that is full cost the cache, not the run (`problem` says so).
 */

import { createHash, randomUUID } from 'node:crypto';
import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { messageOf } from '../errors.js';
import { makeFolder } from '../run/files.js';

const PARTIAL = /\.partial-(\d+)-\w+$/;

export interface CacheEntry {
  /** A few numbers about the content. */
  about: Record<string, number>;
  content: Uint8Array;
}

interface Header {
  about: Record<string, number>;
  crc: number;
}

export class DiskCache {
  readonly folder: string;
  readonly #what: string;
  readonly #ending: string;
  #problem: string | undefined;

  private constructor(folder: string, what: string, ending: string) {
    this.folder = folder;
    this.#what = what;
    this.#ending = ending;
  }

  /**
   * Makes the folder and removes what processes that are gone left half-written.
   * @param what is kept, e.g. `Decoded frames`
   * @param ending of its files
   */
  static async open(folder: string, what: string, ending: string): Promise<DiskCache> {
    const cache = new DiskCache(folder, what, ending);
    try {
      await makeFolder(folder, `make the folder ${folder}`);
      for (const name of await readdir(folder)) {
        const process = PARTIAL.exec(name)?.[1];
        if (process !== undefined && !isRunning(Number(process)))
          await rm(join(folder, name), { force: true });
      }
    } catch (error) {
      cache.#fail(error);
    }
    return cache;
  }

  /** Why nothing more is kept; undefined while it is. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** Undefined when it is not there, damaged, or of another key. */
  async get(key: unknown): Promise<CacheEntry | undefined> {
    const hash = hashOf(key);
    const file = await readFile(this.#pathOf(hash)).catch(() => undefined);
    const end = file?.indexOf(10) ?? -1;
    if (file === undefined || end < 0) return undefined;
    const header = headerOf(file.toString('latin1', 0, end));
    const content = file.subarray(end + 1);
    if (!header || header.crc !== checksum(hash, header.about, content)) return undefined;
    return { about: header.about, content: new Uint8Array(content) };
  }

  /** Never throws. */
  async put(key: unknown, { about, content }: CacheEntry): Promise<void> {
    if (this.#problem !== undefined) return;
    const hash = hashOf(key);
    const path = this.#pathOf(hash);
    const beside = `${path}.partial-${process.pid}-${randomUUID().slice(0, 8)}`;
    const header: Header = { about, crc: checksum(hash, about, content) };
    try {
      await writeFile(beside, Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), content]));
      await rename(beside, path);
    } catch (error) {
      this.#fail(error);
      await rm(beside, { force: true }).catch(() => {});
    }
  }

  #fail(error: unknown): void {
    this.#problem = `${this.#what} are no longer kept in ${this.folder}: ${messageOf(error)}`;
  }

  #pathOf(hash: string): string {
    return join(this.folder, `${hash.slice(0, 40)}${this.#ending}`);
  }
}

function hashOf(key: unknown): string {
  return createHash('sha256').update(JSON.stringify(key)).digest('hex');
}

function checksum(hash: string, about: Record<string, number>, content: Uint8Array): number {
  return crc32(content, crc32(hash + JSON.stringify(about))) >>> 0;
}

function headerOf(line: string): Header | undefined {
  try {
    const header = JSON.parse(line) as Header;
    return typeof header?.about === 'object' ? header : undefined;
  } catch {
    return undefined;
  }
}

function isRunning(processId: number): boolean {
  try {
    process.kill(processId, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
