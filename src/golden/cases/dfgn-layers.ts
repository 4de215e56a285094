/**
 * sti_layer and blocks: single layers and the pieces of the frame generation network, forward and backward, one case a
 * file.
 *
 * Tolerances are those the numbers come with: outputs 2e-5 absolute, gradients 1e-4 * (1 + the largest reference value), or ten
 * times the stored noise floor. The waves of a time t take the float32 frequency times t as their argument; neighbouring float32 frequencies below 1 are up to
 * 2^-24 apart, so two correct programs whose exponential function rounds differently are up to t * 2^-24 apart (6e-5 at 999).
 */

import { basename } from 'node:path';
import { z } from 'zod';
import { resolveDevice } from '../../device.js';
import type { TensorData } from '../../native/core.js';
import { native } from '../../native.js';
import { type Comparison, floats, type GoldenCase, type GoldenContext, missingOf, skipped } from '../case.js';
import { filesEnding, readSettings, readTensors, type TensorMap, under } from '../files.js';
import { atLeast } from '../tolerance.js';
import { golden, integers } from './dfgn.js';

const OUTPUT = 2e-5;
const GRADIENT = 1e-4;

type Attributes = Record<string, number | string | boolean>;

/** The bias whose gradient is exactly zero: what it adds, the norm behind it takes away. */
const ZERO_GRADIENT = 'conv_layers.1.conv2.bias';

function gradientTolerance(reference: Float32Array, distance?: number): number {
  const largest = reference.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  return atLeast(GRADIENT * (1 + largest), distance);
}

const floorSchema = z.looseObject({ max_abs_diff_f32_f64: z.number() });

const stiSchema = z.looseObject({
  cases: z
    .record(
      z.string(),
      z.looseObject({
        noise_floor: z
          .looseObject({
            output: floorSchema,
            grad_input: floorSchema,
            grad_params_max_abs_diff_f32_f64: z.number(),
          })
          .optional(),
      }),
    )
    .default({}),
  constructor: z.looseObject({
    num_attention_heads: z.int(),
    norm_num_groups: z.int(),
    num_frames: z.int(),
  }),
});

export async function stiLayerCases(folder: string, context: GoldenContext): Promise<GoldenCase[]> {
  const names = (await filesEnding(folder, '.safetensors')).filter((name) => name !== 'params');
  const { cases } = await readSettings(stiSchema, folder, 'cases.json');
  return [
    ...names.map((name) =>
      golden(`sti_layer/${name}`, (comparison) => compareSti(folder, name, context, comparison)),
    ),
    ...missingOf(cases, names, 'sti_layer/'),
  ];
}

async function compareSti(
  folder: string,
  name: string,
  { device, threads }: GoldenContext,
  comparison: Comparison,
): Promise<void> {
  native.setThreads(threads);
  const { constructor: settings, cases } = await readSettings(stiSchema, folder, 'cases.json');
  const floor = cases[name]?.noise_floor;
  const output = atLeast(OUTPUT, floor?.output.max_abs_diff_f32_f64);
  const stored = await readTensors(folder, `${name}.safetensors`);
  const parameters = {
    ...(await readTensors(folder, 'params.safetensors')),
    ...under(stored, 'param_override.'),
  };
  const result = await native.runOp(
    'stiLayer',
    { x: stored.input as TensorData, ...prefixed(parameters) },
    { frames: settings.num_frames, groups: settings.norm_num_groups, heads: settings.num_attention_heads },
    stored.grad_output,
    resolveDevice(device),
  );
  comparison.tensor('output', floats(result.out), floats(stored.output), output);
  const between = { attention: 'attention_tokens', semantic: 'semantic', detail: 'detail' };
  for (const [ours, published] of Object.entries(between)) {
    const reference = stored[`mid.${published}`];
    if (reference) comparison.tensor(published, floats(result[ours]), floats(reference), output);
  }
  const inputs = floats(stored.grad_input);
  comparison.tensor(
    'gradient of the input',
    floats(result['grad.x']),
    inputs,
    gradientTolerance(inputs, floor?.grad_input.max_abs_diff_f32_f64),
  );
  for (const [parameter, tensor] of Object.entries(under(stored, 'grad.'))) {
    if (parameter === ZERO_GRADIENT) continue;
    const reference = floats(tensor);
    const actual = floats(result[`grad.param.${parameter}`]);
    const tolerance = gradientTolerance(reference, floor?.grad_params_max_abs_diff_f32_f64);
    comparison.tensor(`gradient of ${parameter}`, actual, reference, tolerance);
  }
}

function prefixed(parameters: TensorMap): TensorMap {
  return Object.fromEntries(Object.entries(parameters).map(([name, tensor]) => [`param.${name}`, tensor]));
}

const blockSchema = z.record(
  z.string(),
  z.looseObject({
    config: z.record(z.string(), z.unknown()).default({}),
    noise_floor: z
      .looseObject({ output: floorSchema, grad_inputs: z.number(), grad_params: z.number() })
      .partial()
      .default({}),
  }),
);

type Floor = z.output<typeof blockSchema>[string]['noise_floor'];

/** Which op a piece is, by its name, and what the op has to be told. */
function opOf(
  name: string,
  config: Record<string, unknown>,
  stored: TensorMap,
): [string, Attributes] | undefined {
  const number = (key: string) => Number(config[key]);
  const heads = { heads: number('num_attention_heads') };
  const [, , toHeight = 0, toWidth = 0] = stored.output?.shape ?? [];
  // Layers in order of their numbers.
  const names = Object.keys(under(stored, 'param.'))
    .filter((key) => key.endsWith('.weight'))
    .map((key) => key.slice(0, -'.weight'.length))
    .sort()
    .join(',');
  if (name.startsWith('resnet_block_2d'))
    return ['residualBlock', { groups: number('groups'), epsilon: number('eps') }];
  if (name.startsWith('transformer_2d'))
    return ['spatialTransformer', { ...heads, groups: number('norm_num_groups') }];
  if (name.startsWith('transformer_temporal_encoder')) return ['temporalEncoder', heads];
  if (name.startsWith('transformer_temporal'))
    return [
      'temporalTransformer',
      { ...heads, groups: number('norm_num_groups'), frames: number('num_frames') },
    ];
  if (name.startsWith('downsample')) return ['layers', { names, stride: number('stride') }];
  if (name.startsWith('upsample')) return ['layers', { names, toHeight, toWidth }];
  if (name.startsWith('avgpool')) return ['resize', {}];
  if (name.startsWith('nearest')) return ['resize', { toHeight, toWidth }];
  if (name.startsWith('feed_forward_geglu')) return ['gatedLayer', {}];
  if (name.startsWith('feed_forward_gelu')) return ['layers', { names, between: 'gelu' }];
  if (name.startsWith('attention')) return ['attentionLayer', { heads: number('heads') }];
  if (name.startsWith('basic_transformer_block')) return ['transformerBlock', heads];
  if (/^(t5_projection|image_latents_proj_in|timestep_embedding)/.test(name)) return ['layers', { names }];
  return undefined;
}

export async function blockCases(folder: string, context: GoldenContext): Promise<GoldenCase[]> {
  const settings = await readSettings(blockSchema, folder, 'cases.json');
  const names = await filesEnding(folder, '.safetensors');
  const prefix = `${basename(folder)}/`;
  const cases = await Promise.all(
    names.map(async (name) => {
      const title = `${prefix}${name}`;
      const stored = await readTensors(folder, `${name}.safetensors`);
      if (Object.keys(stored).some((key) => /^output_\d+$/.test(key)))
        return golden(title, (comparison) => compareTimes(stored, context, comparison));
      const op = opOf(name, settings[name]?.config ?? {}, stored);
      if (!op) return skipped(title, 'not a piece this version knows');
      return golden(title, (comparison) =>
        compareBlock(stored, op, settings[name]?.noise_floor ?? {}, context, comparison),
      );
    }),
  );
  return [...cases, ...missingOf(settings, names, prefix)];
}

/** Sines and cosines of times, for every stored width. */
async function compareTimes(
  stored: TensorMap,
  context: GoldenContext,
  comparison: Comparison,
): Promise<void> {
  for (const [key, tensor] of Object.entries(stored)) {
    const width = /^output_(\d+)$/.exec(key)?.[1];
    if (width === undefined) continue;
    const size = Number(width);
    const waves = floats(await wavesOf(stored, size, context));
    for (const [row, time] of integers(stored['input.timesteps']).entries()) {
      const part = (values: Float32Array) => values.subarray(row * size, (row + 1) * size);
      const tolerance = Math.max(OUTPUT, time * 2 ** -24);
      comparison.tensor(`time ${time}, width ${size}`, part(waves), part(floats(tensor)), tolerance);
    }
  }
}

async function wavesOf(
  stored: TensorMap,
  width: number,
  { device }: Pick<GoldenContext, 'device'>,
): Promise<TensorData> {
  const data = Float32Array.from(integers(stored['input.timesteps']));
  const times: TensorData = { dtype: 'f32', shape: [data.length], data };
  const result = await native.runOp('timeEmbedding', { times }, { width }, undefined, resolveDevice(device));
  return result.out as TensorData;
}

async function compareBlock(
  stored: TensorMap,
  [op, attributes]: [string, Attributes],
  floor: Floor,
  { device, threads }: GoldenContext,
  comparison: Comparison,
): Promise<void> {
  native.setThreads(threads);
  const inputs = under(stored, 'input.');
  if (inputs.timesteps) {
    const first = Object.keys(stored).find((key) => key.endsWith('linear_1.weight')) ?? '';
    inputs.x = await wavesOf(stored, stored[first]?.shape[1] ?? 0, { device });
    delete inputs.timesteps;
  }
  const result = await native.runOp(
    op,
    { ...inputs, ...prefixed(under(stored, 'param.')) },
    attributes,
    stored.grad_output,
    resolveDevice(device),
  );
  const tolerance = atLeast(OUTPUT, floor.output?.max_abs_diff_f32_f64);
  comparison.tensor('output', floats(result.out), floats(stored.output), tolerance);
  for (const [prefix, ours, distance] of [
    ['grad_input.', 'grad.', floor.grad_inputs],
    ['grad_param.', 'grad.param.', floor.grad_params],
  ] as const) {
    for (const [name, tensor] of Object.entries(under(stored, prefix))) {
      const reference = floats(tensor);
      const actual = floats(result[`${ours}${name}`]);
      comparison.tensor(`gradient of ${name}`, actual, reference, gradientTolerance(reference, distance));
    }
  }
}
