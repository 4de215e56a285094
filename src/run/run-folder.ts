/**
 * The folder of a run:
 *
 * ```
 * config.json                              validated settings, and versions of what made it
 * data.json                                what is trained and evaluated on, and what was left out
 * metrics.jsonl                            one line a round
 * checkpoints/round-0007.safetensors       everything to continue after that round
 * .lock                                    while a process writes here
 * ```
 *
 * A round first appends its metrics and then writes its checkpoint, atomically. A run killed at any moment therefore
 * finds its last complete checkpoint, cuts the metrics behind it and does the rest again, with the same numbers.
 */

import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { invalid } from '../arguments.js';
import { DuetError, messageOf } from '../errors.js';
import type { TensorData } from '../native/core.js';
import { native } from '../native.js';
import { validated } from '../validation.js';
import { differences } from './differences.js';
import { makeFolder, parseJson, readIfThere, writeAtomic } from './files.js';
import { type Lock, lockFolder } from './lock.js';
import { MetricsFile } from './metrics.js';
import { versions } from './versions.js';

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

export interface RunFolderOptions {
  /** What kind of run, e.g. `federation`. */
  kind: string;
  /** Everything that decides the numbers. On resume it must be equal. */
  settings: unknown;
  resume: boolean;
  /** Checkpoints kept besides the best one. */
  keep: number;
}

export interface Checkpoint {
  tensors: Record<string, TensorData>;
  metadata: Record<string, string>;
}

const configSchema = z.looseObject({ kind: z.string(), settings: z.record(z.string(), z.unknown()) });
const DIFFERENCES_SHOWN = 8;
const CHECKPOINT = /^round-(\d+)\.safetensors$/;

/** @throws DuetError INVALID_ARGUMENT for `resume` without a folder */
export function requireRunDir({ resume, runDir }: { resume: boolean; runDir?: string | undefined }): void {
  if (resume && runDir === undefined) throw invalid('folder to resume', 'runDir', runDir);
}

/**
 * Makes the folder and refuses one that could not be opened for a new run, before any costly work; what only the open
 * run can tell, such as other settings on resume, is refused later.
 * @throws DuetError as `RunFolder.open`
 */
export async function checkRunFolder(path: string, resume: boolean): Promise<void> {
  await makeFolder(path, `make the run folder ${path}`, 'choose a folder that can be written');
  await (await lockFolder(path)).release();
  if (!resume && (await readIfThere(join(path, 'config.json'))) !== undefined) throw alreadyThere(path);
}

function alreadyThere(path: string): DuetError {
  return new DuetError(
    'INVALID_ARGUMENT',
    `The folder ${path} already holds a run; resume it (--resume), or choose another folder`,
  );
}

export class RunFolder<Line extends { number: number }> {
  readonly path: string;
  readonly metrics: MetricsFile<Line>;
  /** Rounds whose checkpoint could not be read when the run was resumed. */
  readonly damaged: string[] = [];
  readonly #lock: Lock;
  readonly #keep: number;
  #data = '';

  private constructor(path: string, lock: Lock, keep: number) {
    this.path = path;
    this.metrics = new MetricsFile(join(path, 'metrics.jsonl'));
    this.#lock = lock;
    this.#keep = keep;
  }

  /**
   * Makes or opens the folder and locks it.
   * @throws DuetError INVALID_ARGUMENT when it holds a run and `resume` is false, or a run with other settings (the
   *   message names them); IO when it cannot be written or another process uses it
   */
  static async open<Line extends { number: number }>(
    path: string,
    options: RunFolderOptions,
  ): Promise<RunFolder<Line>> {
    await makeFolder(
      join(path, 'checkpoints'),
      `make the run folder ${path}`,
      'choose a folder that can be written',
    );
    const folder = new RunFolder<Line>(path, await lockFolder(path), options.keep);
    try {
      await folder.#checkConfig(options);
      await folder.#removeLeftovers();
      return folder;
    } catch (error) {
      await folder.close();
      throw error;
    }
  }

  checkpointPath(round: number): string {
    return join(this.path, 'checkpoints', `round-${String(round).padStart(4, '0')}.safetensors`);
  }

  /**
   * The newest checkpoint that can be read, after cutting the metrics behind it; undefined in a new folder.
   * @throws DuetError CORRUPT when there are checkpoints but none can be read, or the metrics do not go with it
   */
  async latest(): Promise<(Checkpoint & { round: number; path: string }) | undefined> {
    const rounds = (await this.rounds()).reverse();
    for (const round of rounds) {
      const path = this.checkpointPath(round);
      let checkpoint: Checkpoint;
      try {
        checkpoint = await native.readSafetensors(path);
      } catch (error) {
        if (!(error instanceof DuetError) || error.code !== 'CORRUPT') throw error;
        this.damaged.push(`${path}: ${messageOf(error)}`);
        continue;
      }
      if (!(await this.metrics.read()).some((line) => line.number === round)) {
        const { path: file } = this.metrics;
        throw new DuetError(
          'CORRUPT',
          `Expected a line of round ${round} in ${file} but found none; start again in another folder`,
        );
      }
      await this.metrics.cutAfter(round);
      return { ...checkpoint, round, path };
    }
    if (this.damaged.length > 0) {
      throw new DuetError(
        'CORRUPT',
        `Expected a readable checkpoint in ${this.path} but all are damaged: ${this.damaged[0]}; start again in another folder`,
      );
    }
    await this.metrics.cutAfter(-1);
    return undefined;
  }

  /** Rounds with a checkpoint, ascending. */
  async rounds(): Promise<number[]> {
    const files = await readdir(join(this.path, 'checkpoints'));
    const rounds = files.map((file) => CHECKPOINT.exec(file)?.[1]).filter((round) => round !== undefined);
    return rounds.map(Number).sort((a, b) => a - b);
  }

  /** Forgets the rounds after this one: their checkpoints, then their lines. */
  async dropAfter(round: number): Promise<void> {
    for (const later of (await this.rounds()).filter((one) => one > round))
      await rm(this.checkpointPath(later), { force: true });
    await this.metrics.cutAfter(round);
  }

  /** Writes data.json, unless it holds the same already. */
  async describeData(data: unknown): Promise<void> {
    const text = `${JSON.stringify(data, null, 1)}\n`;
    if (text === this.#data) return;
    await writeAtomic(join(this.path, 'data.json'), text);
    this.#data = text;
  }

  /** Records a finished round: its line, then its checkpoint; older checkpoints go, except `best`. */
  async record(line: Line, checkpoint: Checkpoint, best?: number): Promise<void> {
    try {
      await this.metrics.append(line);
      await native.writeSafetensors(
        this.checkpointPath(line.number),
        checkpoint.tensors,
        checkpoint.metadata,
      );
    } catch (error) {
      const last = (await this.rounds().catch(() => [])).at(-1);
      throw unrecorded(
        error,
        this.path,
        `Round ${line.number}`,
        last === undefined ? undefined : `round ${last}`,
      );
    }
    const old = (await this.rounds()).slice(0, -this.#keep).filter((round) => round !== best);
    for (const round of old) await rm(this.checkpointPath(round), { force: true });
  }

  async close(): Promise<void> {
    await this.#lock.release();
  }

  async #checkConfig({ kind, settings, resume }: RunFolderOptions): Promise<void> {
    const path = join(this.path, 'config.json');
    const now = JSON.parse(JSON.stringify(settings)) as Record<string, unknown>;
    const text = await readIfThere(path);
    if (text === undefined) {
      const checkpoints = await readdir(join(this.path, 'checkpoints'));
      if (checkpoints.some((name) => !name.includes('.partial-'))) {
        throw new DuetError(
          'CORRUPT',
          `The folder ${this.path} holds checkpoints but no config.json says of which run; put it back, or choose another folder`,
        );
      }
      await writeAtomic(path, `${JSON.stringify({ kind, settings: now, versions: versions() }, null, 2)}\n`);
      return;
    }
    if (!resume) throw alreadyThere(this.path);
    const before = validated(configSchema, parseJson(text, path), path, 'CORRUPT');
    const other = differences({ kind: before.kind, ...before.settings }, { kind, ...now });
    if (other.length > 0) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `The run in ${this.path} has other settings: ${shortened(other)}. Resume with its settings, or choose another folder`,
      );
    }
  }

  /** Files beside that a killed process left. */
  async #removeLeftovers(): Promise<void> {
    for (const folder of [this.path, join(this.path, 'checkpoints')]) {
      for (const file of await readdir(folder)) {
        if (file.includes('.partial-')) await rm(join(folder, file), { force: true, recursive: true });
      }
    }
  }
}

/** A failure to write down `what`, with what is kept and how to go on. @param last whose checkpoint is the newest */
export function unrecorded(error: unknown, run: string, what: string, last: string | undefined): unknown {
  if (!(error instanceof DuetError)) return error;
  const kept = last === undefined ? 'no checkpoint was written yet' : `the checkpoint of ${last} is kept`;
  const mend = error.code === 'DISK_FULL' ? 'free some space and' : 'mend that and';
  const message = `${what} could not be recorded in ${run}: ${error.message}; ${kept}, ${mend} resume`;
  return new DuetError(error.code, message, { cause: error });
}

function shortened(words: readonly string[]): string {
  const shown = words.slice(0, DIFFERENCES_SHOWN).join('; ');
  return words.length > DIFFERENCES_SHOWN ? `${shown}; and ${words.length - DIFFERENCES_SHOWN} more` : shown;
}
