/**
 * dat_steps: a few batches of local training, one case a variant (how gradients are cleared) and order of passes. Logits,
 * pooled vectors, losses, learning rates, gradients of the first batch, parameters, Adam's moments and step counts.
 */

import { z } from 'zod';
import { FedDat } from '../../federated/strategies/feddat.js';
import { viltConfig } from '../../models/config.js';
import { isAdapter, isHead, nameFromPublished } from '../../models/names.js';
import { Vilt } from '../../models/vilt.js';
import type { Tensors } from '../../native/core.js';
import type { StepResult } from '../../native/federated.js';
import { Comparison, floats, type GoldenCase, type GoldenContext } from '../case.js';
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
  head: z.looseObject({ task_key: z.string(), num_labels: z.int() }),
  optimizer: z.looseObject({
    lr: z.number(),
    betas: z.tuple([z.number(), z.number()]),
    eps: z.number(),
    weight_decay: z.number(),
  }),
  schedule: z.looseObject({ max_steps: z.int(), warmup_steps: z.int() }),
  kl_temperature: z.number(),
});

const numbers = z.record(z.string(), z.number());
const namesSchema = z.array(z.string());
const variantSchema = z.looseObject({
  batches: z.array(numbers),
  adam_step_counts: numbers.default({}),
  max_abs_diff_to_float64: numbers.default({}),
});

type Variant = z.output<typeof variantSchema>;

export async function datStepCases(folder: string, context: GoldenContext): Promise<GoldenCase[]> {
  const variants = (await filesEnding(folder, '.json')).filter((name) => name !== 'config');
  return variants.flatMap((variant): GoldenCase[] => {
    const zero = /zero/.test(variant);
    // With gradients cleared to zero there is one order of passes only.
    const orders = zero ? (['published'] as const) : (['merged', 'published'] as const);
    return orders.map((order) => ({
      name: `dat_steps/${variant}${zero ? '' : ` (${order} passes)`}`,
      async run() {
        const comparison = new Comparison(this.name);
        const strategy = new FedDat({ order, clearGradients: zero ? 'zero' : 'none' });
        await compare(folder, variant, strategy, context, comparison);
        return comparison.outcome();
      },
    }));
  });
}

async function compare(
  folder: string,
  variant: string,
  strategy: FedDat,
  { device, threads }: GoldenContext,
  comparison: Comparison,
): Promise<void> {
  const config = await readSettings(configSchema, folder, 'config.json');
  const info = await readSettings(variantSchema, folder, `${variant}.json`);
  const expected = await readTensors(folder, `${variant}.safetensors`);
  const batches = await readTensors(folder, 'batches.safetensors');
  const { optimizer, schedule, head } = config;
  using model = Vilt.create(viltConfig(config.vilt, `${folder}/config.json`), {
    device,
    threads,
    adapters: { reduction: config.adapter.reduction_factor },
  });
  model.addHead(head.task_key, head.num_labels);
  await model.write(parametersOf(await readTensors(folder, 'init.safetensors')));
  await model.startTraining({
    ...strategy.training,
    temperature: config.kl_temperature,
    task: head.task_key,
    optimizer: {
      learningRate: optimizer.lr,
      betas: optimizer.betas,
      epsilon: optimizer.eps,
      weightDecay: optimizer.weight_decay,
    },
    schedule: { kind: 'linear', warmupSteps: schedule.warmup_steps, maxSteps: schedule.max_steps },
    keepOutputs: true,
    keepGradients: true,
  });
  for (let number = 0; number < countOf(batches, /^batch(\d+)\./); number++) {
    const result = await model.step(batchOf(under(batches, `batch${number}.`)));
    compareStep(comparison, number, result, info, expected);
    const kept = await model.gradients();
    compareGradientNames(comparison, number, kept, info);
    if (number === 0)
      compareGradients(comparison, kept, info, expected, strategy.training.clearGradients === 'zero');
    const between = under(expected, `batch${number}.after_update_1.`);
    compareParameters(
      comparison,
      `batch${number}`,
      between,
      under(kept, 'after_update_1.'),
      info,
      ' after update 1',
    );
    const after = under(expected, `batch${number}.after_update_0.`);
    const names = Object.keys(after).map(nameFromPublished);
    compareParameters(comparison, `batch${number}`, after, await model.read(names), info);
  }
  const names = model.names((name) => isAdapter(name) || isHead(name));
  compareParameters(comparison, 'final', under(expected, 'final.'), await model.read(names), info);
  compareOptimizer(comparison, await model.optimizerState(), optimizer.betas, info, expected);
}

function compareStep(
  comparison: Comparison,
  number: number,
  result: StepResult,
  info: Variant,
  expected: TensorMap,
): void {
  const distance = info.max_abs_diff_to_float64;
  const actual: Record<string, Float32Array | undefined> = {
    logits_all: result.logitsAll,
    logits_1: result.logits1,
    logits_0: result.logits0,
    pooled_all: result.pooledAll,
    pooled_1: result.pooled1,
    pooled_0: result.pooled0,
  };
  for (const [what, values] of Object.entries(actual)) {
    const reference = expected[`batch${number}.${what}`];
    if (!reference) continue;
    // Logits are one more product of the pooled vectors: both are as exact.
    comparison.close(`batch${number}.${what}`, values, floats(reference), distance[`batch${number}.logits`]);
  }
  const losses = info.batches[number] ?? {};
  const ours: Record<string, number | undefined> = {
    bce_1: result.feddat?.bce1,
    kl_1: result.feddat?.kl1,
    L_1: result.feddat?.loss1,
    bce_0: result.feddat?.bce0,
    kl_0: result.feddat?.kl0,
    L_0: result.feddat?.loss0,
  };
  // The parts of a loss are added: each is as exact as the largest of them, and no more than the logits.
  const largest = Math.max(...Object.keys(ours).map((key) => Math.abs(losses[key] ?? 0)));
  const tolerance = Math.max(RELATIVE * largest, FACTOR * (distance[`batch${number}.logits`] ?? 0));
  for (const [what, value] of Object.entries(ours)) {
    const reference = losses[what];
    if (reference !== undefined) comparison.scalar(`batch${number}.${what}`, value, reference, tolerance);
  }
  for (const [index, what] of ['lr_update_1', 'lr_update_0'].entries()) {
    const reference = losses[what];
    const value = result.learningRates[index];
    if (reference !== undefined)
      comparison.scalar(`batch${number}.${what}`, value, reference, 1e-12 * reference);
  }
}

/** Exactly the parameters that have a gradient in the reference have one here, but for gradients cleared to zero. */
function compareGradientNames(comparison: Comparison, number: number, actual: Tensors, info: Variant): void {
  for (const update of ['update_1', 'update_0']) {
    const listed = (kind: string) => namesSchema.safeParse(info[`batch${number}_${update}_${kind}`]);
    const [all, zero] = [listed('grad_names'), listed('zero_grad_names')];
    if (!all.success) continue;
    const wanted = new Set(all.data.map(nameFromPublished));
    for (const name of zero.data ?? []) wanted.delete(nameFromPublished(name));
    const found = Object.keys(under(actual, `${update}.`));
    const different =
      found.filter((name) => !wanted.has(name)).length +
      wanted.size -
      found.filter((name) => wanted.has(name)).length;
    comparison.tensor(`batch${number}.${update}: names of gradients that differ`, [different], [0], EXACT);
  }
}

function compareGradients(
  comparison: Comparison,
  actual: Tensors,
  info: Variant,
  expected: TensorMap,
  cleared: boolean,
): void {
  for (const update of ['update_1', 'update_0']) {
    for (const [published, reference] of Object.entries(under(expected, `batch0.${update}.grad.`))) {
      const found = actual[`${update}.${nameFromPublished(published)}`];
      // A gradient cleared to zero is stored by the reference and absent here.
      const values = found ?? (cleared ? new Float32Array(reference.data.length) : undefined);
      const distance = info.max_abs_diff_to_float64['batch0.grads'];
      comparison.close(`batch0.${update}.grad.${published}`, values, floats(reference), distance);
    }
  }
}

function compareParameters(
  comparison: Comparison,
  when: string,
  after: TensorMap,
  actual: Tensors,
  info: Variant,
  where = '',
): void {
  const distances = info.max_abs_diff_to_float64;
  const last = Object.keys(distances)
    .filter((key) => key.endsWith('.params'))
    .at(-1);
  const distance = distances[`${when}.params`] ?? (last === undefined ? undefined : distances[last]);
  for (const [published, reference] of Object.entries(after)) {
    comparison.trained(
      `${when}${where}.${published}`,
      actual[nameFromPublished(published)],
      floats(reference),
      distance,
    );
  }
}

function compareOptimizer(
  comparison: Comparison,
  state: Tensors,
  betas: readonly [number, number],
  info: Variant,
  expected: TensorMap,
): void {
  const distance = info.max_abs_diff_to_float64['batch0.grads'];
  for (const [index, moment] of (['exp_avg', 'exp_avg_sq'] as const).entries()) {
    for (const [published, reference] of Object.entries(under(expected, `opt.${moment}.`))) {
      const values = state[`${nameFromPublished(published)}.${moment}`];
      const steps = info.adam_step_counts[published] ?? Number.POSITIVE_INFINITY;
      const weight = 1 - (betas[index] as number) ** steps;
      const known =
        distance === undefined ? undefined : momentDistance(moment, distance, weight, floats(reference));
      comparison.close(`opt.${moment}.${published}`, values, floats(reference), known);
    }
  }
  for (const [published, count] of Object.entries(info.adam_step_counts)) {
    comparison.tensor(`steps of ${published}`, state[`${nameFromPublished(published)}.step`], [count], EXACT);
  }
}

/**
 * The distance of gradients carried into their weighted sum m = sum w g, or v = sum w g^2, with weights that add up to
 * `weight` = 1 - beta^steps: dm <= weight dg, and dv = sum w 2 g dg <= 2 sqrt(weight v) dg (Cauchy-Schwarz).
 */
function momentDistance(
  moment: 'exp_avg' | 'exp_avg_sq',
  distance: number,
  weight: number,
  reference: Float32Array,
): number {
  if (moment === 'exp_avg') return weight * distance;
  const largest = reference.reduce((most, value) => Math.max(most, value), 0);
  return 2 * Math.sqrt(weight * largest) * distance;
}
