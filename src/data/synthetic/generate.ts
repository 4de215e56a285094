/**
 * Writes a whole data set of drawn pictures: the layout that `loadClients` reads, in VQA v2 format.
 *
 * One part is the neutral style, for training a backbone; it belongs to no client. Every other style is one
 * client of the view `style`; the view `function` divides the same questions by their type. With other
 * settings equal, picture n of a style depends on n alone, so a larger set begins with the pictures of a
 * smaller one. Drawing runs on worker threads.
 */

import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { requireFunction, requireObject, requireText } from '../../arguments.js';
import { DuetError, ioError, throwIfAborted } from '../../errors.js';
import { makeFolder } from '../../run/files.js';
import { validated } from '../../validation.js';
import { forEachAtOnce } from '../concurrency.js';
import { exists, readJson, writeText } from '../files.js';
import { Random } from '../random.js';
import {
  type AskedQuestion,
  askQuestions,
  mixOf,
  QUESTION_TYPES,
  type QuestionType,
  YesNo,
} from './questions.js';
import { renderScene } from './render.js';
import { drawScene, type Scene, shapeWeights } from './scene.js';
import { SHAPES } from './shapes.js';
import { NEUTRAL_STYLE, STYLE_NAMES, type StyleName } from './styles.js';

/** Changes when the same settings would give other pictures or questions. */
const FORMAT = 1;

const settingsSchema = z.strictObject({
  /** Of everything that is left to chance. */
  seed: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(1),
  /** Pixels a side. */
  size: z.number().int().min(16).max(1024).default(64),
  /** The styles of the clients. */
  styles: z
    .array(z.enum(STYLE_NAMES))
    .min(1)
    .default(['poster', 'outline', 'clay', 'sketch', 'pixel', 'neon']),
  /** Pictures of each client for training and for validation. */
  pictures: z.strictObject({ train: count(), val: count() }).default({ train: 240, val: 60 }),
  /** Pictures of the neutral style. */
  neutralPictures: z.strictObject({ train: count(), val: count() }).default({ train: 4000, val: 150 }),
  /** Questions asked about each picture. */
  questionsPerPicture: z.number().int().min(1).max(5).default(3),
  /** How much clients differ in what is asked and shown: 0 not at all, 1 as far as it goes. */
  heterogeneity: z.number().min(0).max(1).default(0.5),
});

function count() {
  return z.number().int().min(1).max(50_000);
}

/**
 * All settings of a set, after defaults.
 * @interface
 */
export type SyntheticSettings = z.output<typeof settingsSchema>;
/**
 * What may be given; everything has a default.
 * @interface
 */
export type SyntheticOptions = z.input<typeof settingsSchema>;

/** Stopping and watching a generation. */
export interface GenerateControl {
  /** Ends with CANCELLED between two pictures; a later call starts again. */
  signal?: AbortSignal;
  /** Called after every picture. */
  onProgress?: (done: number, total: number) => void;
}

const SPLITS = ['train', 'val'] as const;
type Split = (typeof SPLITS)[number];
/** Room for the pictures of one style and split in the ids. */
const IDS_PER_SPLIT = 50_000;
/** A few at a time keeps libuv's threads busy and memory flat. */
const DRAWN_AT_ONCE = 4;

interface Asked extends AskedQuestion {
  questionId: number;
  imageId: number;
}

interface Job {
  scene: Scene;
  style: StyleName;
  imageId: number;
  path: string;
}

/**
 * Makes the set in `folder`. A folder that already holds exactly this set is left as it is.
 * @throws DuetError INVALID_ARGUMENT for impossible settings or a folder with another set, IO or DISK_FULL,
 *   CANCELLED
 */
export async function generateSynthetic(
  folder: string,
  options: SyntheticOptions = {},
  control: GenerateControl = {},
): Promise<SyntheticSettings> {
  requireText(folder, 'folder');
  const { signal, onProgress } = requireObject(control, 'control');
  if (onProgress !== undefined) requireFunction(onProgress, 'onProgress');
  throwIfAborted(signal, 'Drawing the data');
  const settings = syntheticSettings(options);
  if (await isComplete(folder, settings)) return settings;
  const styles: StyleName[] = [NEUTRAL_STYLE, ...settings.styles];
  const answers = new Map<string, number>();
  const jobs: Job[] = [];
  const files = new Map<string, unknown>();
  for (const split of SPLITS) {
    const clients = new Map<StyleName, Asked[]>();
    for (const style of styles) {
      const planned = plan(style, split, settings);
      jobs.push(
        ...planned.scenes.map((at) => ({ ...at, path: join(folder, 'images', style, `${at.imageId}.png`) })),
      );
      files.set(`questions_${style}_${split}.json`, questionsFile(style, split, planned.asked));
      files.set(`annotations_${style}_${split}.json`, annotationsFile(style, split, planned.asked));
      if (style !== NEUTRAL_STYLE) clients.set(style, planned.asked);
      if (split === 'train') {
        for (const { answer } of planned.asked) answers.set(answer, (answers.get(answer) ?? 0) + 1);
      }
    }
    files.set(`clients_style_${split}.json`, styleView(split, clients));
    files.set(`clients_function_${split}.json`, functionView(split, clients));
  }
  const byFrequency = [...answers].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  files.set('answers.json', { answers: byFrequency.map(([answer]) => answer) });

  for (const style of styles) await makeFolder(join(folder, 'images', style), `write pictures in ${folder}`);
  await drawAll(jobs, settings, control);
  for (const [name, content] of files)
    await writeText(join(folder, name), `${JSON.stringify(content)}\n`, 'data set');
  // Written last: its presence says that the set is complete.
  await writeText(markerOf(folder), `${JSON.stringify({ format: FORMAT, settings }, null, 2)}\n`, 'data set');
  await rm(join(folder, BEGUN), { force: true });
  return settings;
}

/** Checks settings and fills in the defaults. @throws DuetError INVALID_ARGUMENT */
export function syntheticSettings(options: SyntheticOptions = {}): SyntheticSettings {
  const settings = validated(settingsSchema, options, 'synthetic data settings');
  const twice = settings.styles.find((style, index) => settings.styles.indexOf(style) !== index);
  if (twice !== undefined || settings.styles.includes(NEUTRAL_STYLE)) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected different styles other than ${NEUTRAL_STYLE} for styles but received ${settings.styles.join(', ')}`,
    );
  }
  return settings;
}

/** There from the first to the last file that is written. */
const BEGUN = '.synthetic-begun';
const markerOf = (folder: string) => join(folder, 'synthetic.json');

async function isComplete(folder: string, settings: SyntheticSettings): Promise<boolean> {
  let marker: unknown;
  try {
    marker = await readJson(markerOf(folder), 'data set');
  } catch (error) {
    if (!(error instanceof DuetError) || error.code !== 'NOT_FOUND') throw error;
    await requireOwn(folder);
    return false;
  }
  if (JSON.stringify(marker) === JSON.stringify({ format: FORMAT, settings })) return true;
  throw new DuetError(
    'INVALID_ARGUMENT',
    `Expected ${folder} to be empty or to hold the data set of these settings but it holds one of other settings ` +
      `(${markerOf(folder)}); choose another folder or remove it`,
  );
}

/** A folder without a marker is new, or was begun: what it holds is then in the file that was written first. */
async function requireOwn(folder: string): Promise<void> {
  const begun = join(folder, BEGUN);
  const there = (await readdir(folder).catch(() => [])).filter((name) => name !== BEGUN);
  if (there.length > 0 && !(await exists(begun))) {
    throw new DuetError(
      'INVALID_ARGUMENT',
      `Expected ${folder} to be empty or to hold a data set of this command but it holds ${there[0]}` +
        `${there.length > 1 ? ` and ${there.length - 1} more` : ''}; choose another folder`,
    );
  }
  await writeText(begun, 'This data set is being drawn.\n', 'data set');
}

/** Decides what every picture of a style and split shows and what is asked about it. */
function plan(style: StyleName, split: Split, settings: SyntheticSettings) {
  const neutral = style === NEUTRAL_STYLE;
  const client = settings.styles.indexOf(style);
  const difference = neutral ? 0 : settings.heterogeneity;
  const mix = mixOf(Math.max(client, 0), difference);
  // Every client sees three kinds of things up to five times as often as the others.
  const favourites = new Set(
    [0, 4, 9].map((step) => SHAPES[(client * 3 + step + SHAPES.length) % SHAPES.length]!.name),
  );
  const weights = shapeWeights(favourites, 1 + 4 * difference);
  const { [split]: pictures } = neutral ? settings.neutralPictures : settings.pictures;
  const firstId = ((STYLE_NAMES.indexOf(style) + 1) * SPLITS.length + SPLITS.indexOf(split)) * IDS_PER_SPLIT;
  const balance = { shape: new YesNo(), color: new YesNo() };
  const scenes: { scene: Scene; style: StyleName; imageId: number }[] = [];
  const asked: Asked[] = [];
  for (let index = 0; index < pictures; index++) {
    const imageId = firstId + index;
    const random = new Random(settings.seed, imageId * 2);
    const scene = drawScene(random, weights);
    scenes.push({ scene, style, imageId });
    const questions = askQuestions(scene, mix, settings.questionsPerPicture, balance, random);
    asked.push(
      ...questions.map((question, nth) => ({ ...question, imageId, questionId: imageId * 10 + nth })),
    );
  }
  return { scenes, asked };
}

async function drawAll(
  jobs: readonly Job[],
  settings: SyntheticSettings,
  control: GenerateControl,
): Promise<void> {
  let done = 0;
  await forEachAtOnce(jobs, DRAWN_AT_ONCE, async (job) => {
    throwIfAborted(control.signal, 'Drawing pictures');
    const picture = await renderScene(
      job.scene,
      job.style,
      settings.size,
      settings.seed,
      job.imageId * 2 + 1,
    );
    try {
      await writeFile(job.path, picture);
    } catch (error) {
      throw ioError(error, `write picture ${job.path}`);
    }
    control.onProgress?.(++done, jobs.length);
  });
}

function questionsFile(style: StyleName, split: Split, asked: readonly Asked[]) {
  return {
    info: { description: 'drawn pictures', version: String(FORMAT) },
    task_type: 'Open-Ended',
    data_subtype: `${style}_${split}`,
    questions: asked.map(({ questionId, imageId, question, type }) => ({
      question_id: questionId,
      image_id: imageId,
      question,
      question_type: type,
    })),
  };
}

/** All ten answers are equal: they are known, not collected. */
function annotationsFile(style: StyleName, split: Split, asked: readonly Asked[]) {
  return {
    info: { description: 'drawn pictures', version: String(FORMAT) },
    data_subtype: `${style}_${split}`,
    annotations: asked.map(({ questionId, imageId, type, answerType, answer }) => ({
      question_id: questionId,
      image_id: imageId,
      question_type: type,
      answer_type: answerType,
      multiple_choice_answer: answer,
      answers: Array.from({ length: 10 }, (_, person) => ({
        answer,
        answer_confidence: 'yes',
        answer_id: person + 1,
      })),
    })),
  };
}

function styleView(split: Split, clients: ReadonlyMap<StyleName, readonly Asked[]>) {
  const view = [...clients].map(([style, asked]) => [
    style,
    { style, question_ids: asked.map((one) => one.questionId) },
  ]);
  return { view: 'style', split, styles: [...clients.keys()], clients: Object.fromEntries(view) };
}

function functionView(split: Split, clients: ReadonlyMap<StyleName, readonly Asked[]>) {
  const all = [...clients.values()].flat();
  const of = (type: QuestionType) => all.filter((one) => one.type === type).map((one) => one.questionId);
  const view = QUESTION_TYPES.map(
    (type) => [type, { question_types: [type], question_ids: of(type) }] as const,
  );
  const filled = view.filter(([, client]) => client.question_ids.length > 0);
  return { view: 'function', split, styles: [...clients.keys()], clients: Object.fromEntries(filled) };
}
