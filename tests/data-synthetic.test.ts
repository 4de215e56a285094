// The drawn data set: every picture can be told apart, the numbers add up, and the same seed gives the same files.

import { createHash } from 'node:crypto';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { AnswerVocabulary } from '../src/data/answers.js';
import { listParts, loadClients, loadPart, loadParts } from '../src/data/clients.js';
import { decodePicture } from '../src/data/pictures.js';
import { Random } from '../src/data/random.js';
import {
  generateSynthetic,
  type SyntheticOptions,
  syntheticSettings,
} from '../src/data/synthetic/generate.js';
import { askQuestions, mixOf, QUESTION_TYPES, YesNo } from '../src/data/synthetic/questions.js';
import { renderScene, sceneSvg } from '../src/data/synthetic/render.js';
import { drawScene, type Scene, shapeWeights } from '../src/data/synthetic/scene.js';
import { SHAPES } from '../src/data/synthetic/shapes.js';
import { STYLE_NAMES } from '../src/data/synthetic/styles.js';
import type { VqaDataset } from '../src/data/vqa.js';
import { temporaryFolder } from './data-support.js';

const evenly = shapeWeights(new Set(), 1);
const one = (shape: string, color: Scene['color'], angle = 0): Scene => ({
  shape: SHAPES.find(({ name }) => name === shape)!,
  color,
  placements: [{ x: 50, y: 50, radius: 38, angle }],
});

/** Mean absolute difference of two pictures, 0 to 255. */
function difference(a: Uint8Array, b: Uint8Array): number {
  return a.reduce((sum, value, index) => sum + Math.abs(value - b[index]!), 0) / a.length;
}

describe('scenes', () => {
  it('keep everything inside the picture and apart', () => {
    for (let number = 0; number < 500; number++) {
      const { placements, shape, direction } = drawScene(new Random(1, number), evenly);
      expect(direction !== undefined).toBe(shape.pointing);
      for (const [index, { x, y, radius }] of placements.entries()) {
        expect(Math.min(x, y, 100 - x, 100 - y) - radius).toBeGreaterThan(-0.5);
        for (const other of placements.slice(index + 1)) {
          expect(Math.hypot(x - other.x, y - other.y)).toBeGreaterThan(0.92 * (radius + other.radius));
        }
      }
    }
  });

  it('show every thing, color, count and direction', () => {
    const scenes = Array.from({ length: 400 }, (_, number) => drawScene(new Random(2, number), evenly));
    expect(new Set(scenes.map(({ shape }) => shape.name)).size).toBe(SHAPES.length);
    expect(new Set(scenes.map(({ color }) => color)).size).toBe(7);
    expect(new Set(scenes.map(({ placements }) => placements.length))).toEqual(new Set([1, 2, 3, 4]));
    expect(new Set(scenes.map(({ direction }) => direction)).size).toBe(5);
  });
});

describe.each(STYLE_NAMES)('the style %s', (style) => {
  it('is drawn the same way every time', async () => {
    const scene = drawScene(new Random(3), evenly);
    expect(sceneSvg(scene, style, 64, 1, 2)).toBe(sceneSvg(scene, style, 64, 1, 2));
    expect(await renderScene(scene, style, 64, 1, 2)).toEqual(await renderScene(scene, style, 64, 1, 2));
  });

  it.each([32, 64])('tells things, colors and directions apart at %i pixels', async (size) => {
    const draw = async (scene: Scene) => {
      const picture = await decodePicture(await renderScene(scene, style, size, 1, 1));
      expect([picture.width, picture.height]).toEqual([size, size]);
      return picture.rgb;
    };
    const things = await Promise.all(SHAPES.map(({ name }) => draw(one(name, 'blue'))));
    for (const [index, picture] of things.entries()) {
      for (const other of things.slice(index + 1)) expect(difference(picture, other)).toBeGreaterThan(2);
    }
    const colors = await Promise.all(
      (['red', 'orange', 'yellow', 'pink'] as const).map((name) => draw(one('cup', name))),
    );
    for (const [index, picture] of colors.entries()) {
      for (const other of colors.slice(index + 1)) expect(difference(picture, other)).toBeGreaterThan(1.5);
    }
    const angles = await Promise.all([0, 90, 180, 270].map((angle) => draw(one('fish', 'green', angle))));
    for (const [index, picture] of angles.entries()) {
      for (const other of angles.slice(index + 1)) expect(difference(picture, other)).toBeGreaterThan(2);
    }
  });
});

describe('questions', () => {
  it('have the answers of the scene, and yes as often as no', () => {
    const balance = { shape: new YesNo(), color: new YesNo() };
    const random = new Random(4);
    const counts = { yes: 0, no: 0 };
    for (let number = 0; number < 300; number++) {
      const scene = drawScene(random, evenly);
      for (const asked of askQuestions(scene, mixOf(0, 0), 5, balance, random)) {
        expect(asked.question).not.toMatch(/[{}]|undefined/);
        if (asked.type === 'object') expect(asked.answer).toBe(scene.shape.name);
        if (asked.type === 'color') expect(asked.answer).toBe(scene.color);
        if (asked.type === 'count') expect(asked.answer).toBe(String(scene.placements.length));
        if (asked.type === 'direction') expect(asked.answer).toBe(scene.direction);
        if (asked.type !== 'verify') continue;
        const words = asked.question.split(/[ ?]/);
        const named = words.includes(scene.shape.name) || words.includes(scene.color);
        expect(asked.answer).toBe(named ? 'yes' : 'no');
        counts[asked.answer as 'yes' | 'no']++;
      }
    }
    expect(counts.yes + counts.no).toBeGreaterThan(300);
    expect(Math.abs(counts.yes - counts.no)).toBeLessThanOrEqual(2);
  });

  it('are mixed by heterogeneity', () => {
    expect(new Set(Object.values(mixOf(2, 0)))).toEqual(new Set([1]));
    expect(mixOf(3, 1)).toEqual({ object: 0, color: 0, count: 0, verify: 1, direction: 1 });
    expect(mixOf(4, 0.5)).toEqual({ object: 1, color: 0.25, count: 0.25, verify: 0.25, direction: 1 });
  });
});

describe('a generated folder', () => {
  const options: SyntheticOptions = {
    styles: ['neon', 'sketch'],
    pictures: { train: 12, val: 6 },
    neutralPictures: { train: 9, val: 3 },
    size: 32,
    heterogeneity: 1,
  };
  let folder = '';
  beforeAll(async () => {
    folder = join(await temporaryFolder(), 'set');
    await generateSynthetic(folder, options);
  });

  async function digest(root: string): Promise<string> {
    const hash = createHash('sha256');
    const entries = await readdir(root, { recursive: true, withFileTypes: true });
    const paths = entries
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name));
    for (const path of paths.sort()) hash.update(path.slice(root.length)).update(await readFile(path));
    return hash.digest('hex');
  }

  it('is read by the loader, with the neutral style in no client', async () => {
    expect(await listParts(folder, 'train')).toEqual(['neon', 'plain', 'sketch']);
    const plain = await loadPart(folder, 'plain', 'train');
    expect(plain.report).toMatchObject({ kept: 27, skipped: {} });
    const styles = await loadClients(folder, { view: 'style', split: 'train' });
    expect([...styles.keys()]).toEqual(['neon', 'sketch']);
    const all = await loadParts(folder, { split: 'train', except: ['plain'] });
    const functions = await loadClients(folder, { view: 'function', split: 'train' });
    const count = (clients: Map<string, VqaDataset>) =>
      [...clients.values()].reduce((sum, { size }) => sum + size, 0);
    expect(count(styles)).toBe(all.size);
    expect(count(functions)).toBe(all.size);
    const answers = await AnswerVocabulary.load(join(folder, 'answers.json'));
    expect(all.countUnanswerable(answers) + plain.countUnanswerable(answers)).toBe(0);
  });

  it('gives clients different questions', async () => {
    const styles = await loadClients(folder, { view: 'style', split: 'train' });
    const types = (name: string) => new Set(styles.get(name)!.samples.map((sample) => sample.questionType));
    expect(types('neon')).toEqual(new Set(QUESTION_TYPES.slice(0, 2)));
    expect(types('sketch')).toEqual(new Set(QUESTION_TYPES.slice(1, 3)));
  });

  it('is the same for the same settings, and not made twice', async () => {
    const first = await digest(folder);
    const other = join(await temporaryFolder(), 'again');
    let drawn = 0;
    await generateSynthetic(other, options, { onProgress: () => drawn++ });
    expect(drawn).toBe(2 * 18 + 12);
    expect(await digest(other)).toBe(first);
    await generateSynthetic(other, options, { onProgress: () => drawn++ });
    expect(drawn).toBe(2 * 18 + 12);
    const third = join(await temporaryFolder(), 'seed');
    await generateSynthetic(third, { ...options, seed: 2 });
    expect(await digest(third)).not.toBe(first);
  });

  it('is not drawn into a folder that holds something else', async () => {
    const foreign = join(await temporaryFolder(), 'foreign');
    await mkdir(foreign);
    await writeFile(join(foreign, 'answers.json'), '{"answers": ["mine"]}');
    await writeFile(join(foreign, 'note.txt'), 'hi');
    await expect(generateSynthetic(foreign, options)).rejects.toThrow(
      /Expected .*foreign to be empty or to hold a data set of this command but it holds .* and 1 more; choose another/,
    );
    expect(await readFile(join(foreign, 'answers.json'), 'utf8')).toBe('{"answers": ["mine"]}');
  });

  it('is not overwritten by one of other settings', async () => {
    const other = generateSynthetic(folder, { ...options, seed: 9 });
    await expect(other).rejects.toThrow(/holds one of other settings .* choose another folder/);
  });

  it('can be cancelled, and is then made again', async () => {
    const other = join(await temporaryFolder(), 'cancelled');
    const controller = new AbortController();
    const onProgress = (done: number) => done === 5 && controller.abort();
    const cancelled = generateSynthetic(other, options, { signal: controller.signal, onProgress });
    await expect(cancelled).rejects.toMatchObject({ code: 'CANCELLED' });
    await generateSynthetic(other, options);
    expect(await digest(other)).toBe(await digest(folder));
    expect(await readdir(other)).not.toContain('.synthetic-begun');
  });

  it('refuses impossible settings', () => {
    expect(() => syntheticSettings({ size: 8 })).toThrow(/at least 16 for size but received 8/);
    expect(() => syntheticSettings({ heterogeneity: 2 })).toThrow(/for heterogeneity but received 2/);
    expect(() => syntheticSettings({ styles: ['neon', 'neon'] })).toThrow(/different styles/);
    expect(() => syntheticSettings({ styles: ['plain'] })).toThrow(/other than plain/);
    expect(() => syntheticSettings({ styles: ['oil' as 'neon'] })).toThrow(/styles\[0\]/);
  });
});
