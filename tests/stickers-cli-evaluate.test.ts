// duet stickers evaluate as users meet it: what is measured, what is left out, and what cannot be.

import { cp, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import { duet, succeed } from './cli-support.js';
import { addBadStickers, fails, stickerCommands } from './stickers-cli-support.js';

const { folder, data, run, train, evaluate } = await stickerCommands();
beforeAll(() => succeed(...train('run')));

describe('evaluate', () => {
  test('measures what was not trained on, writes a sheet and all numbers', async () => {
    const [sheet, json] = [join(folder, 'sheet.png'), join(folder, 'numbers.json')];
    const { stdout } = await succeed(...evaluate('--sheet', sheet, '--json', json));
    expect(stdout).toMatch(/^2 clips; frames that were not given\n/);
    expect(stdout).toMatch(/│ interpolation +│ network +│ +\d+\.\d\d │ +-?\d\.\d{4} │ +\d\.\d{4} │/);
    expect(stdout).toMatch(/│ i2v +│( +\d\.\d{4} │){6}/);
    // Three tasks of two clips: truth, network and two baselines below each other, four frames wide.
    expect(await sharp(sheet).metadata()).toMatchObject({ width: 4 * 17, height: 6 * (4 * 16 + 4) });
    const numbers = JSON.parse(await readFile(json, 'utf8'));
    expect(numbers).toMatchObject({
      clips: 2,
      filling: { interpolation: { blend: { psnr: expect.any(Number) } } },
    });
    const all = await succeed(...evaluate('--all', '--most', '3'));
    expect(all.stdout).toMatch(/^3 clips/);
  });

  test('what was trained on is left out under other names and in other formats too', async () => {
    const copied = join(folder, 'copied');
    await cp(data, copied, { recursive: true });
    const only = join(folder, 'only-copies');
    await mkdir(only);
    const { settings } = JSON.parse(await readFile(join(run, 'config.json'), 'utf8'));
    const [first, second] = settings.data.stickers;
    for (const place of [copied, only]) {
      await cp(join(data, `${first}.webp`), join(place, 'same.webp'));
      await mkdir(join(place, 'unpacked'));
      for (let page = 0; page < 6; page++) {
        const frame = sharp(join(data, `${second}.webp`), { page }).png();
        await frame.toFile(join(place, 'unpacked', `${page}.png`));
      }
      for (const name of ['same', 'unpacked']) await writeFile(join(place, `${name}.txt`), 'another caption');
    }
    const { stdout, stderr } = await succeed(...evaluate().with(3, copied));
    expect(stdout).toMatch(/^2 clips/);
    expect(stderr).toMatch(
      /^2 of 4 stickers left out: the run was trained on the same clip under another name, e.g. same$/m,
    );
    expect(await fails(evaluate().with(3, only))).toMatch(
      /Expected stickers in only-copies that the run was not trained on but found none/,
    );
    const old = join(folder, 'old');
    await cp(run, old, { recursive: true });
    const { fingerprints, ...rest } = JSON.parse(await readFile(join(run, 'data.json'), 'utf8'));
    expect(Object.keys(fingerprints).sort()).toEqual([...settings.data.stickers].sort());
    await writeFile(join(old, 'data.json'), JSON.stringify(rest));
    const byName = await succeed(...evaluate().with(3, copied).with(2, old));
    expect(byName.stdout).toMatch(/^4 clips/);
    expect(byName.stderr).toMatch(/does not tell what its stickers show: .* left out by name alone$/m);
  });

  test('folders that cannot be', async () => {
    const bad = join(folder, 'bad');
    await addBadStickers(data, bad);
    expect(await fails(evaluate().with(3, bad))).toMatch(
      /usable sticker in bad \(not trained on\) but found 0: 8 skipped/,
    );
    expect(await fails(evaluate().with(2, data))).toMatch(
      /Cannot read .*config.json: .*duet stickers train makes such/,
    );
    for (const [option, ...value] of [
      ['--features-layout', 'BFHWC'],
      ['--features-size', '9'],
    ])
      expect(await fails(evaluate(option as string, ...value))).toMatch(
        `Expected --features with ${option}, which is about it`,
      );
    for (const how of [['--sheet-clips', '2'], ['--sheet-made-only']])
      expect(await fails(evaluate(...how))).toMatch(`Expected --sheet with ${how[0]}, which is about it`);
    expect(await fails(evaluate('--sheet', join(folder, 'no/sheet.png')))).toMatch(
      /Expected the folder of .*sheet.png/,
    );
    expect(await fails(evaluate('--json', bad))).toMatch(`Expected a file to write but ${bad} is a folder`);
    expect(await fails(evaluate('--sheet', join(folder, 'sheet.jpg')), 2)).toMatch(
      /Expected a file ending in .png but received .*sheet.jpg/,
    );
  });

  test.runIf(process.platform === 'linux')('a sheet that cannot be written costs only itself', async () => {
    const json = join(folder, 'kept.json');
    const done = await duet(...evaluate('--sheet', '/proc/sheet.png', '--json', json));
    expect(done.status).toBe(1);
    expect(done.stdout).toMatch(/^2 clips; /);
    expect(done.stderr).toMatch(/Cannot write \/proc\/sheet.png: no such file or folder\n/);
    expect(JSON.parse(await readFile(json, 'utf8'))).toMatchObject({ clips: 2 });
  });
});
