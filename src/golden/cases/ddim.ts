/**
 * ddim: the noise schedule, single steps of the sampler, and a whole sampling with the network of dfgn_tiny.
 *
 * Guidance of 9 on random weights lets the latents grow to about 35; 2e-3 absolute is the tolerance the numbers come with, or
 * ten times their stored distance to float64.
 */

import { dirname, join } from 'node:path';
import { z } from 'zod';
import { Dfgn } from '../../models/dfgn.js';
import type { PredictionBatch } from '../../native/stickers.js';
import { Ddim } from '../../stickers/samplers/ddim.js';
import { sample } from '../../stickers/samplers/sampler.js';
import { NoiseSchedule } from '../../stickers/samplers/schedule.js';
import { applyMasks } from '../../stickers/tasks.js';
import { Comparison, floats, type GoldenCase, type GoldenContext } from '../case.js';
import { isThere, readSettings, readTensors, type TensorMap } from '../files.js';
import { atLeast, EXACT } from '../tolerance.js';
import { golden, integers } from './dfgn.js';

const SCHEDULER = 1e-6;
const SAMPLING = 2e-3;
const STEPS_WITHOUT_TEXT = 2;
const WITHOUT_TEXT = `wo_text.final_latents_${STEPS_WITHOUT_TEXT}_steps`;

const configSchema = z.looseObject({
  beta_start: z.number(),
  beta_end: z.number(),
  num_train_timesteps: z.int(),
  beta_schedule: z.literal('scaled_linear'),
  prediction_type: z.literal('epsilon'),
  set_alpha_to_one: z.literal(false),
  steps_offset: z.literal(1),
});

const stepsSchema = z.looseObject({
  step_cases: z.array(
    z.looseObject({
      index: z.int(),
      num_inference_steps: z.int(),
      timestep: z.int(),
      eta: z.number(),
      variance: z.number(),
    }),
  ),
});

const samplingSchema = z.looseObject({
  model: z.string(),
  num_inference_steps: z.int(),
  timesteps: z.array(z.int()),
  guidance_scale: z.number(),
  eta: z.literal(0),
  max_abs_diff_f32_f64_after_each_step: z.array(z.number()).default([]),
});

export async function ddimCases(folder: string, context: GoldenContext): Promise<GoldenCase[]> {
  const config = await readSettings(configSchema, folder, 'scheduler_config.json');
  const schedule = new NoiseSchedule({
    steps: config.num_train_timesteps,
    betaStart: config.beta_start,
    betaEnd: config.beta_end,
  });
  const tensors = await readTensors(folder, 'scheduler.safetensors');
  const sampling: GoldenCase[] = [];
  if (await isThere(folder, 'sampling_loop.json')) {
    const stored = await readTensors(folder, 'sampling_loop.safetensors');
    for (const text of WITHOUT_TEXT in stored ? [true, false] : [true]) {
      sampling.push(
        golden(`ddim/sampling ${text ? 'with' : 'without'} text`, (comparison) =>
          compareSampling(folder, stored, schedule, text, context, comparison),
        ),
      );
    }
  }
  return [
    ...sampling,
    { name: 'ddim/schedule', run: async () => scheduleCase('ddim/schedule', schedule, tensors) },
    {
      name: 'ddim/steps',
      async run() {
        const comparison = new Comparison(this.name);
        const { step_cases } = await readSettings(stepsSchema, folder, 'step_cases.json');
        for (const { index, num_inference_steps, timestep, eta, variance } of step_cases) {
          const sampler = new Ddim(schedule, { steps: num_inference_steps, eta });
          const at = sampler.timesteps.indexOf(timestep);
          const take = (part: string) => floats(tensors[`step${index}.${part}`]);
          const what = `case ${index}`;
          const sample = take('sample');
          const output = take('model_output');
          const noise = tensors[`step${index}.variance_noise`] ? take('variance_noise') : undefined;
          comparison.scalar(`variance of ${what}`, sampler.coefficients(at).variance, variance, SCHEDULER);
          const original = sampler.original(sample, output, at);
          // Near the end of the schedule x0 is large: float32 itself is coarser than the tolerance there.
          const clean = take('pred_original_sample');
          comparison.tensor(`x0 of ${what}`, original, clean, SCHEDULER * magnitude(clean));
          const expected = take('prev_sample');
          const previous = sampler.step(sample, output, at, noise);
          comparison.tensor(`result of ${what}`, previous, expected, SCHEDULER * magnitude(expected));
        }
        return comparison.outcome();
      },
    },
  ];
}

/** Without text both halves of the batch get zero states. */
async function compareSampling(
  folder: string,
  stored: TensorMap,
  schedule: NoiseSchedule,
  withText: boolean,
  { device, threads }: GoldenContext,
  comparison: Comparison,
): Promise<void> {
  const about = await readSettings(samplingSchema, folder, 'sampling_loop.json');
  using network = await Dfgn.fromPretrained(dirname(join(folder, about.model)), { device, threads });
  const [clips = 0, channels = 0, frames = 0, height = 0, width = 0] = stored.initial_latents?.shape ?? [];
  const bytes = (name: string) => Uint8Array.from(integers(stored[name]));
  const imageLatents = applyMasks(
    floats(stored.clean_latents),
    { batch: clips, channels, frames },
    bytes('frame_mask'),
    bytes('info_mask'),
  );
  comparison.tensor('image_latents', imageLatents, floats(stored.image_latents), EXACT);
  const states = (kind: string) => {
    const both = ['negative', 'positive'].flatMap((part) => [...floats(stored[`${kind}.${part}`])]);
    return withText ? Float32Array.from(both) : new Float32Array(both.length);
  };
  const fixed = {
    clips,
    height,
    width,
    textTokens: stored['clip_hidden_states.positive']?.shape[1] ?? 0,
    text: states('clip_hidden_states'),
    t5Tokens: stored['t5_hidden_states.positive']?.shape[1] ?? 0,
    t5: states('t5_hidden_states'),
    imageLatents,
  };
  const tolerance = atLeast(SAMPLING, Math.max(0, ...about.max_abs_diff_f32_f64_after_each_step));
  const steps = withText ? about.num_inference_steps : STEPS_WITHOUT_TEXT;
  const sampler = new Ddim(schedule, { steps, eta: about.eta });
  if (withText) comparison.tensor('timesteps', sampler.timesteps, about.timesteps, EXACT);
  const predict = (noisyLatents: Float32Array, timestep: number) => {
    const batch: PredictionBatch = {
      ...fixed,
      noisyLatents,
      timesteps: new Float32Array(clips).fill(timestep),
    };
    return network.predict(batch, about.guidance_scale);
  };
  const final = await sample(sampler, floats(stored.initial_latents), predict, {
    onStep: (latents, index) => {
      const expected = withText ? stored[`latents_after_step${index}`] : undefined;
      if (expected) comparison.tensor(`latents after step ${index}`, latents, floats(expected), tolerance);
    },
  });
  const expected = stored[withText ? 'final_latents' : WITHOUT_TEXT];
  comparison.tensor('final latents', final, floats(expected), tolerance);
}

function scheduleCase(name: string, schedule: NoiseSchedule, tensors: TensorMap) {
  const comparison = new Comparison(name);
  comparison.tensor('betas', schedule.betas, floats(tensors.betas), SCHEDULER);
  comparison.tensor('alphas_cumprod', schedule.alphasCumprod, floats(tensors.alphas_cumprod), SCHEDULER);
  comparison.tensor('final alpha', [schedule.alphaAt(-1)], floats(tensors.final_alpha_cumprod), SCHEDULER);
  for (const [key, expected] of Object.entries(tensors)) {
    const steps = /^timesteps_(\d+)$/.exec(key)?.[1];
    if (steps === undefined) continue;
    comparison.tensor(key, new Ddim(schedule, { steps: Number(steps) }).timesteps, expected.data, EXACT);
  }
  const mixed = (kind: 'addNoise' | 'velocity', sample: string) =>
    schedule[kind](
      floats(tensors[`${sample}.sample`]),
      floats(tensors[`${sample}.noise`]),
      Array.from(tensors[`${sample}.timesteps`]?.data ?? [], Number),
    );
  comparison.tensor(
    'add_noise',
    mixed('addNoise', 'add_noise'),
    floats(tensors['add_noise.output']),
    SCHEDULER,
  );
  comparison.tensor(
    'velocity',
    mixed('velocity', 'add_noise'),
    floats(tensors['velocity.output']),
    SCHEDULER,
  );
  return comparison.outcome();
}

function magnitude(values: Float32Array): number {
  return values.reduce((largest, value) => Math.max(largest, Math.abs(value)), 1);
}
