/**
 * federation: whole rounds with several clients through the Federation class itself, one case a variant. What clients keep and
 * send, the aggregate, logits and scores of the three evaluation modes after every round.
 */

import { z } from 'zod';
import { FixedBatches } from '../../federated/batch-source.js';
import type { FederatedClient } from '../../federated/client.js';
import { Federation } from '../../federated/federation.js';
import type { RoundReport } from '../../federated/report.js';
import { scheduleFor } from '../../federated/schedule.js';
import { FedDat } from '../../federated/strategies/feddat.js';
import type { ClientUpdate } from '../../federated/strategies/strategy.js';
import { viltConfig } from '../../models/config.js';
import { nameFromPublished } from '../../models/names.js';
import { Vilt } from '../../models/vilt.js';
import type { Tensors } from '../../native/core.js';
import { Comparison, floats, type GoldenCase, type GoldenContext, skipped } from '../case.js';
import {
  batchOf,
  countOf,
  filesEnding,
  parametersOf,
  readSettings,
  readTensors,
  type TensorMap,
  under,
} from '../files.js';
import { EXACT, FACTOR, RELATIVE } from '../tolerance.js';

const configSchema = z.looseObject({
  vilt: z.record(z.string(), z.unknown()),
  adapter: z.looseObject({ reduction_factor: z.int() }),
  clients: z.array(z.looseObject({ index: z.int(), task_key: z.string(), num_labels: z.int() })),
  rounds: z.int(),
  local_epochs: z.int(),
  num_epochs_in_schedule: z.number(),
  batch_size: z.int(),
  optimizer: z.looseObject({
    lr: z.number(),
    betas: z.tuple([z.number(), z.number()]),
    eps: z.number(),
    weight_decay: z.number(),
  }),
  kl_temperature: z.number(),
  variants: z
    .record(
      z.string(),
      z.looseObject({
        zero_grad: z.string().optional(),
        evaluation_freezes_adapter_0: z.boolean().default(false),
        aggregation: z.string().optional(),
      }),
    )
    .default({}),
});

const numbers = z.record(z.string(), z.number());
const variantSchema = z.looseObject({
  rounds: z.array(
    z.looseObject({
      weights: z.array(z.number()).default([]),
      training: z
        .array(
          z.looseObject({
            batches: z.array(numbers),
            max_steps: z.int().optional(),
            num_warmup_steps: z.int().optional(),
          }),
        )
        .default([]),
      eval_scores_gated_0_1: z.record(z.string(), z.array(z.number())).default({}),
    }),
  ),
  shared_names: z.array(z.string()).default([]),
  max_abs_diff_to_float64: numbers.default({}),
});

type Config = z.output<typeof configSchema>;
type Variant = z.output<typeof variantSchema>;
const MODES = ['gated', 'adapter_0', 'adapter_1'] as const;
const LOSSES = { bce_1: 'bce1', kl_1: 'kl1', L_1: 'loss1', bce_0: 'bce0', kl_0: 'kl0', L_0: 'loss0' };

export async function federationCases(folder: string, context: GoldenContext): Promise<GoldenCase[]> {
  const config = await readSettings(configSchema, folder, 'config.json');
  const variants = (await filesEnding(folder, '.json')).filter((name) => name !== 'config');
  return variants.map((variant) => {
    const name = `federation/${variant}`;
    const about = config.variants[variant];
    if (about?.evaluation_freezes_adapter_0 ?? variant.startsWith('asis')) {
      return skipped(
        name,
        'a bug of the published program, which freezes adapter_0 after its first evaluation',
      );
    }
    return {
      name,
      async run() {
        const comparison = new Comparison(name);
        await compare(folder, variant, config, context, comparison);
        return comparison.outcome();
      },
    };
  });
}

/** FedDAT that remembers what was sent. */
class RecordingFedDat extends FedDat {
  sent: readonly ClientUpdate[] = [];

  override aggregate(previous: Tensors, updates: readonly ClientUpdate[]): Promise<Tensors> {
    this.sent = updates;
    return super.aggregate(previous, updates);
  }
}

async function compare(
  folder: string,
  variant: string,
  config: Config,
  { device, threads }: GoldenContext,
  comparison: Comparison,
): Promise<void> {
  const info = await readSettings(variantSchema, folder, `${variant}.json`);
  const expected = await readTensors(folder, `${variant}.safetensors`);
  const about = config.variants[variant];
  using model = Vilt.create(viltConfig(config.vilt, `${folder}/config.json`), {
    device,
    threads,
    adapters: { reduction: config.adapter.reduction_factor },
  });
  for (const client of config.clients) model.addHead(client.task_key, client.num_labels);
  await model.write(parametersOf(await readTensors(folder, 'init.safetensors')));
  const weights = /uniform|^asis/.test(about?.aggregation ?? variant) ? 'uniform' : 'samples';
  const strategy = new RecordingFedDat({
    temperature: config.kl_temperature,
    weights,
    clearGradients: /zero/.test(about?.zero_grad ?? variant) ? 'zero' : 'none',
  });
  const { lr: learningRate, betas, eps: epsilon, weight_decay: weightDecay } = config.optimizer;
  const federation = new Federation({
    model,
    strategy,
    clients: await clientsOf(folder, config),
    rounds: config.rounds,
    localEpochs: config.local_epochs,
    batchSize: config.batch_size,
    learningRate,
    optimizer: { betas, epsilon, weightDecay },
    schedule: { nominalEpochs: config.num_epochs_in_schedule },
  });
  comparison.scalar('rounds', config.rounds, info.rounds.length, EXACT);
  compareLayout(comparison, federation, info, weights === 'uniform');
  for await (const report of federation.run()) {
    await compareRound(comparison, federation, strategy, report, info, expected);
  }
}

/** What is laid out before anything is computed: schedules, weights of the average, what travels. */
function compareLayout(
  comparison: Comparison,
  federation: Federation,
  info: Variant,
  uniform: boolean,
): void {
  const { clients, settings } = federation;
  const all = clients.reduce((sum, client) => sum + client.train.size, 0);
  for (const [index, client] of clients.entries()) {
    const { maxSteps, warmupSteps } = scheduleFor(
      client.train.batchCount(settings.batchSize),
      settings.schedule,
    );
    for (const [round, { training, weights }] of info.rounds.entries()) {
      const where = `round${round}/${client.name}`;
      const { max_steps = maxSteps, num_warmup_steps = warmupSteps } = training[index] ?? {};
      comparison.scalar(`${where}/steps of the schedule`, maxSteps, max_steps, EXACT);
      comparison.scalar(`${where}/steps of its warm-up`, warmupSteps, num_warmup_steps, EXACT);
      const weight = uniform ? 1 / clients.length : client.train.size / all;
      comparison.scalar(`${where}/weight`, weight, weights[index] ?? weight, 1e-12);
    }
  }
  if (info.shared_names.length === 0) return;
  const task = clients[0]?.task ?? '';
  const travels = federation.model.names((name) => federation.strategy.isShared(name, task));
  const listed = new Set(info.shared_names.map(nameFromPublished));
  const different = travels.filter((name) => !listed.has(name)).length + listed.size - travels.length;
  comparison.scalar('names that travel or do not', different, 0, EXACT);
}

async function clientsOf(folder: string, config: Config): Promise<FederatedClient[]> {
  const batches = await readTensors(folder, 'batches.safetensors');
  const evaluation = await readTensors(folder, 'eval_batch.safetensors');
  return config.clients.map((client) => {
    const own = under(batches, `client${client.index}.`);
    const train = Array.from({ length: countOf(own, /^batch(\d+)\./) }, (_, number) =>
      batchOf(under(own, `batch${number}.`)),
    );
    return {
      name: `client${client.index}`,
      task: client.task_key,
      train: new FixedBatches(train),
      evaluation: new FixedBatches([batchOf(evaluation, evaluation[`client${client.index}.target_scores`])]),
    };
  });
}

async function compareRound(
  comparison: Comparison,
  federation: Federation,
  strategy: RecordingFedDat,
  report: RoundReport,
  info: Variant,
  expected: TensorMap,
): Promise<void> {
  const round = report.number - 1;
  const reference = under(expected, `round${round}/`);
  const [aggregated, kept, evaluated] = ['aggregate', 'personal', 'eval'].map(
    (what) => info.max_abs_diff_to_float64[`round${round}.${what}`],
  );
  // Logits, and losses with them, are no nearer to float64 than the parameters they are made of.
  const logitsDistance = largestOf(aggregated, kept, evaluated);
  const parameters = (where: string, actual: Tensors, known: number | undefined) => {
    for (const [published, tensor] of Object.entries(under(reference, `${where}/`))) {
      comparison.trained(
        `round${round}/${where}/${published}`,
        actual[nameFromPublished(published)],
        floats(tensor),
        known,
      );
    }
  };
  for (const [index, client] of federation.clients.entries()) {
    const { shared, personal } = await federation.tensors(client);
    if (index === 0) parameters('aggregate', shared, aggregated);
    parameters(`${client.name}/personal`, personal, kept);
    // The aggregate has a client's distance multiplied by its weight.
    const weight = info.rounds[round]?.weights[index] ?? 1 / federation.clients.length;
    const sent = largestOf(kept, aggregated === undefined ? aggregated : aggregated / weight);
    parameters(`${client.name}/sent`, strategy.sent[index]?.shared ?? {}, sent);
    await federation.load(client);
    for (const mode of MODES) {
      const tensor = reference[`${client.name}/eval/${mode}`];
      if (!tensor || !client.evaluation) continue;
      for await (const batch of client.evaluation.batches({ batchSize: 1 })) {
        const logits = await federation.model.evaluate(batch, client.task, mode);
        comparison.close(`round${round}/${client.name}/eval/${mode}`, logits, floats(tensor), logitsDistance);
      }
    }
    compareLosses(comparison, round, client.name, report, index, info.rounds[round], logitsDistance);
  }
}

/** The largest distance known; undefined when none is. */
function largestOf(...distances: (number | undefined)[]): number | undefined {
  const known = distances.filter((distance) => distance !== undefined);
  return known.length > 0 ? Math.max(...known) : undefined;
}

/** Mean losses over the batches, and scores in percent. */
function compareLosses(
  comparison: Comparison,
  round: number,
  name: string,
  report: RoundReport,
  index: number,
  reference: Variant['rounds'][number] | undefined,
  logitsDistance = 0,
): void {
  const where = `round${round}/${name}`;
  const batches = reference?.training[index]?.batches ?? [];
  const mean = (key: string) =>
    batches.reduce((sum, batch) => sum + (batch[key] ?? Number.NaN), 0) / batches.length;
  const largest = Math.max(0, ...Object.keys(LOSSES).map((key) => Math.abs(mean(key))));
  for (const [theirs, ours] of Object.entries(LOSSES)) {
    if (batches.length === 0) continue;
    comparison.scalar(
      `${where}/${theirs}`,
      report.clients[index]?.losses[ours],
      mean(theirs),
      Math.max(RELATIVE * largest, FACTOR * logitsDistance),
    );
  }
  const accuracy = report.evaluation?.clients[index]?.accuracy ?? {};
  const scores = reference?.eval_scores_gated_0_1[name] ?? [];
  for (const [position, mode] of ['gated', 'local', 'shared'].entries()) {
    const score = scores[position];
    const actual = accuracy[mode];
    if (score === undefined) continue;
    comparison.scalar(
      `${where}/score ${mode}`,
      actual === undefined ? actual : actual * 100,
      score,
      RELATIVE * 100,
    );
  }
}
