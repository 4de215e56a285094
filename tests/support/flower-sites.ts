/** Sites of a small federation for tests with real Flower: data and a model on the disk, duet clients, and what one process makes of it. */

import { execFileSync } from 'node:child_process';
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'vitest';
import { loadFederation } from '../../src/cli/federation-data.js';
import type { AnswerVocabulary } from '../../src/data/answers.js';
import type { FederatedClient } from '../../src/federated/client.js';
import { Federation } from '../../src/federated/federation.js';
import { exportFlowerApp } from '../../src/federated/flower/export-app.js';
import { FedDat } from '../../src/federated/strategies/feddat.js';
import type { ClientUpdate } from '../../src/federated/strategies/strategy.js';
import { publishedName } from '../../src/models/names.js';
import { Vilt } from '../../src/models/vilt.js';
import type { Tensors } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import { drawSmallSet, quickPretraining, succeed } from '../cli-support.js';
import { Process } from './flower.js';

const program = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));

/** What the Python node of these tests (flower-node/) adds to every value, and the samples it says it has. */
export const PYTHON = { step: 0.125, samples: 8 };

const settings = { batchSize: 6, learningRate: 1e-2, seed: 3 };
const adapters = { reduction: 8 };

export interface Sites {
  folder: string;
  data: string;
  model: string;
  names: readonly string[];
}

/** Two clients of 16 pictures and a backbone that was trained for a second. */
export async function makeSites(folder: string): Promise<Sites> {
  const data = await drawSmallSet(folder);
  const model = join(folder, 'model');
  await succeed('pretrain', data, ...quickPretraining, '--epochs', '1', '--out', model);
  return { folder, data, model, names: ['outline', 'poster'] };
}

/** `duet client` of a site, with its run folder in `sites.folder`. */
export function startClient(
  sites: Sites,
  index: number,
  superlink: string,
  more: readonly string[] = [],
): Process {
  const name = sites.names[index] as string;
  const { batchSize, learningRate, seed } = settings;
  const site = ['--model', sites.model, '--client', name, '--index', `${index}`];
  const training = ['--batch-size', `${batchSize}`, '--lr', `${learningRate}`, '--seed', `${seed}`];
  const rest = ['--adapter-reduction', `${adapters.reduction}`, '--threads', '1'];
  const args = [
    program,
    'client',
    sites.data,
    '--superlink',
    superlink,
    ...site,
    ...training,
    ...rest,
    ...more,
  ];
  return new Process(process.execPath, args, { name: `client-${name}` });
}

/** An EC key in OpenSSH's format, with its public key in `<path>.pub`. */
export function makeKey(path: string): string {
  execFileSync('ssh-keygen', ['-q', '-t', 'ecdsa', '-b', '384', '-N', '', '-C', '', '-f', path]);
  return path;
}

/** Writes the app of the sites' model. @param python its ClientApp is the Python node of these tests */
export async function makeApp(
  sites: Sites,
  folder: string,
  options: { legacy?: boolean; python?: boolean } = {},
): Promise<string> {
  using model = await openModel(sites);
  const { legacy = false, python = false } = options;
  await exportFlowerApp(folder, { model, strategy: new FedDat(), legacy });
  if (python) {
    const node = fileURLToPath(
      new URL(`flower-node/${legacy ? 'legacy' : 'message_api'}.py`, import.meta.url),
    );
    await cp(node, join(folder, 'duet_server/client_app.py'));
  }
  return folder;
}

const references = new Map<string, Promise<Reference>>();

export interface Reference {
  /** The shared parameters after the last round, by the names they travel under. */
  shared: Tensors;
  /** What each site exports, in the order of the sites. */
  sites: readonly Tensors[];
}

/** What a federation in one process makes of the sites, with the Python node's share in it or not. */
export function inOneProcess(sites: Sites, rounds: number, python: boolean): Promise<Reference> {
  const key = `${sites.folder} ${rounds} ${python}`;
  const known = references.get(key) ?? federate(sites, rounds, python);
  references.set(key, known);
  return known;
}

async function federate(sites: Sites, rounds: number, python: boolean): Promise<Reference> {
  const flags = { view: 'style', trainSplit: 'train', evalSplit: 'val', topAnswers: 3129 };
  const { clients: found, answers } = await loadFederation(sites.data, sites.model, flags);
  const clients = sites.names.map((name) => found.find((client) => client.name === name) as FederatedClient);
  using model = await openModel(sites, answers);
  const strategy = python ? new WithPythonNode() : new FedDat();
  const federation = new Federation({ model, strategy, clients, rounds, ...settings });
  for await (const round of federation.run()) expect(round.failures).toEqual([]);
  const { shared } = await federation.tensors(clients[0] as FederatedClient);
  const paths = await federation.export(join(sites.folder, `exported-${rounds}-${python}`));
  return {
    shared: Object.fromEntries(Object.entries(shared).map(([name, value]) => [publishedName(name), value])),
    sites: await Promise.all(clients.map(({ name }) => arraysOf(paths.get(name) as string))),
  };
}

class WithPythonNode extends FedDat {
  override aggregate(previous: Tensors, updates: readonly ClientUpdate[]): Promise<Tensors> {
    const moved = ([name, value]: [string, Float32Array]) => [name, value.map((one) => one + PYTHON.step)];
    const shared: Tensors = Object.fromEntries(Object.entries(previous).map(moved));
    return super.aggregate(previous, [...updates, { client: 'python', samples: PYTHON.samples, shared }]);
  }
}

/** Reads arrays a ServerApp left behind. */
export async function arraysOf(path: string): Promise<Tensors> {
  const { tensors } = await native.readSafetensors(path);
  return Object.fromEntries(Object.entries(tensors).map(([name, { data }]) => [name, data as Float32Array]));
}

/** The largest difference of two sets of arrays with the same names and lengths. */
export function distance(a: Tensors, b: Tensors): number {
  expect(Object.keys(a).sort()).toEqual(Object.keys(b).sort());
  let largest = 0;
  for (const [name, values] of Object.entries(a)) {
    expect(values.length, name).toBe(b[name]?.length);
    for (const [index, value] of values.entries())
      largest = Math.max(largest, Math.abs(value - (b[name]?.[index] ?? Number.NaN)));
  }
  return largest;
}

function openModel(sites: Sites, answers?: AnswerVocabulary): Promise<Vilt> {
  return Vilt.fromPretrained(sites.model, {
    ...(answers && { answers }),
    adapters,
    seed: settings.seed,
    threads: 1,
  });
}
