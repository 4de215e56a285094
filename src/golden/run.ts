/**
 * Reference numbers: finds the cases of a folder by what lies in it and runs them one by one.
 *
 * Sizes, seeds and numbers of clients are read from the files; any folder of the same layout works, and so does one that
 * holds such folders (its subfolders are searched).
 */

import { readdir } from 'node:fs/promises';
import { basename, join, relative, resolve } from 'node:path';
import { z } from 'zod';
import { DuetError, ioError, messageOf } from '../errors.js';
import { type GoldenCase, type GoldenContext, missing, type Outcome, skipped } from './case.js';
import { adapterCases } from './cases/adapter.js';
import { datStepCases } from './cases/dat-steps.js';
import { imageProcessorCases, tokenizerCases } from './cases/data.js';
import { ddimCases } from './cases/ddim.js';
import { dfgnCases } from './cases/dfgn.js';
import { blockCases, stiLayerCases } from './cases/dfgn-layers.js';
import { dfgnStepCases } from './cases/dfgn-steps.js';
import { encoderCases } from './cases/encoders.js';
import { federationCases } from './cases/federation.js';
import { frameCases } from './cases/frames.js';
import { klLossCases } from './cases/kl-loss.js';
import { curriculumCases, maskCases } from './cases/stickers.js';
import { viltCases } from './cases/vilt.js';
import { isThere, readSettings } from './files.js';

type Finder = (folder: string, context: GoldenContext) => Promise<GoldenCase[]>;

const FINDERS: Record<string, Finder> = {
  vilt_tiny: viltCases,
  adapter: adapterCases,
  kl_loss: klLossCases,
  dat_steps: datStepCases,
  federation: federationCases,
  image_processor: imageProcessorCases,
  tokenizer: tokenizerCases,
  encoders: encoderCases,
  masks: maskCases,
  curriculum: curriculumCases,
  ddim: ddimCases,
  frames: frameCases,
  sti_layer: stiLayerCases,
  blocks: blockCases,
  dfgn_tiny: dfgnCases,
  train_steps: dfgnStepCases,
  albef_tiny: async () => [skipped('albef_tiny', 'ALBEF is not in this version')],
};

/** Depth to which folders of folders are searched. */
const DEPTH = 3;

/** @throws DuetError NOT_FOUND when the folder is not there or holds no folder of reference numbers at all */
export async function findCases(context: GoldenContext): Promise<GoldenCase[]> {
  const cases = await search(context.folder, '', context, DEPTH);
  if (cases.length > 0) return cases;
  throw new DuetError(
    'NOT_FOUND',
    `Expected folders such as ${Object.keys(FINDERS).slice(0, 4).join(', ')} in ${context.folder} but found none`,
  );
}

async function search(
  folder: string,
  prefix: string,
  context: GoldenContext,
  depth: number,
): Promise<GoldenCase[]> {
  const known = FINDERS[basename(resolve(folder))];
  if (known) return found(known, folder, prefix, context);
  let content: Awaited<ReturnType<typeof contentOf>>;
  try {
    content = await contentOf(folder);
  } catch (error) {
    if (folder === context.folder) throw error;
    return [skipped(relative(context.folder, folder), messageOf(error))];
  }
  const { folders, files } = content;
  const cases: GoldenCase[] = [];
  for (const name of folders) {
    const inner = join(folder, name);
    const deeper = FINDERS[name] ? prefix : `${prefix}${name}/`;
    if (FINDERS[name] || depth > 1) cases.push(...(await search(inner, deeper, context, depth - 1)));
  }
  if (files.includes('manifest.json')) cases.push(...(await missingFiles(folder, prefix, cases)));
  const holdsNumbers = files.some((file) => file.endsWith('.safetensors'));
  if (cases.length === 0 && holdsNumbers && folder !== context.folder) {
    cases.push(skipped(relative(context.folder, folder), 'not a case this version knows'));
  }
  return cases;
}

const manifestSchema = z.looseObject({ files: z.record(z.string(), z.unknown()) });

/** Files of cases that the manifest names but that are not there, unless a case says so already. */
async function missingFiles(
  folder: string,
  prefix: string,
  cases: readonly GoldenCase[],
): Promise<GoldenCase[]> {
  const { files } = await readSettings(manifestSchema, folder, 'manifest.json');
  const known = new Set(cases.map(({ name }) => name));
  const absent: GoldenCase[] = [];
  for (const file of Object.keys(files)) {
    const name = prefix + file.replace(/(_io)?\.\w+$/, '');
    if (!FINDERS[file.split('/')[0] as string] || known.has(name)) continue;
    if (!(await isThere(folder, file))) absent.push(missing(prefix + file));
  }
  return absent;
}

async function found(
  finder: Finder,
  folder: string,
  prefix: string,
  context: GoldenContext,
): Promise<GoldenCase[]> {
  try {
    const cases = await finder(folder, context);
    return cases.map((one) => ({
      name: prefix + one.name,
      run: async () => ({ ...(await one.run()), name: prefix + one.name }),
    }));
  } catch (error) {
    const name = prefix + basename(resolve(folder));
    return [{ name, run: async () => broken(name, error) }];
  }
}

/** Runs a case; an error is a failure of it, not of the others. */
export async function runCase(one: GoldenCase): Promise<Outcome> {
  try {
    return await one.run();
  } catch (error) {
    return broken(one.name, error);
  }
}

function broken(name: string, error: unknown): Outcome {
  return { name, status: 'fail', compared: 0, reason: messageOf(error) };
}

async function contentOf(folder: string): Promise<{ folders: string[]; files: string[] }> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    const names = (wanted: boolean) =>
      entries
        .filter((entry) => entry.isDirectory() === wanted)
        .map((entry) => entry.name)
        .sort();
    return { folders: names(true), files: names(false) };
  } catch (error) {
    throw ioError(error, `read the folder ${folder}`);
  }
}
