/** What a sticker run reports. */

import { z } from 'zod';
import { validated } from '../validation.js';
import { TASKS, type Task } from './tasks.js';

/** The loss of one task. */
export interface TaskLoss {
  /** Mean masked denoising loss. */
  loss: number;
  /** Clips it is the mean of. */
  clips: number;
}

/** One line of metrics.jsonl of a sticker run: means over the steps since the line before. */
export interface StickerMetrics {
  /** Steps done. */
  number: number;
  /** Masked denoising loss. */
  loss: number;
  /** Before clipping. */
  gradNorm: number;
  /** Of the last of these steps. */
  learningRate: number;
  /** Losses of the tasks that were drawn. */
  tasks: Partial<Record<Task, TaskLoss>>;
  /** Of the curriculum at the last of these steps. */
  weights: Record<Task, number>;
  /** Clips that were seen. */
  clips: number;
  /** Wall clock. */
  timing: { seconds: number };
}

/** What one optimiser step did. */
export interface StickerStep {
  /** From 1. */
  number: number;
  /** Of the whole run. */
  steps: number;
  /** Masked denoising loss, mean over the micro-batches. */
  loss: number;
  /** Before clipping. */
  gradNorm: number;
  /** Of this update. */
  learningRate: number;
  /** Of each micro-batch. */
  tasks: { task: Task; clipLosses: number[] }[];
  /** Of the curriculum. */
  weights: Record<Task, number>;
  /** The line of metrics that this step closed. */
  metrics?: StickerMetrics;
}

const sum = z.strictObject({ sum: z.number(), count: z.number() });
const pendingSchema = z.strictObject({
  loss: sum,
  gradNorm: sum,
  tasks: z.partialRecord(z.enum(TASKS), sum),
  seconds: z.number(),
});

/** Sums that become a line; they are part of a checkpoint. */
export class PendingMetrics {
  #sums: z.output<typeof pendingSchema> = emptySums();

  add(step: StickerStep, seconds: number): void {
    const { loss, gradNorm, tasks } = this.#sums;
    put(loss, step.loss);
    put(gradNorm, step.gradNorm);
    for (const { task, clipLosses } of step.tasks) {
      tasks[task] ??= { sum: 0, count: 0 };
      for (const value of clipLosses) put(tasks[task], value);
    }
    this.#sums.seconds += seconds;
  }

  /** The line, and begins the next one. */
  close({ number, learningRate, weights }: StickerStep): StickerMetrics {
    const { loss, gradNorm, tasks, seconds } = this.#sums;
    this.#sums = emptySums();
    const found = TASKS.filter((task) => tasks[task]);
    const losses = found.map((task): [Task, TaskLoss] => {
      const { sum, count } = tasks[task] as { sum: number; count: number };
      return [task, { loss: sum / count, clips: count }];
    });
    return {
      number,
      loss: loss.sum / loss.count,
      gradNorm: gradNorm.sum / gradNorm.count,
      learningRate,
      tasks: Object.fromEntries(losses),
      weights,
      clips: losses.reduce((clips, [, task]) => clips + task.clips, 0),
      timing: { seconds },
    };
  }

  state(): Record<string, unknown> {
    return structuredClone(this.#sums);
  }

  restore(state: Record<string, unknown>): void {
    this.#sums = validated(pendingSchema, state, 'the metrics of a checkpoint', 'CORRUPT');
  }
}

function emptySums(): z.output<typeof pendingSchema> {
  return { loss: { sum: 0, count: 0 }, gradNorm: { sum: 0, count: 0 }, tasks: {}, seconds: 0 };
}

function put(into: { sum: number; count: number }, value: number): void {
  into.sum += value;
  into.count++;
}
