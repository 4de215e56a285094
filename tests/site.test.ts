// One participant whose server is elsewhere: the numbers of the federation in one process, and nothing lost or done twice.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { describe, expect, test } from 'vitest';
import { FixedBatches } from '../src/federated/batch-source.js';
import type { ClientEvaluation } from '../src/federated/evaluation.js';
import { Protection } from '../src/federated/privacy/protection.js';
import type { SiteOptions, SiteUpdate } from '../src/federated/site.js';
import { Centralised } from '../src/federated/strategies/centralised.js';
import { FedAvg } from '../src/federated/strategies/fedavg.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import { LocalOnly } from '../src/federated/strategies/local.js';
import type { Strategy } from '../src/federated/strategies/strategy.js';
import { publishedName } from '../src/models/names.js';
import { native } from '../src/native.js';
import { metricsOf } from './cli-support.js';
import {
  allRounds,
  madeBatch,
  temporaryFolder,
  tinyClients,
  tinyFederation,
  tinyModel,
} from './federation-support.js';
import { aggregated, tinySite, tinyTraining, valuesOf } from './site-support.js';

const checkpoint = (site: { settings: { runDir: string } }, round: number) =>
  native.readSafetensors(join(site.settings.runDir, `checkpoints/round-000${round}.safetensors`));

describe('the numbers of the federation in one process', () => {
  const strategies: [string, () => Strategy][] = [
    ['feddat', () => new FedDat()],
    ['feddat, gated with the aggregate', () => new FedDat({ gatedWith: 'aggregate' })],
    ['fedavg with a shared head', () => new FedAvg({ sharedHead: true })],
  ];
  test.each(strategies)('%s, bit for bit, with sites that share a model', async (_, make) => {
    const rounds = 3;
    const federation = tinyFederation({ strategy: make(), clients: tinyClients(3), rounds });
    const reports = await allRounds(federation);

    const [model, strategy] = [tinyModel(), make()];
    const clients = tinyClients(3);
    const sites = await Promise.all(
      clients.map((client, index) => tinySite({ model, strategy, client, index })),
    );
    let shared = valuesOf(sites[0]!);
    for (let round = 1; round <= rounds; round++) {
      const task = { round, shared };
      const updates = await Promise.all(sites.map((site) => site.train({ id: `train ${round}`, ...task })));
      shared = await aggregated(strategy, shared, sites, updates);
      const evaluations: (ClientEvaluation | undefined)[] = [];
      for (const site of sites)
        evaluations.push(await site.evaluate({ id: `evaluate ${round}`, round, shared }));
      const report = reports[round - 1]!;
      expect(updates.map((update) => update.report)).toEqual(report.clients);
      expect(evaluations).toEqual(report.evaluation!.clients);
    }
    for (const [index, site] of sites.entries()) {
      const whole = await federation.tensors(federation.clients[index]!);
      expect(shared).toEqual(whole.shared);
      const { tensors } = await checkpoint(site, rounds);
      for (const [name, values] of Object.entries(whole.personal))
        expect(tensors[`personal/${name}`]!.data).toEqual(values);
      await site.close();
    }
    const initial = await tinyModel().read(model.tunable);
    expect(await model.read(model.tunable)).toEqual(initial);
  });
});

describe('a task', () => {
  test('has the same answer again, also after the site was opened again', async () => {
    const site = await tinySite();
    const task = { id: 'one', round: 1, shared: valuesOf(site) };
    const update = await site.train(task);
    const evaluation = await site.evaluate({ ...task, id: 'two' });
    const lines = await metricsOf(site.settings.runDir);
    expect(await site.train(task)).toEqual(update);
    await site.close();

    const again = await tinySite({ runDir: site.settings.runDir, resume: true });
    expect(again.round).toBe(1);
    expect(await again.train(task)).toEqual(update);
    expect(await again.evaluate({ ...task, id: 'two' })).toEqual(evaluation);
    expect(await metricsOf(site.settings.runDir)).toEqual(lines);
    expect(lines).toMatchObject([
      { number: 1, round: 1, task: 'one', strategy: 'feddat', training: { loss: update.report.loss } },
      { number: 1, round: 1, task: 'two', evaluation: { accuracy: evaluation!.accuracy } },
    ]);
    await again.close();
  });

  test('of a round that is repeated begins from the state before that round', async () => {
    const [whole, repeated] = await Promise.all([tinySite(), tinySite()]);
    const shared = valuesOf(whole);
    const train = (site: typeof whole, round: number, id: string) => site.train({ id, round, shared });
    for (const [site, ids] of [
      [whole, ['a']],
      [repeated, ['a', 'b', 'c']],
    ] as const) {
      for (const round of [1, 2]) for (const id of ids) await train(site, round, `${id} ${round}`);
    }
    const wanted = await train(whole, 3, 'end');
    await repeated.close();
    const opened = await tinySite({ runDir: repeated.settings.runDir, resume: true });
    expect(await train(opened, 3, 'end')).toEqual(wanted);
    const trained = await metricsOf(opened.settings.runDir);
    expect(trained.map((line) => [line.number, line.task])).toEqual([
      [1, 'c 1'],
      [2, 'c 2'],
      [3, 'end'],
    ]);
    await Promise.all([whole.close(), opened.close()]);
  });

  test('of an earlier round is refused', async () => {
    const site = await tinySite();
    const shared = valuesOf(site);
    await site.train({ id: 'one', round: 4, shared });
    const message =
      /task of round 4 or later for site client0 but received round 3; another run of the server/;
    await expect(site.train({ id: 'two', round: 3, shared })).rejects.toThrow(message);
    await expect(site.evaluate({ id: 'two', round: 3, shared })).rejects.toThrow(message);
    await site.close();
  });

  test('with other parameters than those that travel is refused', async () => {
    const site = await tinySite();
    const shared = valuesOf(site);
    const [name, ...others] = site.sharedNames;
    const { [name!]: first, ...rest } = shared;
    const bad: [object, RegExp][] = [
      [rest, new RegExp(`${first!.length} values of ${name} from the server in round 1 but received none`)],
      [{ ...shared, more: first }, /Expected none of more from the server in round 1/],
      [{ ...shared, [name!]: first!.slice(1) }, new RegExp(`but received ${first!.length - 1} values`)],
      [{ ...shared, [others[0]!]: Array.from(shared[others[0]!]!) }, /Expected Float32Array/],
    ];
    for (const [values, message] of bad)
      await expect(site.train({ id: 'one', round: 1, shared: values as never })).rejects.toThrow(message);
    expect(site.round).toBe(0);
    await site.close();
  });

  test('that is cancelled changes nothing', async () => {
    const controller = new AbortController();
    const model = tinyModel();
    const runDir = join(await temporaryFolder(), 'cancelled');
    const stopping = await tinySite({ model, runDir, onProgress: () => controller.abort() });
    const task = { id: 'one', round: 1, shared: valuesOf(stopping) };
    const { signal } = controller;
    await expect(stopping.train(task, { signal })).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(await model.read(model.tunable)).toEqual(await tinyModel().read(model.tunable));
    await stopping.close();
    await expect(stopping.train(task)).rejects.toThrow(/Expected an open site/);
    const [resumed, other] = [await tinySite({ model, runDir, resume: true }), await tinySite()];
    expect(await resumed.train(task)).toEqual(await other.train(task));
    await Promise.all([resumed.close(), other.close()]);
  });

  test('answers with the protected update, whose personal half is not touched', async () => {
    const calls: unknown[] = [];
    const protection = {
      async apply(update: SiteUpdate['shared'], received: SiteUpdate['shared'], task: object) {
        calls.push(task);
        return Object.fromEntries(
          Object.entries(update).map(([name, values]) => [
            name,
            values.map((value, i) => (value + received[name]![i]!) / 2),
          ]),
        );
      },
    };
    const [site, plain] = await Promise.all([tinySite({ protection }), tinySite()]);
    const task = { id: 'one', round: 1, shared: valuesOf(site) };
    const [update, whole] = [await site.train(task), await plain.train(task)];
    for (const name of site.sharedNames) {
      const [values, received] = [whole.shared[name]!, task.shared[name]!];
      expect(update.shared[name]).toEqual(values.map((value, i) => (value + received[i]!) / 2));
    }
    await site.train(task);
    expect(calls).toEqual([{ round: 1, id: 'one' }]);
    const [a, b] = [await checkpoint(site, 1), await checkpoint(plain, 1)];
    for (const name of Object.keys(b.tensors).filter((one) => one.startsWith('personal/')))
      expect(a.tensors[name]).toEqual(b.tensors[name]);
    await Promise.all([site.close(), plain.close()]);
  });

  test('with clipping and noise: reported, counted, and not resumed with others', async () => {
    const folder = await temporaryFolder();
    const protection = (ledger: string, clip = 1e-3) =>
      new Protection({ clip, noise: 2, seed: 1, epsilon: 7, ledger: join(folder, ledger) });
    const site = await tinySite({ protection: protection('privacy.json') });
    const shared = valuesOf(site);
    await site.train({ id: 'one', round: 1, shared });
    const [line] = await metricsOf(site.settings.runDir);
    expect(line).toMatchObject({
      protection: { norm: expect.any(Number), clipped: true, spent: { epsilon: expect.closeTo(5.2, 0) } },
    });
    const update = site.train({ id: 'two', round: 2, shared });
    await expect(update).rejects.toMatchObject({ code: 'BUDGET_SPENT' });
    expect(site.round).toBe(1);
    await site.close();
    const open = (made?: Protection) =>
      tinySite({ runDir: site.settings.runDir, resume: true, ...(made && { protection: made }) });
    await expect(open(protection('privacy.json', 2e-3))).rejects.toThrow(
      /protection.clip was 0.001 and is 0.002/,
    );
    await expect(open()).rejects.toThrow(/protection was .* and is nothing/);
    await (await open(protection('elsewhere.json'))).close();
    const forgetful = new Protection({ clip: 1, noise: 2, epsilon: 7 });
    await expect(tinySite({ protection: forgetful })).rejects.toThrow(/Expected a ledger/);
  });

  test('of evaluation has no answer without evaluation data', async () => {
    const { evaluation: _, ...client } = tinyClients(1)[0]!;
    const site = await tinySite({ client });
    expect(await site.evaluate({ id: 'one', round: 1, shared: valuesOf(site) })).toBeUndefined();
    await site.close();
  });
});

describe('opening', () => {
  const bad: [string, () => Partial<SiteOptions>, RegExp][] = [
    ['centralised', () => ({ strategy: new Centralised() }), /centralised has none; take feddat or fedavg/],
    ['local only', () => ({ strategy: new LocalOnly() }), /local has none/],
    ['another head', () => ({ client: { ...tinyClients(1)[0]!, task: 'other' } }), /received "other"/],
    ['a number', () => ({ index: -1 }), /of at least 0 for index but received -1/],
    [
      'a misspelt option',
      () => ({ epochs: 2 }) as object,
      /Expected only known settings but received epochs/,
    ],
    ['a protection', () => ({ protection: {} as never }), /Expected function for apply of protection/],
  ];
  test.each(bad)('refuses %s', async (_, options, message) => {
    await expect(tinySite(options())).rejects.toThrow(message);
  });

  test('a folder of another site or of other data is refused', async () => {
    const site = await tinySite();
    await expect(tinySite({ runDir: site.settings.runDir, resume: true })).rejects.toThrow(
      /in use by process/,
    );
    await site.close();
    const open = (options: Partial<SiteOptions>) =>
      tinySite({ runDir: site.settings.runDir, resume: true, ...options });
    await expect(open({ resume: false })).rejects.toThrow(/already holds a run; resume it/);
    await expect(open({ index: 3, localEpochs: 2 })).rejects.toThrow(
      /index was 0 and is 3; localEpochs was 1 and is 2/,
    );
    const other = tinyModel();
    const [head] = other.names((name) => name.startsWith('task_layer.')) as [string];
    const { [head]: values } = await other.read([head]);
    await other.write({ [head]: values!.map((value) => value + 1) });
    await expect(open({ model: other })).rejects.toThrow(/initialValues was "\w+" and is "\w+"/);
    await expect(open({ model: tinyModel(2) })).rejects.toThrow(/model.fingerprint was .* and is/);
    const train = Object.assign(new FixedBatches([madeBatch(3)]), { fingerprint: 'other' });
    await expect(open({ client: { ...tinyClients(1)[0]!, train } })).rejects.toThrow(
      /client.samples was 4 and is 2; client.data was nothing and is "other"/,
    );
    await (await open({ rounds: 9 })).close();
  });

  test('takes the checkpoint before a damaged one', async () => {
    const site = await tinySite();
    const shared = valuesOf(site);
    for (const round of [1, 2]) await site.train({ id: `${round}`, round, shared });
    await site.close();
    const path = join(site.settings.runDir, 'checkpoints/round-0002.safetensors');
    await writeFile(path, (await readFile(path)).subarray(0, 200));
    const again = await tinySite({ runDir: site.settings.runDir, resume: true });
    expect([again.round, again.damaged.length, again.history.length]).toEqual([1, 1, 1]);
    await again.close();
  });
});

test('export holds the adapters and the head under the published names', async () => {
  const site = await tinySite();
  const shared = valuesOf(site);
  await site.train({ id: 'one', round: 1, shared });
  const { tensors, metadata } = await native.readSafetensors(await site.export());
  for (const name of site.sharedNames) expect(tensors[publishedName(name)]!.data).toEqual(shared[name]);
  expect(Object.keys(tensors).length).toBe(3 * site.sharedNames.length + 6);
  expect(metadata.about).toBe('{"strategy":"feddat","round":1}');
  await site.close();
});

describe('kill -9 at any moment', () => {
  test('ends with the numbers of a site that was left alone', async () => {
    const folder = await temporaryFolder();
    const rounds = 12;
    const script = join(folder, 'site.mjs');
    await writeFile(script, killed(rounds));
    const start = (name: string): ChildProcess => spawn(process.execPath, [script, join(folder, name)]);
    const began = performance.now();
    expect((await once(start('whole'), 'exit'))[0]).toBe(0);
    const wholeMs = performance.now() - began;
    let kills = 0;
    for (let attempt = 0; attempt < 60; attempt++) {
      const child = start('killed');
      const exit = once(child, 'exit');
      const ended = await Promise.race([exit, setTimeout(wholeMs * (0.55 + ((attempt * 0.37) % 0.35)))]);
      if (ended?.[0] === 0) break;
      child.kill('SIGKILL');
      if ((await exit)[1] === 'SIGKILL') kills++;
    }
    expect(kills).toBeGreaterThan(0);
    expect((await once(start('killed'), 'exit'))[0]).toBe(0);
    expect(await metricsOf(join(folder, 'killed'))).toEqual(await metricsOf(join(folder, 'whole')));
    const last = (name: string) => readFile(join(folder, name, `checkpoints/round-00${rounds}.safetensors`));
    expect((await last('killed')).equals(await last('whole'))).toBe(true);
  });
});

/** A program with a site whose server sends every update back, and asks again for what it did not see answered. */
function killed(rounds: number): string {
  const dist = (path: string) => pathToFileURL(join(import.meta.dirname, '../dist', path)).href;
  return `
import { readSafetensors } from '${dist('system.js')}';
import { FixedBatches } from '${dist('federated/batch-source.js')}';
import { Site } from '${dist('federated/site.js')}';
import { FedDat } from '${dist('federated/strategies/feddat.js')}';
import { Vilt } from '${dist('models/vilt.js')}';
import { viltPreset } from '${dist('models/config.js')}';

const config = viltPreset('tiny', { vocab_size: 20, hidden_size: 32, intermediate_size: 64, image_size: 32, max_position_embeddings: 8 });
const model = Vilt.create(config, { answers: 4, adapters: { reduction: 8 }, seed: 1, threads: 1 });
const batch = {
  batch: 2, textLength: 4, height: 32, width: 32,
  inputIds: Int32Array.from({ length: 8 }, (_, i) => i), tokenTypeIds: new Int32Array(8), attentionMask: new Uint8Array(8).fill(1),
  pixelValues: Float32Array.from({ length: 2 * 3 * 32 * 32 }, (_, i) => Math.sin(i)), pixelMask: new Uint8Array(2 * 32 * 32).fill(1),
  targets: Float32Array.from([1, 0, 0, 0, 0, 0, 1, 0]),
};
const train = new FixedBatches(Array.from({ length: 8 }, () => batch));
const runDir = process.argv[2];
const site = await Site.open({ model, strategy: new FedDat(), client: { name: 'a', train, evaluation: train }, runDir, resume: true,
  ...${JSON.stringify(tinyTraining)} });
const values = (tensors, prefix) => Object.fromEntries(site.sharedNames.map((name) => [name, tensors[prefix + name].data]));
let shared = values(site.initialShared(), '');
let first = 1;
if (site.round > 0) {
  const { tensors } = await readSafetensors(\`\${runDir}/checkpoints/round-\${String(site.round).padStart(4, '0')}.safetensors\`);
  shared = values(tensors, 'received/');
  first = site.round;
}
for (let round = first; round <= ${rounds}; round++) {
  shared = (await site.train({ id: 'train ' + round, round, shared })).shared;
  await site.evaluate({ id: 'evaluate ' + round, round, shared });
}
await site.close();
`;
}
