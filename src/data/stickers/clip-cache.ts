/**
 * Decoded clips on disk, so that a sticker is decoded once and not in every run.
 *
 * One file a clip, named by the hash of the sticker's bytes and of the settings. A file is written beside and renamed, and
 * carries a checksum: what a crash left half-written is never taken for a clip. A disk that is full costs the cache, not
 * the run (`problem` says so).
 */

import { createHash } from 'node:crypto';
import { readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32 } from 'node:zlib';
import { messageOf } from '../../errors.js';
import { makeFolder } from '../../run/files.js';
import type { Clip, ClipSpec } from './clip.js';

/** Changes when the same sticker and settings would give other clips. */
const FORMAT = 1;
const PARTIAL = /\.partial-(\d+)-\d+$/;

interface Header {
  frames: number;
  durationMs: number;
  bytes: number;
  crc: number;
}

export class ClipCache {
  readonly folder: string;
  #problem: string | undefined;
  #written = 0;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** Makes the folder and removes what processes that are gone left half-written. @throws DuetError IO, DISK_FULL */
  static async open(folder: string): Promise<ClipCache> {
    await makeFolder(folder, `make the folder ${folder} for decoded frames`);
    const cache = new ClipCache(folder);
    for (const name of await readdir(folder)) {
      const process = PARTIAL.exec(name)?.[1];
      if (process !== undefined && !isRunning(Number(process))) await rm(join(folder, name), { force: true });
    }
    return cache;
  }

  /** Why clips are no longer kept; undefined while they are. */
  get problem(): string | undefined {
    return this.#problem;
  }

  /** The clip of a sticker, or undefined when it is not there or damaged. */
  async get(hash: string, spec: ClipSpec): Promise<Clip | undefined> {
    const file = await readFile(this.#pathOf(hash, spec)).catch(() => undefined);
    const end = file?.indexOf(10) ?? -1;
    if (file === undefined || end < 0) return undefined;
    const header = headerOf(file.toString('latin1', 0, end));
    const strip = file.subarray(end + 1);
    if (!header || strip.length !== header.bytes || crc32(strip) >>> 0 !== header.crc) return undefined;
    if (strip.length !== header.frames * spec.size * spec.size * spec.channels) return undefined;
    return { strip: new Uint8Array(strip), frames: header.frames, durationMs: header.durationMs };
  }

  /** Keeps a clip; never throws. */
  async put(hash: string, spec: ClipSpec, { strip, frames, durationMs }: Clip): Promise<void> {
    if (this.#problem !== undefined) return;
    const path = this.#pathOf(hash, spec);
    const beside = `${path}.partial-${process.pid}-${this.#written++}`;
    const header: Header = { frames, durationMs, bytes: strip.length, crc: crc32(strip) >>> 0 };
    try {
      await writeFile(beside, Buffer.concat([Buffer.from(`${JSON.stringify(header)}\n`), strip]));
      await rename(beside, path);
    } catch (error) {
      this.#problem = `Decoded frames are no longer kept in ${this.folder}: ${messageOf(error)}`;
      await rm(beside, { force: true }).catch(() => {});
    }
  }

  #pathOf(hash: string, spec: ClipSpec): string {
    const { frames, size, channels, keyFrames, shortClips, minFrames } = spec;
    const settings = JSON.stringify([FORMAT, hash, frames, size, channels, keyFrames, shortClips, minFrames]);
    return join(this.folder, `${createHash('sha256').update(settings).digest('hex').slice(0, 40)}.clip`);
  }
}

function headerOf(line: string): Header | undefined {
  try {
    return JSON.parse(line) as Header;
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
