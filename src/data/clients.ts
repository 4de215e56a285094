/** A folder of picture questions divided among clients; `loadClients` says what lies in it. */

import { readdir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { requireList, requireObject, requireText } from '../arguments.js';
import { DuetError, ioError } from '../errors.js';
import { readJson } from './files.js';
import { VqaDataset } from './vqa.js';

/** Which parts of a data folder are read. */
export interface PartOptions {
  /** E.g. `train` or `val`. */
  split: string;
  /** Only these parts. Default: all of the folder. */
  parts?: readonly string[];
  /** Not these parts, e.g. the style the backbone was trained on. */
  except?: readonly string[];
}

/** Which view of a data folder is read. */
export interface ClientOptions extends PartOptions {
  /** How the questions are divided: the name in `clients_<view>_<split>.json`, e.g. `style` or `function`. */
  view: string;
}

/**
 * Names of the parts of a data folder that have the split, in alphabetical order.
 * @throws DuetError NOT_FOUND or IO when the folder cannot be read
 */
export async function listParts(folder: string, split: string): Promise<string[]> {
  requireText(folder, 'folder');
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    throw ioError(error, `read data folder ${folder}`);
  }
  const [start, end] = ['questions_', `_${requireText(split, 'split')}.json`];
  return names
    .filter((name) => name.startsWith(start) && name.endsWith(end) && name.length > start.length + end.length)
    .map((name) => name.slice(start.length, -end.length))
    .sort();
}

/**
 * Reads one part, e.g. the style a backbone is trained on.
 * @throws DuetError NOT_FOUND when the part has no such split (the message names those there are)
 */
export async function loadPart(folder: string, part: string, split: string): Promise<VqaDataset> {
  await requireParts(folder, split, [requireText(part, 'part')]);
  return readPart(folder, part, split);
}

/**
 * Reads several parts as one data set (by default all), named after the folder.
 * @throws DuetError NOT_FOUND for a part that has no such split, INVALID_ARGUMENT when all are excepted
 */
export async function loadParts(folder: string, options: PartOptions): Promise<VqaDataset> {
  const { split, parts: only, except = [] } = requireObject(options, 'options');
  if (only !== undefined) requireList(only, 'parts', requireText);
  requireList(except, 'except', requireText);
  const there = await requireParts(folder, split, [...(only ?? []), ...except]);
  const parts = (only ?? there).filter((part) => !except.includes(part));
  if (parts.length === 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected at least 1 part of ${folder} to be left but all are excepted`,
    );
  }
  const datasets = await Promise.all(parts.map((part) => readPart(folder, part, split)));
  return VqaDataset.merge(`${basename(folder)} (${split})`, datasets);
}

/**
 * Reads the clients of a view of a data folder, by name, in the order of the file. Questions of parts that are not
 * wanted are left out, and clients that have none left with them.
 *
 * ```text
 * questions_<part>_<split>.json      VQA v2 questions of one part (a drawing style, a site, ...)
 * annotations_<part>_<split>.json    their annotations
 * images/<part>/<image_id>.png       their pictures (or images/<image_id>.png for all parts)
 * clients_<view>_<split>.json        {"view", "split", "clients": {name: {"question_ids": [...]}}}
 * answers.json                       optional: {"answers": [...]}, a common answer vocabulary
 * ```
 *
 * A view is one way to divide the questions: `style` gives every part to one client, `function` divides by what is
 * asked. Each question belongs to one part; ids are unique over all parts.
 * @throws DuetError NOT_FOUND when there is no such view or part, CORRUPT when the file is not of the format,
 *   INVALID_ARGUMENT when a client has no usable question
 */
export async function loadClients(folder: string, options: ClientOptions): Promise<Map<string, VqaDataset>> {
  const { view, split } = requireObject(options, 'options');
  for (const [name, value] of Object.entries({ folder, view, split })) requireText(value, name);
  const path = join(folder, `clients_${view}_${split}.json`);
  const hint = `the views of ${folder} are its files clients_<view>_${split}.json`;
  const lists = questionIdsOf(await readJson(path, 'clients', hint), path);
  const all = await loadParts(folder, options);
  const filtered = options.parts !== undefined || options.except !== undefined;
  const there = new Set(all.samples.map((sample) => sample.questionId));
  const clients = new Map<string, VqaDataset>();
  for (const [name, questionIds] of lists) {
    if (filtered && !questionIds.some((id) => there.has(id) || all.skipped.has(id))) continue;
    clients.set(name, all.subset(questionIds, `client ${name} (${split})`, { ignoreUnknown: filtered }));
  }
  if (clients.size === 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected at least 1 client with questions in ${path} but found 0`,
    );
  }
  return clients;
}

async function readPart(folder: string, part: string, split: string): Promise<VqaDataset> {
  const images = join(folder, 'images');
  const own = (await subfolders(images)).includes(part);
  return VqaDataset.load({
    questions: join(folder, `questions_${part}_${split}.json`),
    annotations: join(folder, `annotations_${part}_${split}.json`),
    pictures: own ? join(images, part) : images,
    name: `${part} (${split})`,
  });
}

async function subfolders(folder: string): Promise<string[]> {
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    return entries.filter((entry) => !entry.isFile()).map((entry) => entry.name);
  } catch (error) {
    throw ioError(error, `read picture folder ${folder}`);
  }
}

async function requireParts(folder: string, split: string, wanted: readonly string[]): Promise<string[]> {
  const there = await listParts(folder, split);
  if (there.length === 0) {
    throw new DuetError(
      'NOT_FOUND',
      `Expected files questions_<part>_${split}.json in ${folder} but found none`,
    );
  }
  const missing = wanted.filter((part) => !there.includes(part));
  if (missing.length > 0) {
    throw new DuetError(
      'NOT_FOUND',
      `Expected parts among ${there.join(', ')} (those with split ${split} in ${folder}) but received ${missing.join(', ')}`,
    );
  }
  return there;
}

function questionIdsOf(json: unknown, path: string): [string, number[]][] {
  const clients = (json as { clients?: unknown } | null)?.clients;
  if (typeof clients !== 'object' || clients === null || Array.isArray(clients)) {
    throw new DuetError('CORRUPT', `Expected {"clients": {name: {"question_ids": [...]}}} in ${path}`);
  }
  return Object.entries(clients).map(([name, client]) => {
    const ids: unknown = (client as { question_ids?: unknown } | null)?.question_ids;
    if (!Array.isArray(ids) || !ids.every((id) => Number.isSafeInteger(id))) {
      throw new DuetError('CORRUPT', `Expected integers in question_ids of client ${name} in ${path}`);
    }
    return [name, ids];
  });
}
