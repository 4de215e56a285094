// Reference numbers of the sticker half in folders of our own making: listed cases without their files, other curricula.

import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { findCases, runCase } from '../src/golden/run.js';
import { STATIC_WEIGHTS, StaticCurriculum, type ThreeWeights } from '../src/stickers/curriculum/static.js';
import { TASKS } from '../src/stickers/tasks.js';
import { temporaryFolder } from './data-support.js';

const outcomes = async (folder: string) =>
  Promise.all((await findCases({ folder, device: 'cpu', threads: 1 })).map(runCase));

const json = (path: string, value: unknown) => writeFile(path, JSON.stringify(value));

test('a case that is listed but has no file fails', async () => {
  const folder = await temporaryFolder();
  for (const name of ['sti_layer', 'blocks', 'dfgn_tiny']) await mkdir(join(folder, name));
  const sizes = { num_attention_heads: 1, norm_num_groups: 1, num_frames: 2 };
  await json(join(folder, 'sti_layer', 'cases.json'), { constructor: sizes, cases: { b1_8x8: {} } });
  await json(join(folder, 'blocks', 'cases.json'), { attention_self: {} });
  await json(join(folder, 'dfgn_tiny', 'summary.json'), { cases: { main: {} } });
  const files = [
    'README.md',
    'sti_layer/b1_8x8.safetensors',
    'sti_layer/cases.json',
    'dfgn_tiny/main_io.safetensors',
    'encoders/t5/io.safetensors',
    'another/thing.safetensors',
  ];
  await json(join(folder, 'manifest.json'), { files: Object.fromEntries(files.map((file) => [file, {}])) });
  const missing = (await outcomes(folder)).filter(({ reason }) => reason === 'its file is not there');
  expect(missing.map(({ name, status }) => `${name} ${status}`).sort()).toEqual([
    'blocks/attention_self fail',
    'dfgn_tiny/main fail',
    'encoders/t5/io.safetensors fail',
    'sti_layer/b1_8x8 fail',
  ]);
});

test('the weights of a static curriculum are those of the file', async () => {
  const folder = join(await temporaryFolder(), 'curriculum');
  await mkdir(folder);
  const values = { ...STATIC_WEIGHTS, i2v: [0.2, 0.3, 0.8] as ThreeWeights };
  const curriculum = new StaticCurriculum(10, values);
  const rows = [0, 3, 7, 10].map((step) => ({ step, weights: curriculum.weights(step) }));
  await json(join(folder, 'adaptive_series.json'), {
    constants: { total_curriculum_learning_step: 10 },
    curves: {},
  });
  const status = async (three_values: unknown) => {
    await json(join(folder, 'static.json'), { tasks: TASKS, three_values, by_total_steps: { 10: rows } });
    return (await outcomes(folder)).map((one) => `${one.name} ${one.status}`);
  };
  expect(await status(values)).toEqual(['curriculum/static pass']);
  expect(await status(undefined)).toEqual(['curriculum/static fail']);
});
