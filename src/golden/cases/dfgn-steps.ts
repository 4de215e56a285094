/**
 * train_steps: three steps of training from the weights of dfgn_tiny with stored noise and times. What goes into the network, its
 * predictions, losses, gradient norms and parameters.
 *
 * Tolerances are those the numbers come with: predictions 5e-5, 1e-3 and 2e-3 in steps 0, 1 and 2; losses 1e-5. In its first step AdamW moves every element by about the learning rate whatever the size of its
 * gradient, so parameters are compared by the relative L2 distance of the change (1e-2) and by the share of elements
 * farther than 1e-5 from the reference (0.1 %), all tensors together. Each of them is ten times the stored distance to
 * float64 if that is larger.
 */

import { join } from 'node:path';
import { z } from 'zod';
import { Dfgn } from '../../models/dfgn.js';
import type { Tensors } from '../../native/core.js';
import type { DenoisingBatch } from '../../native/stickers.js';
import { type Comparison, floats, type GoldenCase, type GoldenContext } from '../case.js';
import { isThere, readSettings, readTensors, type TensorMap, under } from '../files.js';
import { atLeast, EXACT } from '../tolerance.js';
import { golden, integers, LOSS, sizesOf } from './dfgn.js';

const PREDICTION = [5e-5, 1e-3, 2e-3];
const NORM = 1e-4; // relative
const INPUT = 1e-6;
const CHANGE = 1e-2;
const FAR = 1e-5;
const FAR_SHARE = 1e-3;

const schema = z.looseObject({
  optimizer: z.looseObject({
    lr: z.number(),
    betas: z.tuple([z.number(), z.number()]),
    weight_decay: z.number(),
    eps: z.number(),
  }),
  max_grad_norm: z.number(),
  steps: z.array(
    z.looseObject({
      text_drop: z.boolean(),
      loss: z.number(),
      loss_f64: z.number().optional(),
      grad_norm_before_clip: z.number(),
      grad_norm_before_clip_f64: z.number().optional(),
      prediction_noise_floor: z.looseObject({ max_abs_diff_f32_f64: z.number() }).optional(),
    }),
  ),
  parameters_noise_floor_excluding_zero_gradient_parameters: z
    .array(
      z.looseObject({
        elements: z.number(),
        'elements_differing_more_than_1e-5': z.number(),
        relative_l2_of_update: z.number(),
      }),
    )
    .default([]),
  initial_parameters: z.string(),
});

export async function dfgnStepCases(folder: string, context: GoldenContext): Promise<GoldenCase[]> {
  return [golden('train_steps', (comparison) => compare(folder, context, comparison))];
}

function batchOf(stored: TensorMap, drop: boolean): DenoisingBatch {
  const { latents, clip_hidden_states: text, t5_hidden_states: t5 } = stored;
  const sizes = sizesOf(latents, text, t5);
  return {
    ...sizes,
    latents: floats(latents),
    noise: floats(stored.noise),
    timesteps: Int32Array.from(integers(stored.timesteps)),
    text: floats(text),
    ...(t5 && { t5: floats(t5) }),
    frameMask: Uint8Array.from(integers(stored.frame_mask)),
    infoMask: Uint8Array.from(integers(stored.info_mask)),
    dropText: new Uint8Array(sizes.clips).fill(drop ? 1 : 0),
  };
}

async function compare(
  folder: string,
  { device, threads }: GoldenContext,
  comparison: Comparison,
): Promise<void> {
  const settings = await readSettings(schema, folder, 'steps.json');
  const io = await readTensors(folder, 'io.safetensors');
  const start = join(folder, settings.initial_parameters);
  const initial = await readTensors(start);
  using network = await Dfgn.fromPretrained(join(start, '..'), { device, threads });
  const { lr, betas, eps, weight_decay: weightDecay } = settings.optimizer;
  await network.startTraining({
    optimizer: { learningRate: lr, betas, epsilon: eps, weightDecay },
    schedule: { kind: 'constant', warmupSteps: 0, maxSteps: settings.steps.length },
    maxGradNorm: settings.max_grad_norm,
    keepOutputs: true,
  });
  // Largest distances to float64 so far: a loss may be near it by luck.
  const floor = { prediction: 0, loss: 0, norm: 0 };
  for (const [step, expected] of settings.steps.entries()) {
    const { loss, loss_f64 = loss, grad_norm_before_clip: norm, grad_norm_before_clip_f64 = norm } = expected;
    const predicted = expected.prediction_noise_floor?.max_abs_diff_f32_f64 ?? 0;
    floor.prediction = Math.max(floor.prediction, predicted);
    floor.loss = Math.max(floor.loss, Math.abs(loss - loss_f64));
    floor.norm = Math.max(floor.norm, Math.abs(norm - grad_norm_before_clip_f64));
    const stored = under(io, `step${step}.`);
    const result = await network.step(batchOf(stored, expected.text_drop));
    const suggested = PREDICTION[Math.min(step, PREDICTION.length - 1)] as number;
    const tolerance = atLeast(suggested, floor.prediction);
    comparison.tensor(`step ${step}, noisy`, result.noisyLatents, floats(stored.noisy_latents), INPUT);
    comparison.tensor(`step ${step}, image`, result.imageLatents, floats(stored.image_latents), EXACT);
    comparison.tensor(`step ${step}, prediction`, result.prediction, floats(stored.prediction), tolerance);
    comparison.scalar(`step ${step}, loss`, result.loss, loss, atLeast(LOSS, floor.loss));
    const normTolerance = atLeast(NORM * norm, floor.norm);
    comparison.scalar(`step ${step}, gradient norm`, result.gradNorm, norm, normTolerance);
    const file = `params_after_step${step}.safetensors`;
    if (!(await isThere(folder, file))) continue;
    const after = await readTensors(folder, file);
    const noise = settings.parameters_noise_floor_excluding_zero_gradient_parameters[step];
    const tolerances = {
      change: atLeast(CHANGE, noise?.relative_l2_of_update),
      far: atLeast(FAR_SHARE, noise && noise['elements_differing_more_than_1e-5'] / noise.elements),
    };
    compareParameters(comparison, step, await network.read(Object.keys(after)), after, initial, tolerances);
  }
}

/** All tensors together: distance of the changes over their size, and the share of elements that are far off. */
function compareParameters(
  comparison: Comparison,
  step: number,
  actual: Tensors,
  expected: TensorMap,
  initial: TensorMap,
  tolerances: { change: number; far: number },
): void {
  let difference = 0;
  let change = 0;
  let far = 0;
  let count = 0;
  for (const [name, tensor] of Object.entries(expected)) {
    const values = actual[name] ?? new Float32Array();
    const before = floats(initial[name]);
    for (const [i, reference] of floats(tensor).entries()) {
      const distance = Math.abs((values[i] ?? Number.NaN) - reference);
      difference += distance ** 2;
      change += (reference - (before[i] as number)) ** 2;
      if (!(distance <= FAR)) far += 1;
      count += 1;
    }
  }
  comparison.scalar(`step ${step}, parameter changes`, Math.sqrt(difference / change), 0, tolerances.change);
  comparison.scalar(`step ${step}, share of parameters farther than ${FAR}`, far / count, 0, tolerances.far);
}
