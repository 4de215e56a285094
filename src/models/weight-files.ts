/** The safetensors files of a model folder in the layouts of Hugging Face and diffusers: one file, or parts with an index. */

import { join } from 'node:path';
import { z } from 'zod';
import { exists, readJson } from '../data/files.js';
import { DuetError } from '../errors.js';
import { validated } from '../validation.js';

const NAMES = ['model.safetensors', 'diffusion_pytorch_model.safetensors'];
const PICKLES = ['pytorch_model.bin', 'diffusion_pytorch_model.bin'];
const indexSchema = z.looseObject({
  weight_map: z.record(z.string(), z.string().regex(/^[^/\\]+$/, 'Expected a file name without folders')),
});

/** @throws DuetError NOT_FOUND when there are none, UNSUPPORTED when there are pickled ones alone */
export async function weightFiles(folder: string): Promise<string[]> {
  for (const name of NAMES) {
    const file = join(folder, name);
    if (await exists(file)) return [file];
    const index = `${file}.index.json`;
    if (!(await exists(index))) continue;
    const { weight_map: parts } = validated(
      indexSchema,
      await readJson(index, 'weight index'),
      index,
      'CORRUPT',
    );
    const files = [...new Set(Object.values(parts))].sort();
    if (files.length === 0) throw new DuetError('CORRUPT', `Expected at least 1 file of weights in ${index}`);
    return files.map((part) => join(folder, part));
  }
  for (const name of PICKLES) {
    if (!(await exists(join(folder, name)))) continue;
    throw new DuetError(
      'UNSUPPORTED',
      `Expected ${NAMES.join(' or ')} in ${folder} but found ${name}, which is a Python pickle; save the model again ` +
        'with safe_serialization=True',
    );
  }
  throw new DuetError('NOT_FOUND', `Expected ${NAMES.join(' or ')} in ${folder} but found neither`);
}
