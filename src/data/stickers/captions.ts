/**
 * The stickers of a folder and what they show: `captions.jsonl` (one object a line with a file and a caption) or a text
 * file beside each sticker.
 */

import { readdir } from 'node:fs/promises';
import { extname, join, parse } from 'node:path';
import { codeOf, DuetError, ioError, messageOf } from '../../errors.js';
import { readText } from '../files.js';
import type { SkipReport } from '../report.js';
import type { StickerSkipReason } from './limits.js';

/** One sticker that can be used. */
export interface StickerSample {
  /** File name without its ending, or the name of the folder of a sequence; unique in a data set. */
  name: string;
  /** Of the file, or of the folder of a sequence. */
  path: string;
  /** What it shows; may be empty where captions may be missing. */
  caption: string;
}

const ENDINGS = new Set(['.gif', '.webp', '.png', '.apng']);
const CAPTIONS = 'captions.jsonl';
/** Where a line has its caption, unless one of these is asked for; the first that is there. */
const CAPTION_FIELDS = ['caption', 'caption_en', 'text'];
const FILE_FIELDS = ['file', 'file_name', 'name'];

export interface CaptionOptions {
  /** Field of captions.jsonl. Default: caption, caption_en or text, whichever is there first. */
  captionField?: string | undefined;
  /** Whether a sticker without a caption is used, with an empty one. Default false: it is skipped. */
  allowMissingCaptions?: boolean | undefined;
}

/**
 * Lists the stickers of a folder by name. What cannot be used is noted in `skipped`.
 * @throws DuetError NOT_FOUND or IO when the folder or its captions cannot be read
 */
export async function listStickers(
  folder: string,
  skipped: SkipReport<StickerSkipReason>,
  { captionField, allowMissingCaptions = false }: CaptionOptions = {},
): Promise<StickerSample[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((error: unknown) => {
    throw ioError(error, `read the folder of stickers ${folder}`);
  });
  const files = entries
    .filter((entry) => entry.isDirectory() || ENDINGS.has(extname(entry.name).toLowerCase()))
    .map((entry) => ({ file: entry.name, name: entry.isDirectory() ? entry.name : parse(entry.name).name }))
    .filter(({ file }) => !file.startsWith('.'))
    .sort((a, b) => (a.file < b.file ? -1 : 1));
  const fields = captionField === undefined ? CAPTION_FIELDS : [captionField];
  const captions = await readCaptions(folder, fields, skipped);
  const samples: StickerSample[] = [];
  const names = new Set<string>();
  for (const { file, name: plain } of files) {
    // Two files that differ in their ending only keep it in their names.
    const name = names.has(plain) ? file : plain;
    names.add(name);
    const path = join(folder, file);
    let caption = captions.get(file) ?? captions.get(plain);
    try {
      caption ??= await captionBeside(folder, file, plain);
    } catch (error) {
      skipped.note(name, 'malformed caption', messageOf(error));
      continue;
    }
    if (caption || allowMissingCaptions) samples.push({ name, path, caption: caption ?? '' });
    else {
      const listed = captions.has(file) || captions.has(plain);
      const line = listed ? `${fields.join(' or ')} in its line of ${CAPTIONS}` : `a line in ${CAPTIONS}`;
      const hint =
        caption === ''
          ? `the caption of ${file} is empty`
          : `${file} has neither ${line} nor a file ${plain}.txt`;
      skipped.note(name, 'missing caption', hint);
    }
  }
  const there = new Set(files.flatMap(({ file, name }) => [file, name]));
  for (const file of captions.keys()) {
    if (!there.has(file)) skipped.note(file, 'missing file', `${CAPTIONS} names ${file}, which is not there`);
  }
  return samples;
}

/** Of the files that captions.jsonl names; undefined where a line has no caption. */
async function readCaptions(
  folder: string,
  fields: readonly string[],
  skipped: SkipReport<StickerSkipReason>,
): Promise<Map<string, string | undefined>> {
  const captions = new Map<string, string | undefined>();
  const path = join(folder, CAPTIONS);
  const text = await readText(path, 'captions').catch((error: unknown) => {
    if (codeOf(error) === 'NOT_FOUND') return '';
    throw error;
  });
  for (const [index, line] of text.split('\n').entries()) {
    if (line.trim() === '') continue;
    const entry = objectOf(line.trim());
    const file = FILE_FIELDS.map((field) => entry?.[field]).find((value) => typeof value === 'string');
    const caption = fields.map((field) => entry?.[field]).find((value) => typeof value === 'string');
    if (typeof file === 'string')
      captions.set(file, typeof caption === 'string' ? caption.trim() : undefined);
    else {
      const expected = `an object with ${FILE_FIELDS[0]} and ${fields[0]}`;
      skipped.note(
        `line ${index + 1} of ${CAPTIONS}`,
        'malformed caption',
        `Expected ${expected} in line ${index + 1} of ${path} but received ${line.slice(0, 60)}`,
      );
    }
  }
  return captions;
}

async function captionBeside(folder: string, file: string, name: string): Promise<string | undefined> {
  for (const path of [
    join(folder, `${name}.txt`),
    join(folder, `${file}.txt`),
    join(folder, file, 'caption.txt'),
  ]) {
    try {
      return (await readText(path, 'caption')).trim();
    } catch (error) {
      if (!(error instanceof DuetError) || error.code !== 'NOT_FOUND') throw error;
    }
  }
  return undefined;
}

function objectOf(line: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}
