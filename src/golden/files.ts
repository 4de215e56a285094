/** Reading reference numbers: tensors and settings of a case, and batches in the naming of the files. */

import { access, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { z } from 'zod';
import { readJson } from '../data/files.js';
import { DuetError } from '../errors.js';
import type { LabelledBatch } from '../federated/batch-source.js';
import { nameFromPublished } from '../models/names.js';
import type { TensorData, Tensors } from '../native/core.js';
import { native } from '../native.js';
import { validated } from '../validation.js';
import { floats } from './case.js';

export type TensorMap = Record<string, TensorData>;

export async function readTensors(...path: string[]): Promise<TensorMap> {
  return (await native.readSafetensors(join(...path), true)).tensors;
}

export async function readSettings<S extends z.ZodType>(schema: S, ...path: string[]): Promise<z.output<S>> {
  const file = join(...path);
  return validated(schema, await readJson(file, 'reference numbers'), file, 'CORRUPT');
}

export async function isThere(...path: string[]): Promise<boolean> {
  return access(join(...path)).then(
    () => true,
    () => false,
  );
}

/** Names of files that end so, without that end. */
export async function filesEnding(folder: string, end: string): Promise<string[]> {
  const names = await readdir(folder);
  return names
    .filter((name) => name.endsWith(end))
    .map((name) => name.slice(0, -end.length))
    .sort();
}

/** The tensors whose names begin with `prefix`, without it. */
export function under<T>(tensors: Record<string, T>, prefix: string): Record<string, T> {
  const found: Record<string, T> = {};
  for (const [name, tensor] of Object.entries(tensors)) {
    if (name.startsWith(prefix)) found[name.slice(prefix.length)] = tensor;
  }
  return found;
}

/** Parameters under published names as values under ours. */
export function parametersOf(tensors: TensorMap): Tensors {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, tensor]) => [nameFromPublished(name), floats(tensor)]),
  );
}

/** A batch from tensors called input_ids, token_type_ids, attention_mask, pixel_values, pixel_mask, target_scores. */
export function batchOf(tensors: TensorMap, targets = tensors.target_scores): LabelledBatch {
  const take = (name: string): TensorData => {
    const tensor = tensors[name];
    if (!tensor)
      throw new DuetError('CORRUPT', `Expected the tensor ${name} in a batch of reference numbers`);
    return tensor;
  };
  const ids = take('input_ids');
  const [batch = 0, textLength = 0] = ids.shape;
  const [, , height = 0, width = 0] = take('pixel_values').shape;
  const integers = (name: string) => Array.from(take(name).data as ArrayLike<number | bigint>, Number);
  return {
    batch,
    textLength,
    height,
    width,
    inputIds: Int32Array.from(integers('input_ids')),
    tokenTypeIds: Int32Array.from(integers('token_type_ids')),
    attentionMask: Uint8Array.from(integers('attention_mask')),
    pixelValues: floats(take('pixel_values')),
    pixelMask: Uint8Array.from(integers('pixel_mask')),
    targets: floats(targets),
  };
}

/** Numbers of `<word><number>` in names: batch0, batch1, ... */
export function countOf(tensors: TensorMap, pattern: RegExp): number {
  let count = 0;
  for (const name of Object.keys(tensors)) {
    const number = pattern.exec(name)?.[1];
    if (number !== undefined) count = Math.max(count, Number(number) + 1);
  }
  return count;
}
