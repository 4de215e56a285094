// Helpers of the data tests: temporary folders, the shared reference files, small PNG files made by hand, parts of a data folder.

import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32, deflateSync } from 'node:zlib';
import sharp from 'sharp';
import { afterAll } from 'vitest';

const root = fileURLToPath(new URL('..', import.meta.url));

/** A path below the shared folder (`../shared` beside the package, or DUET_SHARED). */
export function sharedPath(...parts: string[]): string {
  return join(process.env.DUET_SHARED ?? resolve(root, '..', 'shared'), ...parts);
}

/** True when the shared file is there; otherwise prints why the tests that need it are skipped. */
export function hasShared(...parts: string[]): boolean {
  const path = sharedPath(...parts);
  if (existsSync(path)) return true;
  console.log(`skipped: ${path} is not there (set DUET_SHARED to the folder of the reference files)`);
  return false;
}

const temporaryFolders: string[] = [];
afterAll(() => Promise.all(temporaryFolders.map((folder) => rm(folder, { recursive: true, force: true }))));

/** A temporary folder that is removed after the tests of the file. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'duet-data-'));
  temporaryFolders.push(folder);
  return folder;
}

export interface PngOptions {
  width: number;
  height: number;
  depth: number;
  /** PNG colour type: 0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGB with alpha. */
  colour: number;
  /** One filter byte (0) and the samples, row after row. */
  rows: number[] | Uint8Array;
  /** Further chunks before the pixels, e.g. PLTE. */
  chunks?: [name: string, data: number[]][];
}

/** A PNG file with exactly these samples. */
export function png(options: PngOptions): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(options.width, 0);
  header.writeUInt32BE(options.height, 4);
  header[8] = options.depth;
  header[9] = options.colour;
  return Buffer.concat([
    Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]),
    chunk('IHDR', header),
    ...(options.chunks ?? []).map(([name, data]) => chunk(name, Buffer.from(data))),
    chunk('IDAT', deflateSync(Buffer.from(options.rows))),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function chunk(name: string, data: Buffer): Buffer {
  const named = Buffer.concat([Buffer.from(name, 'latin1'), data]);
  const framed = Buffer.alloc(named.length + 8);
  framed.writeUInt32BE(data.length, 0);
  named.copy(framed, 4);
  framed.writeUInt32BE(crc32(named) >>> 0, named.length + 4);
  return framed;
}

export interface Question {
  id: unknown;
  image: unknown;
  text: unknown;
  answers?: string[];
}

/** Writes one part of a data folder. Ten answers a question: the list repeated. */
export async function writePart(
  root: string,
  part: string,
  split: string,
  questions: Question[],
): Promise<void> {
  await mkdir(root, { recursive: true });
  const entries = questions.map(({ id, image, text }) => ({
    question_id: id,
    image_id: image,
    question: text,
  }));
  const annotations = questions
    .filter((question) => question.answers !== undefined)
    .map(({ id, image, answers = [] }) => ({
      question_id: id,
      image_id: image,
      question_type: 'what',
      answer_type: 'other',
      multiple_choice_answer: answers[0] ?? '',
      answers: Array.from({ length: answers.length && 10 }, (_, i) => ({
        answer: answers[i % answers.length],
      })),
    }));
  const name = `${part}_${split}.json`;
  await writeFile(join(root, `questions_${name}`), JSON.stringify({ questions: entries }));
  await writeFile(join(root, `annotations_${name}`), JSON.stringify({ annotations }));
}

export async function writePicture(path: string, value: number, width = 40, height = 32): Promise<void> {
  await mkdir(join(path, '..'), { recursive: true });
  const create = { width, height, channels: 3 as const, background: { r: value, g: value, b: value } };
  await sharp({ create }).png().toFile(path);
}

/** A sound part: questions 0..count-1 of pictures 0..pictures-1 with answers red, blue, red, ... */
export async function writeSound(
  root: string,
  part: string,
  count: number,
  firstId = 0,
  split = 'train',
): Promise<void> {
  const pictures = Math.ceil(count / 3);
  for (let i = 0; i < pictures; i++)
    await writePicture(join(root, 'images', part, `${firstId + i}.png`), i * 9);
  const questions = Array.from({ length: count }, (_, i) => ({
    id: firstId + i,
    image: firstId + (i % pictures),
    text: i % 2 ? 'What color?' : 'What color is the large thing here?',
    answers: [i % 3 ? 'red' : 'blue'],
  }));
  await writePart(root, part, split, questions);
}
