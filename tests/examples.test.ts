// The examples, run as they are written, one after the other in one folder.

import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { temporaryFolder } from './federation-support.js';

const example = (name: string) => import(`../examples/${name}.mjs`);
const before = process.cwd();
let printed: string[] = [];

beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation((...words: unknown[]) => {
    printed.push(words.join(' '));
  });
  process.chdir(await temporaryFolder());
});

afterAll(() => {
  process.chdir(before);
  vi.restoreAllMocks();
});

test('01-federate', async () => {
  await example('01-federate');
  expect(printed.filter((line) => /^[123] /.test(line))).toHaveLength(3);
  expect(existsSync('run/export/poster.safetensors')).toBe(true);
});

test('02-stop-and-resume', async () => {
  printed = [];
  await example('02-stop-and-resume');
  expect(printed.map((line) => line.split(' ').slice(0, 2).join(' '))).toEqual([
    'round 1',
    'round 2',
    'stopped',
    'round 3',
    'round 4',
  ]);
  expect((await readFile('stopped/metrics.jsonl', 'utf8')).trimEnd().split('\n')).toHaveLength(4);
});

test('03-own-strategy', async () => {
  printed = [];
  await example('03-own-strategy');
  expect(printed.length).toBeGreaterThanOrEqual(4);
});

test('04-sticker', async () => {
  printed = [];
  await example('04-sticker');
  expect(printed.filter((line) => /^[246] \d/.test(line))).toHaveLength(3);
  expect((await readFile('ghost.gif')).subarray(0, 6).toString()).toBe('GIF89a');
});
