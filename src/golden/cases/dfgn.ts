/**
 * dfgn_tiny: the whole frame generation network. One case a file of inputs (`main`, `odd`): prediction, loss, gradients of
 * inputs and parameters; one a file of traces: the outputs of all modules.
 *
 * Tolerances are those the numbers come with: 5e-5 absolute for outputs, 1e-5 for losses, a relative L2 distance of 1e-3
 * for every gradient; the fusion scalars w1 and w2, whose gradients are small differences of large sums, 1e-2 or 1e-6
 * absolute. Each of them is ten times the stored distance to float64 if that is larger. A gradient smaller than half a bit of
 * the whole one is zero but for rounding, and compared as such.
 */

import { z } from 'zod';
import { Dfgn } from '../../models/dfgn.js';
import type { TensorData, Tensors } from '../../native/core.js';
import type { PredictionBatch } from '../../native/stickers.js';
import { Comparison, floats, type GoldenCase, type GoldenContext, missingOf } from '../case.js';
import { filesEnding, isThere, readSettings, readTensors, type TensorMap, under } from '../files.js';
import { atLeast, FACTOR, HALF_BIT } from '../tolerance.js';

export const OUTPUT = 5e-5;
export const LOSS = 1e-5;
const GRADIENT = 1e-3;
const SCALAR_GRADIENT = 1e-2;
const SCALAR_ABSOLUTE = 1e-6;

const numbers = z.record(z.string(), z.number());
const summarySchema = z.looseObject({
  cases: z.record(
    z.string(),
    z.looseObject({
      grad_norms: numbers.default({}),
      noise_floor: z
        .looseObject({
          output: z.looseObject({ max_abs_diff_f32_f64: z.number(), max_abs: z.number() }),
          grad_params_worst_relative_l2: numbers,
        })
        .partial()
        .default({}),
    }),
  ),
  zero_gradient_parameters: z.array(z.string()).default([]),
});
const traceSchema = z.record(
  z.string(),
  z.looseObject({
    shape: z.array(z.int()),
    mean: z.number(),
    std: z.number(),
    l2: z.number(),
    first: z.array(z.number()),
    last: z.array(z.number()),
  }),
);

/** Our names of the inputs. */
const INPUTS = {
  noisy_latents: 'noisyLatents',
  image_latents: 'imageLatents',
  clip_hidden_states: 'text',
  t5_hidden_states: 't5',
} as const;

export async function dfgnCases(folder: string, context: GoldenContext): Promise<GoldenCase[]> {
  const cases: GoldenCase[] = [];
  const names = await filesEnding(folder, '_io.safetensors');
  for (const name of names) {
    cases.push(golden(`dfgn_tiny/${name}`, (comparison) => comparePass(folder, name, context, comparison)));
    if (await isThere(folder, `${name}_trace.json`))
      cases.push(
        golden(`dfgn_tiny/${name} activations`, (comparison) =>
          compareTrace(folder, name, context, comparison),
        ),
      );
  }
  const { cases: listed } = await readSettings(summarySchema, folder, 'summary.json');
  return [...cases, ...missingOf(listed, names, 'dfgn_tiny/')];
}

export function golden(name: string, compare: (comparison: Comparison) => Promise<void>): GoldenCase {
  return {
    name,
    async run() {
      const comparison = new Comparison(name);
      await compare(comparison);
      return comparison.outcome();
    },
  };
}

/** Masks and times are stored as 64-bit integers. */
export function integers(tensor: TensorData | undefined): number[] {
  return Array.from((tensor?.data ?? []) as ArrayLike<number | bigint>, Number);
}

/** Sizes from tensors of latents [B, C, F, H, W] and texts [B, T, D]. */
export function sizesOf(
  latents: TensorData | undefined,
  text: TensorData | undefined,
  t5: TensorData | undefined,
) {
  const [clips = 0, , , height = 0, width = 0] = latents?.shape ?? [];
  return { clips, height, width, textTokens: text?.shape[1] ?? 0, ...(t5 && { t5Tokens: t5.shape[1] ?? 0 }) };
}

export function predictionBatch(inputs: TensorMap): PredictionBatch {
  const { noisy_latents: noisy, clip_hidden_states: text, t5_hidden_states: t5, frame_mask: mask } = inputs;
  return {
    ...sizesOf(noisy, text, t5),
    noisyLatents: floats(noisy),
    imageLatents: floats(inputs.image_latents),
    timesteps: Float32Array.from(integers(inputs.timesteps)),
    text: floats(text),
    ...(t5 && { t5: floats(t5) }),
    ...(mask && { frameMask: Uint8Array.from(integers(mask)) }),
  };
}

/** |a - b| / |b|, in double. */
export function relativeDistance(actual: ArrayLike<number> | undefined, expected: ArrayLike<number>): number {
  if (actual?.length !== expected.length) return Number.POSITIVE_INFINITY;
  let difference = 0;
  let size = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += ((actual[i] as number) - (expected[i] as number)) ** 2;
    size += (expected[i] as number) ** 2;
  }
  return Math.sqrt(difference / (size || 1));
}

async function comparePass(
  folder: string,
  name: string,
  { device, threads }: GoldenContext,
  comparison: Comparison,
): Promise<void> {
  const stored = await readTensors(folder, `${name}_io.safetensors`);
  const summary = await readSettings(summarySchema, folder, 'summary.json');
  using network = await Dfgn.fromPretrained(folder, { device, threads });
  const inputs = under(stored, 'input.');
  const result = await network.differentiate(predictionBatch(inputs), floats(inputs.target));
  const { grad_norms = {}, noise_floor: floor = {} } = summary.cases[name] ?? {};
  const outputTolerance = atLeast(OUTPUT, floor.output?.max_abs_diff_f32_f64);
  comparison.tensor('output', result.output, floats(stored.output), outputTolerance);
  comparison.tensor('loss', [result.loss], floats(stored.loss), LOSS);
  for (const [published, ours] of Object.entries(INPUTS)) {
    const reference = stored[`grad_input.${published}`];
    if (!reference) continue;
    const distance = relativeDistance(result.inputGradients[ours], floats(reference));
    comparison.scalar(`gradient of ${published}`, distance, 0, GRADIENT);
  }
  const gradients = await network.gradients();
  const zero = new Set(summary.zero_gradient_parameters);
  const tolerances = gradientTolerances(grad_norms, floor.grad_params_worst_relative_l2);
  if (await isThere(folder, `${name}_grads.safetensors`)) {
    const references = await readTensors(folder, `${name}_grads.safetensors`);
    for (const [parameter, reference] of Object.entries(references))
      if (!zero.has(parameter))
        compareGradient(comparison, parameter, gradients, floats(reference), tolerances(parameter));
  }
  for (const [parameter, norm] of Object.entries(grad_norms))
    if (!zero.has(parameter)) compareNorm(comparison, parameter, gradients, norm, tolerances(parameter));
}

interface GradientTolerance {
  relative: number;
  /** 0 but for scalars and gradients that are zero. */
  absolute: number;
}

/** @param worst distances to float64, relative, of the parameters where they are largest */
function gradientTolerances(
  norms: Record<string, number>,
  worst: Record<string, number> = {},
): (parameter: string) => GradientTolerance {
  const smallest = HALF_BIT * Math.hypot(...Object.values(norms));
  const distances = Object.values(worst);
  const others = distances.length > 0 ? Math.min(...distances) : 0;
  return (parameter) => {
    const scalar = isScalar(parameter);
    const zero = (norms[parameter] ?? smallest) < smallest;
    return {
      relative: atLeast(scalar ? SCALAR_GRADIENT : GRADIENT, worst[parameter] ?? others),
      absolute: scalar ? SCALAR_ABSOLUTE : zero ? FACTOR * smallest : 0,
    };
  };
}

const isScalar = (parameter: string) => /\.w[12]$/.test(parameter);

function compareGradient(
  comparison: Comparison,
  parameter: string,
  gradients: Tensors,
  reference: Float32Array,
  { relative, absolute }: GradientTolerance,
): void {
  const actual = gradients[parameter];
  const what = `gradient of ${parameter}`;
  if (absolute > 0) {
    const tolerance = Math.max(relative * Math.abs(reference[0] ?? 0), absolute);
    comparison.tensor(what, actual, reference, tolerance);
  } else {
    comparison.scalar(what, relativeDistance(actual, reference), 0, relative);
  }
}

function compareNorm(
  comparison: Comparison,
  parameter: string,
  gradients: Tensors,
  norm: number,
  { relative, absolute }: GradientTolerance,
): void {
  const values = gradients[parameter];
  const actual = values && Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  const tolerance = Math.max(relative * norm, absolute);
  comparison.scalar(`norm of the gradient of ${parameter}`, actual, norm, tolerance);
}

async function compareTrace(
  folder: string,
  name: string,
  { device, threads }: GoldenContext,
  comparison: Comparison,
): Promise<void> {
  const summary = await readSettings(summarySchema, folder, 'summary.json');
  const { max_abs_diff_f32_f64: distance = 0, max_abs: size = 1 } =
    summary.cases[name]?.noise_floor.output ?? {};
  // Activations are as exact as the output for their size.
  const toleranceOf = (values: Float32Array) => {
    const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    return atLeast(OUTPUT, (distance * largest) / size);
  };
  using network = await Dfgn.fromPretrained(folder, { device, threads });
  const inputs = under(await readTensors(folder, `${name}_io.safetensors`), 'input.');
  const actual = await network.trace(predictionBatch(inputs));
  for (const [module, expected] of Object.entries(
    await readSettings(traceSchema, folder, `${name}_trace.json`),
  )) {
    const tensor = actual[module];
    comparison.tensor(`shape of ${module}`, tensor?.shape, expected.shape, 0);
    const values = floats(tensor);
    const tolerance = toleranceOf(values);
    const count = values.length;
    const l2 = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
    comparison.tensor(
      `${module}, first`,
      values.subarray(0, expected.first.length),
      expected.first,
      tolerance,
    );
    comparison.tensor(
      `${module}, last`,
      values.subarray(count - expected.last.length),
      expected.last,
      tolerance,
    );
    comparison.scalar(
      `${module}, mean`,
      values.reduce((sum, value) => sum + value, 0) / count,
      expected.mean,
      tolerance,
    );
    comparison.scalar(`${module}, L2`, l2, expected.l2, tolerance * Math.sqrt(count));
  }
  if (!(await isThere(folder, `${name}_activations.safetensors`))) return;
  const stored = await readTensors(folder, `${name}_activations.safetensors`);
  for (const [module, expected] of Object.entries(stored)) {
    const values = floats(expected);
    comparison.tensor(module, floats(actual[module]), values, toleranceOf(values));
  }
}
