/** masks, curriculum and key frames of the sticker half: what needs no network and no pictures. */

import { z } from 'zod';
import { AdaptiveCurriculum } from '../../stickers/curriculum/adaptive.js';
import { DifficultyAdaptiveCurriculum } from '../../stickers/curriculum/difficulty-adaptive.js';
import { StaticCurriculum } from '../../stickers/curriculum/static.js';
import { applyMasks, conditionMasks, dropsText, TASKS } from '../../stickers/tasks.js';
import { Comparison, floats, type GoldenCase } from '../case.js';
import { readSettings, readTensors } from '../files.js';
import { EXACT } from '../tolerance.js';

/** Weights and signals are float64 on both sides. */
const SCHEDULES = 1e-6;

const masks = z.array(z.array(z.int()));
const conditionsSchema = z.looseObject({
  frames: z.int(),
  conditions: z.partialRecord(
    z.enum(TASKS),
    z.record(
      z.string(),
      z.looseObject({ text_drop: z.boolean(), outcomes: masks, effective_with_n_real_frames: masks }),
    ),
  ),
});

export async function maskCases(folder: string): Promise<GoldenCase[]> {
  return [
    {
      name: 'masks/conditions',
      async run() {
        const comparison = new Comparison(this.name);
        const { frames, conditions } = await readSettings(conditionsSchema, folder, 'conditions.json');
        for (const task of TASKS) {
          for (const [n, expected] of Object.entries(conditions[task] ?? {})) {
            const what = `${task} with ${n} real frames`;
            const drawn = conditionMasks(task, Number(n), frames);
            comparison.scalar(
              `text drop of ${what}`,
              Number(dropsText(task)),
              Number(expected.text_drop),
              EXACT,
            );
            comparison.tensor(
              `masks of ${what}`,
              drawn.flatMap((mask) => [...mask]),
              expected.outcomes.flat(),
              EXACT,
            );
            const effective = new Set(drawn.map((mask) => mask.fill(0, Number(n)).join('')));
            const wanted = new Set(expected.effective_with_n_real_frames.map((mask) => mask.join('')));
            comparison.scalar(`effective masks of ${what}`, differing(effective, wanted), 0, EXACT);
          }
        }
        return comparison.outcome();
      },
    },
    {
      name: 'masks/apply',
      async run() {
        const comparison = new Comparison(this.name);
        const given = await readTensors(folder, 'apply.safetensors');
        const [batch = 0, channels = 0, frames = 0] = given.latents?.shape ?? [];
        const bytes = (name: string) => Uint8Array.from(Array.from(given[name]?.data ?? [], Number));
        const apply = (condition?: Uint8Array) =>
          applyMasks(floats(given.latents), { batch, channels, frames }, bytes('frame_mask'), condition);
        comparison.tensor('masked_info', apply(bytes('info_mask')), floats(given.masked_info), EXACT);
        comparison.tensor('masked_loss_operand', apply(), floats(given.masked_loss_operand), EXACT);
        return comparison.outcome();
      },
    },
  ];
}

function differing(a: Set<string>, b: Set<string>): number {
  return [...a].filter((entry) => !b.has(entry)).length + [...b].filter((entry) => !a.has(entry)).length;
}

/** Weights at the start, at half and at the end. */
const threeValues = z.record(z.enum(TASKS), z.tuple([z.number(), z.number(), z.number()]));

const staticSchema = z.looseObject({
  tasks: z.array(z.enum(TASKS)),
  three_values: threeValues.optional(),
  by_total_steps: z.record(
    z.string(),
    z.array(z.looseObject({ step: z.int(), weights: z.array(z.number()) })),
  ),
});

const seriesSchema = z.looseObject({
  constants: z.looseObject({
    total_curriculum_learning_step: z.int(),
    static_three_values: threeValues.optional(),
  }),
  curves: z.record(
    z.string(),
    z.looseObject({
      loss: z.array(z.number()),
      corrected: z.looseObject({
        P_a: z.array(z.number().nullable()),
        level: z.array(z.int()),
        weights: z.array(z.tuple([z.number(), z.number(), z.number()])),
      }),
    }),
  ),
});

export async function curriculumCases(folder: string): Promise<GoldenCase[]> {
  const { constants, curves } = await readSettings(seriesSchema, folder, 'adaptive_series.json');
  const steps = constants.total_curriculum_learning_step;
  const adaptive = Object.entries(curves).map(([name, { loss, corrected }]) => ({
    name: `curriculum/${name}`,
    async run() {
      const comparison = new Comparison(this.name);
      const curriculum = new DifficultyAdaptiveCurriculum(steps, {}, constants.static_three_values);
      const alone = new AdaptiveCurriculum();
      const levels: number[] = [];
      const signals: (number | null)[] = [];
      const weights: number[] = [];
      for (const [step, value] of loss.entries()) {
        levels.push(curriculum.level);
        signals.push(alone.signal ?? null);
        const [i2v, t2v, it2v, interpolation, before, after] = curriculum.weights(step);
        if (i2v !== t2v || t2v !== it2v || before !== after) weights.push(Number.NaN);
        weights.push(i2v ?? Number.NaN, interpolation ?? Number.NaN, before ?? Number.NaN);
        curriculum.observe(value);
        alone.observe(value);
      }
      const known = (values: (number | null)[]) => values.map((value) => value ?? -1);
      comparison.tensor('P_a', known(signals), known(corrected.P_a), SCHEDULES);
      comparison.tensor('levels', levels, corrected.level, EXACT);
      comparison.tensor('weights', weights, corrected.weights.flat(), SCHEDULES);
      return comparison.outcome();
    },
  }));
  const fixed: GoldenCase = {
    name: 'curriculum/static',
    async run() {
      const comparison = new Comparison(this.name);
      const { tasks, three_values, by_total_steps } = await readSettings(staticSchema, folder, 'static.json');
      for (const [total, rows] of Object.entries(by_total_steps)) {
        const curriculum = new StaticCurriculum(Number(total), three_values);
        for (const { step, weights } of rows) {
          const ours = curriculum.weights(step);
          const ordered = tasks.map((task) => ours[TASKS.indexOf(task)] as number);
          comparison.tensor(`weights at ${step} of ${total}`, ordered, weights, SCHEDULES);
        }
      }
      return comparison.outcome();
    },
  };
  return [fixed, ...adaptive];
}
