/**
 * Checkpoints of a sticker run: one folder a checkpoint, made beside and renamed when everything in it is on the disk.
 *
 * ```
 * checkpoints/step-0001200/weights.safetensors         published names; what `Dfgn.fromPretrained` reads
 *                          first-moment.safetensors    of AdamW
 *                          second-moment.safetensors
 *                          average.safetensors         moving averages of the weights, where they are kept
 *                          state.json                  step, curriculum, what the next line of metrics has so far
 * ```
 */

import { open, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { z } from 'zod';
import { DuetError, ioError, messageOf } from '../errors.js';
import type { Dfgn } from '../models/dfgn.js';
import type { DfgnPart } from '../native/stickers.js';
import { makeFolder, parseJson, readIfThere, writeAtomic } from '../run/files.js';
import { validated } from '../validation.js';

const NAME = /^step-(\d+)$/;
const FILES = {
  weights: 'weights.safetensors',
  firstMoment: 'first-moment.safetensors',
  secondMoment: 'second-moment.safetensors',
  average: 'average.safetensors',
} as const satisfies Record<DfgnPart, string>;

export const trainerStateSchema = z.strictObject({
  /** Optimiser steps done. */
  step: z.int().min(0),
  /** Number of the next batch of the data. */
  nextBatch: z.int().min(0),
  curriculum: z.record(z.string(), z.unknown()),
  /** Sums of the line of metrics that is not written yet. */
  pending: z.record(z.string(), z.unknown()),
});

/** What a trainer remembers besides the network's tensors. */
export type TrainerState = z.output<typeof trainerStateSchema>;

export class StickerCheckpoints {
  /** Checkpoints that could not be read. */
  readonly damaged: string[] = [];
  readonly #folder: string;
  readonly #parts: readonly DfgnPart[];

  /** @param averages whether moving averages are kept */
  constructor(runDir: string, averages: boolean) {
    this.#folder = join(runDir, 'checkpoints');
    this.#parts = averages
      ? ['weights', 'firstMoment', 'secondMoment', 'average']
      : ['weights', 'firstMoment', 'secondMoment'];
  }

  path(step: number): string {
    return join(this.#folder, `step-${String(step).padStart(7, '0')}`);
  }

  /** Steps with a checkpoint, ascending. */
  async steps(): Promise<number[]> {
    const names = await readdir(this.#folder).catch((error: unknown) => {
      throw ioError(error, `read ${this.#folder}`);
    });
    const steps = names.map((name) => NAME.exec(name)?.[1]).filter((step) => step !== undefined);
    return steps.map(Number).sort((a, b) => a - b);
  }

  /** Writes a checkpoint of the network as it is; older ones go, except the last `keep`. */
  async save(network: Dfgn, state: TrainerState, keep: number): Promise<void> {
    const path = this.path(state.step);
    const beside = `${path}.partial-${process.pid}`;
    await rm(beside, { recursive: true, force: true });
    await makeFolder(beside, `make ${beside}`);
    try {
      for (const part of this.#parts) await network.saveFile(join(beside, FILES[part]), part);
      await writeAtomic(join(beside, 'state.json'), `${JSON.stringify(state)}\n`);
      await rm(path, { recursive: true, force: true });
      await rename(beside, path);
      await flushFolder(this.#folder);
    } catch (error) {
      await rm(beside, { recursive: true, force: true }).catch(() => {});
      throw ioError(error, `write the checkpoint ${path}`);
    }
    for (const step of (await this.steps()).slice(0, -keep))
      await rm(this.path(step), { recursive: true, force: true });
  }

  /**
   * Loads the newest checkpoint that can be read into a network whose training has been started.
   * @returns undefined when there is none
   * @throws DuetError CORRUPT when there are checkpoints but none can be read
   */
  async load(network: Dfgn): Promise<TrainerState | undefined> {
    return this.#newestReadable(async (path) => {
      const state = await readState(path);
      for (const part of this.#parts) await network.load(join(path, FILES[part]), part);
      await network.setSteps(state.step);
      return state;
    });
  }

  /**
   * Loads the weights to generate with: the moving averages of the newest checkpoint that can be read where there are any, else
   * its weights.
   * @returns the step of the checkpoint
   * @throws DuetError NOT_FOUND when the run has no checkpoint yet, CORRUPT when none can be read
   */
  async loadWeights(network: Dfgn): Promise<number> {
    const step = await this.#newestReadable(async (path, step) => {
      await network.load(await weightsIn(path)).catch((error: unknown) => {
        if (!(error instanceof DuetError) || error.code !== 'INVALID_ARGUMENT') throw error;
        const pipeline = join(dirname(this.#folder), 'pipeline.json');
        throw new DuetError(error.code, `${error.message} (the network is that of ${pipeline})`);
      });
      return step;
    });
    if (step !== undefined) return step;
    throw new DuetError(
      'NOT_FOUND',
      `Expected a checkpoint in ${dirname(this.#folder)} but found none; let the training run until it has written one`,
    );
  }

  async #newestReadable<T>(read: (path: string, step: number) => Promise<T>): Promise<T | undefined> {
    for (const step of (await this.steps()).reverse()) {
      const path = this.path(step);
      try {
        return await read(path, step);
      } catch (error) {
        const lost =
          error instanceof DuetError && ['CORRUPT', 'NOT_FOUND', 'INVALID_ARGUMENT'].includes(error.code);
        if (!lost) throw error;
        this.damaged.push(`${path}: ${messageOf(error)}`);
      }
    }
    if (this.damaged.length === 0) return undefined;
    throw new DuetError(
      'CORRUPT',
      `Expected a readable checkpoint in ${this.#folder} but all are damaged: ${this.damaged[0]}; start again in another folder`,
    );
  }
}

/** The file that is generated with: moving averages where they are kept. */
export async function weightsIn(checkpoint: string): Promise<string> {
  const names = await readdir(checkpoint).catch((error: unknown) => {
    throw ioError(error, `read ${checkpoint}`);
  });
  return join(checkpoint, names.includes(FILES.average) ? FILES.average : FILES.weights);
}

async function readState(path: string): Promise<TrainerState> {
  const file = join(path, 'state.json');
  const text = await readIfThere(file);
  if (text === undefined) throw new DuetError('CORRUPT', `Expected ${file} but found none`);
  return validated(trainerStateSchema, parseJson(text, file), file, 'CORRUPT');
}

async function flushFolder(folder: string): Promise<void> {
  const handle = await open(folder, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
