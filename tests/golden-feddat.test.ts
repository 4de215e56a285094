// Reference numbers of federations of other sizes: folders made from a run of our own, right ones and wrong ones.

import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { FixedBatches, type LabelledBatch } from '../src/federated/batch-source.js';
import { Federation } from '../src/federated/federation.js';
import { FedDat } from '../src/federated/strategies/feddat.js';
import type { ClientUpdate } from '../src/federated/strategies/strategy.js';
import { findCases, runCase } from '../src/golden/run.js';
import { isHeadOf, publishedName } from '../src/models/names.js';
import type { TensorData, Tensors } from '../src/native/core.js';
import { native } from '../src/native.js';
import { madeBatch, temporaryFolder, tinyModel } from './federation-support.js';

const DISTANCE = 1e-6;
const ROUNDS = 2;

class Recording extends FedDat {
  sent: readonly ClientUpdate[] = [];

  override aggregate(previous: Tensors, updates: readonly ClientUpdate[]): Promise<Tensors> {
    this.sent = updates;
    return super.aggregate(previous, updates);
  }
}

interface Reference {
  tensors: Record<string, TensorData>;
  rounds: { training: object[]; eval_scores_gated_0_1: Record<string, number[]> }[];
}

const f32 = (data: Float32Array): TensorData => ({ dtype: 'f32', shape: [data.length], data });
const i64 = (shape: number[], data: ArrayLike<number>): TensorData => ({
  dtype: 'i64',
  shape,
  data: BigInt64Array.from(Array.from(data, BigInt)),
});

function published(prefix: string, values: Tensors): Record<string, TensorData> {
  return Object.fromEntries(
    Object.entries(values).map(([name, data]) => [prefix + publishedName(name), f32(data)]),
  );
}

function tensorsOf(prefix: string, batch: LabelledBatch): Record<string, TensorData> {
  const { batch: size, textLength, height, width } = batch;
  const text = [size, textLength];
  return {
    [`${prefix}input_ids`]: i64(text, batch.inputIds),
    [`${prefix}token_type_ids`]: i64(text, batch.tokenTypeIds),
    [`${prefix}attention_mask`]: i64(text, batch.attentionMask),
    [`${prefix}pixel_values`]: {
      dtype: 'f32',
      shape: [size, 3, height, width],
      data: batch.pixelValues,
    },
    [`${prefix}pixel_mask`]: i64([size, height, width], batch.pixelMask),
    [`${prefix}target_scores`]: f32(batch.targets),
  };
}

/** Runs a federation of clients with heads, batches and samples of their own and writes all but its results. */
async function prepare(folder: string, clients: number): Promise<Reference> {
  using model = tinyModel();
  const about = Array.from({ length: clients }, (_, index) => ({
    index,
    task_key: `task${index}`,
    num_labels: 2 + (index % 3),
  }));
  for (const { task_key: task, num_labels: labels } of about) model.addHead(task, labels);
  const evaluation = madeBatch(99, 3);
  const held = about.map(({ index, num_labels: labels }) => ({
    train: [madeBatch(index, 2, labels), madeBatch(50 + index, 1 + (index % 2), labels)],
    evaluation: { ...evaluation, targets: madeBatch(200 + index, 3, labels).targets },
  }));
  await mkdir(folder, { recursive: true });
  const write = (file: string, tensors: Record<string, TensorData>) =>
    native.writeSafetensors(join(folder, file), tensors, {});
  const names = model.names((name) => !isHeadOf(name, 'vqa'));
  await write('init.safetensors', published('', await model.read(names)));
  await write(
    'batches.safetensors',
    Object.assign(
      {},
      ...held.flatMap(({ train }, client) =>
        train.map((batch, number) => tensorsOf(`client${client}.batch${number}.`, batch)),
      ),
    ),
  );
  const targets = held.map(({ evaluation: { targets } }, client) => [
    `client${client}.target_scores`,
    f32(targets),
  ]);
  await write('eval_batch.safetensors', { ...tensorsOf('', evaluation), ...Object.fromEntries(targets) });
  const optimizer = { lr: 1e-2, betas: [0.8, 0.95] as [number, number], eps: 1e-8, weight_decay: 0.1 };
  await writeFile(
    join(folder, 'config.json'),
    JSON.stringify({
      vilt: model.config,
      adapter: { reduction_factor: 8 },
      clients: about,
      rounds: ROUNDS,
      local_epochs: 2,
      num_epochs_in_schedule: 5,
      batch_size: 2,
      optimizer,
      kl_temperature: 2,
    }),
  );
  const strategy = new Recording({ temperature: 2 });
  const federation = new Federation({
    model,
    strategy,
    clients: held.map(({ train, evaluation }, index) => ({
      name: `client${index}`,
      task: `task${index}`,
      train: new FixedBatches(train),
      evaluation: new FixedBatches([evaluation]),
    })),
    rounds: ROUNDS,
    localEpochs: 2,
    batchSize: 2,
    learningRate: optimizer.lr,
    optimizer: { betas: optimizer.betas, epsilon: optimizer.eps, weightDecay: optimizer.weight_decay },
    schedule: { nominalEpochs: 5 },
  });
  const reference: Reference = { tensors: {}, rounds: [] };
  for await (const report of federation.run()) {
    const round = `round${report.number - 1}/`;
    const training: object[] = [];
    const scores: [string, number[]][] = [];
    for (const [index, client] of federation.clients.entries()) {
      const { shared, personal } = await federation.tensors(client);
      Object.assign(
        reference.tensors,
        published(`${round}aggregate/`, shared),
        published(`${round}${client.name}/personal/`, personal),
        published(`${round}${client.name}/sent/`, strategy.sent[index]!.shared),
      );
      await federation.load(client);
      for (const mode of ['gated', 'adapter_0', 'adapter_1'] as const) {
        const logits = await model.evaluate(held[index]!.evaluation, client.task, mode);
        reference.tensors[`${round}${client.name}/eval/${mode}`] = f32(logits);
      }
      const { bce1, kl1, loss1, bce0, kl0, loss0 } = report.clients[index]!.losses;
      const losses = { bce_1: bce1, kl_1: kl1, L_1: loss1, bce_0: bce0, kl_0: kl0, L_0: loss0 };
      training.push({ client: index, batches: [losses] });
      const { gated, local, shared: sharedScore } = report.evaluation!.clients[index]!.accuracy;
      scores.push([client.name, [gated, local, sharedScore].map((score) => 100 * score!)]);
    }
    // In the order of a program that sorts its keys: client10 stands before client2.
    scores.sort(([a], [b]) => (a < b ? -1 : 1));
    reference.rounds.push({ training, eval_scores_gated_0_1: Object.fromEntries(scores) });
  }
  return reference;
}

async function outcomeOf(root: string, { tensors, rounds }: Reference) {
  const folder = join(root, 'federation');
  await native.writeSafetensors(join(folder, 'intended_weighted.safetensors'), tensors, {});
  const parts = ['aggregate', 'personal', 'eval'];
  const distances = rounds.flatMap((_, round) => parts.map((part) => [`round${round}.${part}`, DISTANCE]));
  const info = { rounds, max_abs_diff_to_float64: Object.fromEntries(distances) };
  await writeFile(join(folder, 'intended_weighted.json'), JSON.stringify(info));
  const cases = await findCases({ folder: root, device: 'cpu', threads: 1 });
  expect(cases.map(({ name }) => name)).toEqual(['federation/intended_weighted']);
  return runCase(cases[0]!);
}

test.each([2, 11])(
  'a federation of %i clients: right numbers pass, wrong ones are named',
  async (clients) => {
    const root = await temporaryFolder();
    const reference = await prepare(join(root, 'federation'), clients);
    expect(await outcomeOf(root, reference)).toMatchObject({ status: 'pass' });

    const last = `round${ROUNDS - 1}/client${clients - 1}`;
    const wrong = Object.keys(reference.tensors).filter((name) => name.startsWith(last));
    const kinds = new Set(wrong.map((name) => name.split('/').slice(0, 3).join('/')));
    expect([...kinds].sort()).toEqual([`${last}/eval`, `${last}/personal`, `${last}/sent`]);
    for (const kind of kinds) {
      const name = wrong.find((one) => one.startsWith(kind))!;
      const moved = (reference.tensors[name]!.data as Float32Array).map((value) => value + 1e-3);
      const tensors = { ...reference.tensors, [name]: f32(moved) };
      const outcome = await outcomeOf(root, { ...reference, tensors });
      expect(outcome).toMatchObject({ status: 'fail' });
      expect(outcome.worst?.what).toContain(name);
    }
    const rounds = structuredClone(reference.rounds);
    rounds.at(-1)!.eval_scores_gated_0_1[`client${clients - 1}`]![1]! += 1;
    const outcome = await outcomeOf(root, { ...reference, rounds });
    expect(outcome).toMatchObject({ status: 'fail', worst: { what: `${last}/score local` } });
  },
);

test('one element of a trained parameter in a thousand may be ten times farther, not more', async () => {
  const root = await temporaryFolder();
  const reference = await prepare(join(root, 'federation'), 1);
  const [name, { data }] = Object.entries(reference.tensors).find(([, { data }]) => data.length > 100)!;
  const moved = (elements: number, by: number) => ({
    ...reference,
    tensors: {
      ...reference.tensors,
      [name]: f32((data as Float32Array).map((value, index) => value + (index < elements ? by : 0))),
    },
  });
  expect(await outcomeOf(root, moved(1, 50 * DISTANCE))).toMatchObject({ status: 'pass' });
  expect(await outcomeOf(root, moved(2, 50 * DISTANCE))).toMatchObject({ status: 'fail' });
  expect(await outcomeOf(root, moved(1, 200 * DISTANCE))).toMatchObject({ status: 'fail' });
});
