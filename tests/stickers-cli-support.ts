/** What the tests of `duet stickers` share: a folder of drawn stickers, the commands on it, and bad stickers. */

import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';
import { generateStickers } from '../src/stickers/synthetic/generate.js';
import { duet } from './cli-support.js';
import { png, temporaryFolder } from './data-support.js';
import { quickStickers } from './sticker-support.js';

export interface StickerCommands {
  folder: string;
  /** Sixteen drawn stickers of six frames. */
  data: string;
  /** Where `train('run')` writes. */
  run: string;
  train(runDir: string, ...more: string[]): string[];
  generate(...more: string[]): string[];
  evaluate(...more: string[]): string[];
}

export async function stickerCommands(): Promise<StickerCommands> {
  const folder = await temporaryFolder();
  const [data, run] = [join(folder, 'data'), join(folder, 'run')];
  await generateStickers(data, { size: 16, frames: 6 });
  const quick = ['--threads', '1', '--steps', '2'];
  return {
    folder,
    data,
    run,
    train: (runDir, ...more) => [
      ...['stickers', 'train', data, '--run', join(folder, runDir), ...quickStickers, '--alpha'],
      ...['--steps', '4', '--report-every', '2', ...more],
    ],
    generate: (...more) => ['stickers', 'generate', run, ...quick, ...more],
    evaluate: (...more) => ['stickers', 'evaluate', run, data, ...quick, ...more],
  };
}

/** The error's line, the last one. */
export async function fails(args: string[], status = 1): Promise<string> {
  const done = await duet(...args);
  expect([done.status, done.stdout]).toEqual([status, '']);
  const lines = done.stderr.trimEnd().split('\n');
  return lines.filter((line) => !line.startsWith('(--help')).at(-1) ?? '';
}

/** One of each kind, with captions beside them. */
export async function addBadStickers(data: string, place: string): Promise<void> {
  await mkdir(place, { recursive: true });
  const good = await readFile(join(data, 'ball.webp'));
  const still = png({ width: 8, height: 8, depth: 8, colour: 2, rows: new Uint8Array(8 * 25) });
  const bomb = Buffer.from(good);
  bomb.writeUIntLE(16382, 24, 3); // the canvas, less 1
  bomb.writeUIntLE(16382, 27, 3);
  // Thousands of frames of one pixel.
  const hex = (bytes: string) => Buffer.from(bytes.replaceAll(' ', ''), 'hex');
  const screen = hex('474946383961 0800 0800 80 00 00 000000 ffffff');
  const frame = hex('21f904 00 0a00 00 00 2c 0000 0000 0100 0100 00 02 02 4401 00');
  const files: Record<string, Uint8Array> = {
    'empty.gif': new Uint8Array(),
    'cut.webp': good.subarray(0, 300),
    'text.gif': Buffer.from('not a picture'),
    'still.png': still,
    'bomb.webp': bomb,
    'thousands.gif': Buffer.concat([screen, ...Array.from({ length: 3000 }, () => frame), Buffer.from(';')]),
  };
  for (const [name, bytes] of Object.entries(files)) {
    await writeFile(join(place, name), bytes);
    await writeFile(join(place, `${name}.txt`), 'a sticker');
  }
  await writeFile(join(place, 'silent.webp'), good);
  const captions = join(place, 'captions.jsonl');
  const before = await readFile(captions, 'utf8').catch(() => '');
  if (!before.includes('gone.gif'))
    await writeFile(captions, `${before}{"file": "gone.gif", "caption": "not there"}\n`);
}
