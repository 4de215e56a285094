/** ddim: the noise schedule and single steps of the sampler. */

import { z } from 'zod';
import { Ddim } from '../../stickers/samplers/ddim.js';
import { NoiseSchedule } from '../../stickers/samplers/schedule.js';
import { Comparison, floats, type GoldenCase } from '../case.js';
import { readSettings, readTensors, type TensorMap } from '../files.js';
import { EXACT } from '../tolerance.js';

const SCHEDULER = 1e-6;

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

export async function ddimCases(folder: string): Promise<GoldenCase[]> {
  const config = await readSettings(configSchema, folder, 'scheduler_config.json');
  const schedule = new NoiseSchedule({
    steps: config.num_train_timesteps,
    betaStart: config.beta_start,
    betaEnd: config.beta_end,
  });
  const tensors = await readTensors(folder, 'scheduler.safetensors');
  return [
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
          const expected = take('pred_original_sample');
          comparison.tensor(`x0 of ${what}`, original, expected, SCHEDULER * magnitude(expected));
          const previous = sampler.step(sample, output, at, noise);
          comparison.tensor(`result of ${what}`, previous, take('prev_sample'), SCHEDULER);
        }
        return comparison.outcome();
      },
    },
  ];
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
