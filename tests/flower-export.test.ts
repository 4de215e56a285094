// The folder an operator starts on a SuperLink: what is in it, and what is refused. That Flower runs it: flower-integration.test.ts.

import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test, vi } from 'vitest';
import { exportFlowerAppCommand } from '../src/cli/export-flower-app.js';
import type { FederatedClient } from '../src/federated/client.js';
import { exportFlowerApp, type FlowerAppOptions } from '../src/federated/flower/export-app.js';
import { Site } from '../src/federated/site.js';
import { FedAvg } from '../src/federated/strategies/fedavg.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import { LocalOnly } from '../src/federated/strategies/local.js';
import { publishedName } from '../src/models/names.js';
import { native } from '../src/native.js';
import { temporaryFolder, tinyClients, tinyFederation, tinyModel } from './federation-support.js';

const example = fileURLToPath(new URL('../examples/flower-server', import.meta.url));

async function written(options: Partial<FlowerAppOptions> = {}): Promise<{ out: string; names: string[] }> {
  const out = join(await temporaryFolder(), 'app');
  const names = await exportFlowerApp(out, { model: tinyModel(), strategy: new FedDat(), ...options });
  return { out, names };
}

async function filesOf(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile() && !entry.parentPath.endsWith('__pycache__'));
  return files.map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1)).sort();
}

test('the example is what is written for the small model, without its arrays', async () => {
  const { out } = await written();
  const arrays = ['duet_server/initial_arrays.py', 'initial.safetensors'];
  expect((await filesOf(out)).filter((name) => !arrays.includes(name))).toEqual(await filesOf(example));
  for (const name of await filesOf(example))
    expect(await readFile(join(out, name), 'utf8'), name).toBe(await readFile(join(example, name), 'utf8'));
});

test('the arrays are the shared parameters a federation begins with, under the published names', async () => {
  const { out, names } = await written();
  const federation = tinyFederation();
  const { shared } = await federation.tensors(federation.clients[0]!);
  expect([...names].sort()).toEqual(Object.keys(shared).map(publishedName).sort());
  const { tensors, metadata } = await native.readSafetensors(join(out, 'initial.safetensors'));
  expect(JSON.parse(metadata.order ?? '')).toEqual(names);
  for (const [name, values] of Object.entries(shared))
    expect(tensors[publishedName(name)]?.data, name).toEqual(values);
});

test('the module in the app holds the same file', async () => {
  const { out } = await written();
  const module = await readFile(join(out, 'duet_server/initial_arrays.py'), 'utf8');
  const base64 = /SAFETENSORS = """\n([^"]*)"""/.exec(module)?.[1] ?? '';
  expect(Buffer.from(base64, 'base64').equals(await readFile(join(out, 'initial.safetensors')))).toBe(true);
});

test('a shared head travels, too, in the order in which sites number their arrays', async () => {
  const strategy = new FedAvg({ sharedHead: true });
  const { names } = await written({ strategy });
  const [client] = tinyClients(1);
  const runDir = await temporaryFolder();
  const site = await Site.open({ model: tinyModel(), strategy, client: client as FederatedClient, runDir });
  expect(names).toEqual(site.sharedNames.map(publishedName));
  await site.close();
  expect(names.filter((name) => name.startsWith('task_layer.vqa.'))).not.toHaveLength(0);
});

test('rounds, nodes and the older strategies are in its settings', async () => {
  const { out } = await written({ rounds: 12, minNodes: 5, legacy: true });
  const project = await readFile(join(out, 'pyproject.toml'), 'utf8');
  for (const line of ['rounds = 12', 'min-nodes = 5', 'serverapp = "duet_server.legacy_app:app"'])
    expect(project).toContain(`\n${line}\n`);
});

test("other initial values take the place of the model's, by either name; all must be there", async () => {
  const model = tinyModel();
  const own = await model.read(model.names((name) => new FedDat().isShared(name)));
  const given = Object.entries(own).map(([name, values], index): [string, Float32Array] => [
    index % 2 === 0 ? name : publishedName(name),
    new Float32Array(values.length).fill(index),
  ]);
  const initial = Object.fromEntries(given);
  const { out, names } = await written({ model, initial: { ...initial, 'not known': new Float32Array(1) } });
  const { tensors } = await native.readSafetensors(join(out, 'initial.safetensors'));
  for (const [index, name] of names.entries()) expect(tensors[name]?.data).toEqual(given[index]?.[1]);
  const [first] = given[0] as [string, unknown];
  await expect(written({ model, initial: { ...initial, [first]: new Float32Array(1) } })).rejects.toThrow(
    /initial values of .*adapter_1.* but received 1/,
  );
  const { [first]: _, ...most } = initial;
  await expect(written({ model, initial: most })).rejects.toThrow(
    `all ${given.length} parameters that travel but 1 are missing: ${names[0]};`,
  );
  await expect(written({ model, initial: {} })).rejects.toThrow(
    `but ${given.length} are missing: ${names[0]}, `,
  );
});

test('a strategy that shares nothing and a folder with files are refused', async () => {
  await expect(written({ strategy: new LocalOnly() })).rejects.toThrow(/share parameters but local has none/);
  const out = await temporaryFolder();
  await writeFile(join(out, 'mine.txt'), '');
  await expect(exportFlowerApp(out, { model: tinyModel(), strategy: new FedDat() })).rejects.toThrow(
    /has mine.txt in it/,
  );
  expect(await readdir(out)).toEqual(['mine.txt']);
});

test('the command writes it from a model folder', async () => {
  const folder = await temporaryFolder();
  const model = tinyModel(4);
  await model.save(join(folder, 'model'));
  const printed = vi.spyOn(process.stdout, 'write').mockReturnValue(true);
  const flags = [
    '--model',
    join(folder, 'model'),
    '--adapter-reduction',
    '8',
    '--seed',
    '4',
    '--rounds',
    '9',
  ];
  await exportFlowerAppCommand().parseAsync([join(folder, 'app'), ...flags], { from: 'user' });
  const { tensors } = await native.readSafetensors(join(folder, 'app/initial.safetensors'));
  const names = model.names((name) => new FedDat().isShared(name));
  for (const [name, values] of Object.entries(await model.read(names)))
    expect(tensors[publishedName(name)]?.data, name).toEqual(values);
  const again = [join(folder, 'the next'), ...flags, '--init', join(folder, 'app/initial.safetensors')];
  await exportFlowerAppCommand().parseAsync(again, { from: 'user' });
  expect(printed).toHaveBeenLastCalledWith(
    expect.stringContaining(`start it with: flwr run '${join(folder, 'the next')}' <superlink>`),
  );
  printed.mockRestore();
  const both = ['app', 'the next'].map((name) => readFile(join(folder, name, 'initial.safetensors')));
  const [first, next] = await Promise.all(both);
  expect(next?.equals(first ?? Buffer.alloc(0))).toBe(true);
});
