/** Writing a model folder, and naming what weights a run was made with. */

import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { join } from 'node:path';
import { requireText } from '../arguments.js';
import { writePictureSpec } from '../data/image-processor.js';
import { ioError } from '../errors.js';
import { native } from '../native.js';
import { makeFolder } from '../run/files.js';
import { writeViltConfig } from './config.js';
import { HEADS_FILE } from './heads.js';
import { isBackbone, isHead } from './names.js';
import type { Vilt } from './vilt.js';

/** See `Vilt.save`. Weights are written last, so that a folder with weights is complete. */
export async function saveVilt(model: Vilt, folder: string): Promise<void> {
  await makeFolder(requireText(folder, 'folder'), `make the model folder ${folder}`);
  await writeViltConfig(folder, model.config);
  await writePictureSpec(folder, model.pictures);
  if (model.tokenizer) await model.tokenizer.save(folder);
  if (model.answers) await model.answers.save(join(folder, 'answers.json'));
  const write = async (file: string, names: string[]) => {
    const tensors = model.withShapes(await model.read(names));
    await native.writeSafetensors(join(folder, file), tensors, { format: 'pt' });
  };
  if (model.heads.size > 0) await write(HEADS_FILE, model.names(isHead));
  await write('model.safetensors', model.names(isBackbone));
}

/** SHA-256 of a file. */
export async function fileFingerprint(path: string): Promise<string> {
  const hash = createHash('sha256');
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 }))
      hash.update(chunk as Buffer);
  } catch (error) {
    throw ioError(error, `read ${path}`);
  }
  return hash.digest('hex');
}

export function fileFingerprints(paths: readonly string[]): Promise<string[]> {
  return Promise.all(paths.map(fileFingerprint));
}

/** SHA-256 of what random weights are made from, or of sizes that files of weights do not tell. */
export function settingsFingerprint(settings: unknown): string {
  return createHash('sha256').update(JSON.stringify(settings)).digest('hex');
}
