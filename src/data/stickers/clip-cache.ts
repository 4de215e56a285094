/** Decoded clips on disk, so that a sticker is decoded once and not in every run. */

import { DiskCache } from '../disk-cache.js';
import { type Clip, type ClipSpec, clipOfStrip } from './clip.js';

/** Changes when the same sticker and settings would give other clips. */
const FORMAT = 2;

export class ClipCache {
  readonly #files: DiskCache;

  private constructor(files: DiskCache) {
    this.#files = files;
  }

  static async open(folder: string): Promise<ClipCache> {
    return new ClipCache(await DiskCache.open(folder, 'Decoded frames', '.clip'));
  }

  get folder(): string {
    return this.#files.folder;
  }

  /** Why clips are no longer kept; undefined while they are. */
  get problem(): string | undefined {
    return this.#files.problem;
  }

  /** The clip of a sticker, or undefined when it is not there or damaged. @param hash of the sticker's bytes */
  async get(hash: string, spec: ClipSpec): Promise<Clip | undefined> {
    const entry = await this.#files.get(keyOf(hash, spec));
    if (!entry) return undefined;
    const { frames, durationMs } = entry.about;
    const sound = frames !== undefined && durationMs !== undefined;
    if (!sound || entry.content.length !== frames * spec.size * spec.size * spec.channels) return undefined;
    return clipOfStrip(entry.content, frames, durationMs, spec);
  }

  /** Keeps a clip; never throws. */
  put(hash: string, spec: ClipSpec, { strip, frames, durationMs }: Clip): Promise<void> {
    return this.#files.put(keyOf(hash, spec), { about: { frames, durationMs }, content: strip });
  }
}

function keyOf(hash: string, spec: ClipSpec): unknown {
  const { frames, size, channels, keyFrames, shortClips, minFrames } = spec;
  return [FORMAT, hash, frames, size, channels, keyFrames, shortClips, minFrames];
}
