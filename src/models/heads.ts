/** The file of a model folder that Hugging Face does not know: trained heads, `heads.safetensors`. */

import { access } from 'node:fs/promises';
import { join } from 'node:path';
import { DuetError } from '../errors.js';
import type { Tensors } from '../native/core.js';
import { native } from '../native.js';

export interface SavedHead {
  classes: number;
  tensors: Tensors;
}

export const HEADS_FILE = 'heads.safetensors';

/** Heads by task, or undefined when the folder has none. @throws DuetError CORRUPT for a file of another kind */
export async function readHeads(folder: string): Promise<Map<string, SavedHead> | undefined> {
  const path = join(folder, HEADS_FILE);
  try {
    await access(path);
  } catch {
    return undefined;
  }
  const heads = new Map<string, SavedHead>();
  const { tensors } = await native.readSafetensors(path);
  for (const [name, { data, shape }] of Object.entries(tensors)) {
    const task = /^task_layer\.([A-Za-z0-9_-]+)\./.exec(name)?.[1];
    if (task === undefined || !(data instanceof Float32Array)) {
      throw new DuetError(
        'CORRUPT',
        `Expected fp32 tensors called task_layer.<task>.* in ${path} but found ${name}`,
      );
    }
    const head = heads.get(task) ?? { classes: 0, tensors: {} };
    head.tensors[name] = data;
    if (name.endsWith('.clf_fc1.bias')) head.classes = shape[0] ?? 0;
    heads.set(task, head);
  }
  return heads;
}
