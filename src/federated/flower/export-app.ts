/**
 * Writes a Flower App folder: the operator's side of a federation on a Flower SuperLink. Its files are those of
 * examples/flower-server with the settings of this federation; the initial arrays of the model, as a safetensors file in base64,
 * are a module of it, because a bundle of an app takes no binary files. Arrays above what a bundle may hold lie beside it.
 */

import { readdir, readFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { requireInstance, requireInteger, requireObject, requireText } from '../../arguments.js';
import { DuetError, ioError } from '../../errors.js';
import { publishedName } from '../../models/names.js';
import { DEFAULT_TASK, Vilt } from '../../models/vilt.js';
import type { Tensors } from '../../native/core.js';
import { native } from '../../native.js';
import { makeFolder, writeAtomic } from '../../run/files.js';
import type { Strategy } from '../strategies/strategy.js';

/** What `exportFlowerApp` writes. */
export interface FlowerAppOptions {
  /** Its parameters are the initial arrays; the clients' models have the same names and shapes. */
  model: Vilt;
  /** Says which parameters travel. */
  strategy: Strategy;
  /** Name of the clients' head, for strategies that share it. Default `vqa`. */
  task?: string;
  /** Default of the run config. Default 3. */
  rounds?: number;
  /** Nodes a round needs. Default 2. */
  minNodes?: number;
  /** Initial values of everything that travels instead of the model's, by our names or by the published ones. */
  initial?: Tensors;
  /** For the strategies of `flwr.server.strategy` instead of the Message API. Default false. */
  legacy?: boolean;
}

/** A bundle may have 10 MB; base64 in it is packed to about its bytes before. */
const MOST_EMBEDDED_BYTES = 8e6;
const FILE = 'initial.safetensors';
const template = fileURLToPath(new URL('../../../examples/flower-server', import.meta.url));

/**
 * @returns the names of the arrays as they travel
 * @throws DuetError INVALID_ARGUMENT for a strategy that shares nothing, for a folder with files in it, for initial values that do
 *   not fit the model or are not all there
 */
export async function exportFlowerApp(folder: string, options: FlowerAppOptions): Promise<string[]> {
  const { model, strategy, task = DEFAULT_TASK, initial, legacy } = requireObject(options, 'options');
  requireInstance(model, Vilt, 'model');
  const out = resolve(requireText(folder, 'folder'));
  const names = model.names((name) => !strategy.pooled && strategy.isShared(name, task));
  if (names.length === 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected a strategy whose clients share parameters but ${strategy.name} has none`,
    );
  }
  const own = await model.read(names);
  const values = initial === undefined ? own : replaced(own, initial);
  const file = join(out, FILE);
  await requireEmpty(out);
  for (const name of await templateFiles()) {
    const path = join(out, name);
    await makeFolder(dirname(path), `make the folder ${dirname(path)}`);
    await writeAtomic(path, await readFile(join(template, name)));
  }
  const order = Object.keys(values).map(publishedName);
  await native.writeSafetensors(
    file,
    Object.fromEntries(
      Object.entries(model.withShapes(values)).map(([name, tensor]) => [publishedName(name), tensor]),
    ),
    { order: JSON.stringify(order), strategy: strategy.name },
  );
  const bytes = await readFile(file);
  const embedded = bytes.length <= MOST_EMBEDDED_BYTES;
  if (embedded)
    await writeAtomic(join(out, 'duet_server/initial_arrays.py'), moduleOf(bytes.toString('base64')));
  const project = join(out, 'pyproject.toml');
  await writeAtomic(
    project,
    settled(await readFile(project, 'utf8'), {
      rounds: requireInteger(options.rounds ?? 3, 'rounds', 1),
      'min-nodes': requireInteger(options.minNodes ?? 2, 'minNodes', 1),
      ...(!embedded && { 'initial-arrays': file }),
      ...(legacy && { serverapp: 'duet_server.legacy_app:app' }),
    }),
  );
  return order;
}

async function templateFiles(): Promise<string[]> {
  const entries = await readdir(template, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile() && /\.(py|toml|md)$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name).slice(template.length + 1))
    .filter((name) => !name.endsWith('initial_arrays.py'))
    .sort();
}

async function requireEmpty(folder: string): Promise<void> {
  const found = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw ioError(error, `read ${folder}`);
  });
  if (found.length === 0) return;
  throw new DuetError(
    'INVALID_ARGUMENT',
    `Expected a new or empty folder but ${folder} has ${found[0]} in it; choose another one`,
  );
}

/** The values of `initial` under the names of `values`; what does not travel is left out. */
function replaced(values: Tensors, initial: Tensors): Tensors {
  const names = Object.keys(values);
  const given = (name: string) => initial[name] ?? initial[publishedName(name)];
  const missing = names.filter((name) => given(name) === undefined);
  if (missing.length > 0) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected initial values of all ${names.length} parameters that travel but ${missing.length} are missing: ` +
        `${missing.slice(0, 3).map(publishedName).join(', ')}${missing.length > 3 ? ' ...' : ''}; ` +
        'take those of this model and strategy',
    );
  }
  const taken = names.map((name): [string, Float32Array] => {
    const [value, expected] = [given(name) as Float32Array, values[name]?.length];
    if (value.length === expected) return [name, value];
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected ${expected} initial values of ${name} but received ${value.length}`,
    );
  });
  return Object.fromEntries(taken);
}

function settled(project: string, settings: Record<string, string | number>): string {
  let text = project;
  for (const [name, value] of Object.entries(settings)) {
    const line = new RegExp(`^${name} = .*$`, 'm');
    text = text.replace(line, () => `${name} = ${JSON.stringify(value)}`);
  }
  return text;
}

function moduleOf(base64: string): string {
  const lines = base64.match(/.{1,120}/g) ?? [];
  return `"""The model's initial arrays: a safetensors file in base64. Written by \`duet export-flower-app\`."""\n\nSAFETENSORS = """\n${lines.join('\n')}\n"""\n`;
}
