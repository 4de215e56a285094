/** What a sticker run says to a person. */

import Table from 'cli-table3';
import {
  FILLERS,
  FILLING_TASKS,
  type Filler,
  type FillingTask,
  type StickerEvaluation,
} from '../stickers/evaluate.js';
import type { StickerMetrics } from '../stickers/metrics.js';
import { TASKS, type Task } from '../stickers/tasks.js';
import { duration } from './words.js';

/** Tasks in few letters, for lines. */
const SHORT: Record<Task, string> = {
  i2v: 'picture',
  t2v: 'text',
  it2v: 'both',
  interpolation: 'between',
  pre_frame_prediction: 'before',
  post_frame_prediction: 'after',
};

const FILLER_WORDS: Record<Filler, string> = {
  network: 'network',
  nearest: 'nearest known frame',
  blend: 'linear blend',
};

const TASK_WORDS: Record<FillingTask, string> = {
  interpolation: 'interpolation',
  pre_frame_prediction: 'prediction of what was before',
  post_frame_prediction: 'prediction of what comes next',
};

/** The line of metrics of some steps. */
export function stickerLine(
  { number, loss, gradNorm, tasks, timing }: StickerMetrics,
  steps: number,
): string {
  const byTask = TASKS.filter((task) => tasks[task])
    .map((task) => `${SHORT[task]} ${tasks[task]?.loss.toFixed(3)}`)
    .join(' ');
  return `step ${number}/${steps}  loss ${loss.toFixed(4)}  (${byTask})  gradient ${gradNorm.toFixed(2)}  ${duration(timing.seconds)}`;
}

/** Quality of filled frames and losses, as two tables. */
export function evaluationTables({ clips, filling, denoising, frechet }: StickerEvaluation): string {
  const quality = new Table({
    head: ['task', 'frames from', 'PSNR, dB', 'SSIM', 'temporal error'],
    style: { head: [], border: [] },
    colAligns: ['left', 'left', 'right', 'right', 'right'],
  });
  for (const task of FILLING_TASKS) {
    for (const filler of FILLERS) {
      const { psnr, ssim, temporal } = filling[task][filler];
      quality.push([
        filler === 'network' ? TASK_WORDS[task] : '',
        FILLER_WORDS[filler],
        psnr.toFixed(2),
        ssim.toFixed(4),
        temporal.toFixed(4),
      ]);
    }
  }
  const timesteps = denoising.i2v.byLevel.map(({ timestep }) => timestep);
  const losses = new Table({
    head: ['denoising loss', ...timesteps.map((timestep) => `t = ${timestep}`), 'mean'],
    style: { head: [], border: [] },
    colAligns: ['left', ...timesteps.map(() => 'right' as const), 'right'],
  });
  for (const task of TASKS) {
    const { byLevel, mean } = denoising[task];
    losses.push([task, ...byLevel.map(({ loss }) => loss.toFixed(4)), mean.toFixed(4)]);
  }
  const distances = frechet
    ? `\nFrechet distance: ${FILLING_TASKS.map((task) => `${task} ${frechet[task]?.toPrecision(4) ?? '(needs 2 clips)'}`).join('  ')}\n`
    : '';
  return `${clips} clips; frames that were not given\n${quality}\n${losses}\n${distances}`;
}
