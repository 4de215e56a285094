// duet stickers train and generate as users meet them, on drawn stickers: what is written, what is said, and bad input of every kind.

import { cp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import sharp from 'sharp';
import { describe, expect, test } from 'vitest';
import { native } from '../src/native.js';
import { metricsOf, succeed } from './cli-support.js';
import { addBadStickers, fails, stickerCommands } from './stickers-cli-support.js';
import { autoencoderFolder, encoderFolder } from './support/encoder-folders.js';

const { folder, data, run, train, generate } = await stickerCommands();

describe('train', () => {
  test('says what memory it takes and how it goes; fills its run folder', async () => {
    const { stdout, stderr } = await succeed(...train('run', '--checkpoint-every', '2'));
    expect(stdout).toBe(`run folder: ${run}\n`);
    expect(stderr).toMatch(/training on 14 of 16 usable stickers\n/);
    expect(stderr).toMatch(
      /^memory\nweights +\d.*\nmoving averages +.*\nactivations of the largest step .*\ntogether /ms,
    );
    expect(stderr).toMatch(/^step 2\/4 {2}loss \d.*\nstep 4\/4 {2}loss \d/m);
    expect((await readdir(run)).sort()).toEqual(
      [
        'checkpoints',
        'clips',
        'config.json',
        'data.json',
        'metrics.jsonl',
        'pipeline.json',
        'vocab.txt',
      ].sort(),
    );
    expect(await readdir(join(run, 'checkpoints'))).toEqual(['step-0000002', 'step-0000004']);
    expect(await metricsOf(run)).toMatchObject([
      { number: 2, clips: 4 },
      { number: 4, clips: 4 },
    ]);
    const { kind, settings } = JSON.parse(await readFile(join(run, 'config.json'), 'utf8'));
    expect(kind).toBe('stickers');
    expect(settings).toMatchObject({ steps: 4, network: { in_channels: 16, num_frames: 4 } });
  });

  test('resumed it is complete; with other settings it names them and changes nothing', async () => {
    const again = await succeed(...train('run', '--resume'));
    expect(again.stderr).toMatch(/continuing after step 4\n/);
    expect(await fails(train('run'))).toMatch(/already holds a run; resume it \(--resume\)/);
    const said = await fails(train('run', '--resume', '--lr', '1', '--curriculum', 'uniform', '--seed', '2'));
    expect(said).toMatch(
      /other settings: learningRate was 0.0003 and is 1; seed was 0 and is 2; curriculum was/,
    );
    const other = join(folder, 'fewer');
    await cp(data, other, { recursive: true });
    for (const name of (await readdir(other)).filter((file) => file.endsWith('.webp')).slice(0, 4))
      await rm(join(other, name));
    const elsewhere = train('run', '--resume').map((word) => (word === data ? other : word));
    expect(await fails(elsewhere)).toMatch(/data.name was .*; and \d+ more\. Resume with its settings/);
    expect(await metricsOf(run)).toHaveLength(2);
  });

  test('a checkpoint that is damaged is told and left out', async () => {
    const damaged = join(folder, 'damaged');
    await cp(run, damaged, { recursive: true });
    await truncate(join(damaged, 'checkpoints/step-0000004/weights.safetensors'), 100);
    const { stderr } = await succeed(...train('damaged', '--resume'));
    expect(stderr).toMatch(/not readable, left out: .*step-0000004: The header .* may have been cut off\n/);
    expect(stderr).toMatch(/continuing after step 2\n/);
    expect(await metricsOf(damaged)).toEqual(await metricsOf(run));
  });

  test('in latents and with frozen texts the network fits them', async () => {
    const frozen = [
      ...['--autoencoder', await autoencoderFolder(), '--text-encoder', await encoderFolder('clip')],
      ...['--t5-encoder', await encoderFolder('t5'), '--patch', '1', '--steps', '1'],
    ];
    const args = train('frozen', ...frozen).filter((word) => word !== '--alpha');
    await succeed(...args);
    const kept = (await readdir(join(folder, 'frozen/clips'))).map((name) => name.replace(/.*\./, ''));
    expect(new Set(kept)).toEqual(new Set(['clip', 'latents']));
    const again = args.map((word) => word.replace(/\/frozen$/, '/frozen-again'));
    const { stderr } = await succeed(...again, '--cache', '/dev/null/clips');
    for (const what of ['Decoded frames', 'Latents'])
      expect(stderr.split(`${what} are no longer kept in /dev/null/clips: `)).toHaveLength(2);
    const { settings } = JSON.parse(await readFile(join(folder, 'frozen/config.json'), 'utf8'));
    expect(settings.network).toMatchObject({ in_channels: 2, cross_attention_dim: 12, t5_dim: 10 });
    const out = join(folder, 'frozen.webp');
    const { stdout } = await succeed(
      ...generate('--prompt', 'a cat', '--out', out).with(2, join(folder, 'frozen')),
    );
    expect(stdout).toMatch(/frozen.webp {2}4 frames of 16x16/);
  });

  test('bad stickers are counted and skipped', async () => {
    const mixed = join(folder, 'mixed');
    await cp(data, mixed, { recursive: true });
    await addBadStickers(data, mixed);
    const args = train('mixed-run', '--steps', '1').map((word) => (word === data ? mixed : word));
    const { stderr } = await succeed(...args);
    expect(stderr).toMatch(
      /mixed: 8 skipped \(1 missing caption, 1 missing file, (?=.*3 corrupt animation)(?=.*1 too few frames)(?=.*1 too many frames)(?=.*1 too large)/,
    );
    expect(stderr).toMatch(/training on 14 of 16 usable stickers/);
  });

  test('a loss that is not finite ends it with the batch named and the checkpoint kept', async () => {
    const wild = train('wild', '--checkpoint-every', '1');
    await succeed(...wild, '--keep', '9');
    for (const step of [2, 3, 4])
      await rm(join(folder, `wild/checkpoints/step-000000${step}`), { recursive: true });
    const weights = join(folder, 'wild/checkpoints/step-0000001/weights.safetensors');
    const { tensors, metadata } = await native.readSafetensors(weights);
    for (const { data } of Object.values(tensors)) data.fill(1e30 as never);
    await native.writeSafetensors(weights, tensors, metadata);
    expect(await fails([...wild, '--resume'])).toMatch(
      /finite loss .* those of step 2 are not \(\w+ of \w+, \w+\); lower the learning rate .*; the checkpoint of step 1 is kept/,
    );
    expect(await readdir(join(folder, 'wild/checkpoints'))).toEqual(['step-0000001']);
  });

  const impossible: [string, string[], RegExp][] = [
    [
      'widths',
      ['--channels', '9,16'],
      /block_out_channels divisible by norm_num_groups \(4\) but received 9/,
    ],
    ['a side the network cannot take', ['--pixels', '4'], /pictures of at least 3 x 3 .* received 2 x 2/],
    ['a side no patch fits', ['--pixels', '15'], /side is a multiple of the patch, 2, but received 15/],
    ['a huge side', ['--pixels', '5000'], /at most 2048 for size but received 5000/],
    ['all held out', ['--held-out', '1'], /share between 0 and 1 .* received 1 of 16/],
    ['a caption field', ['--caption-field', 'x'], /found 0: .*16 missing caption/],
    ['the second text encoder alone', ['--t5-encoder', 'x'], /Expected --text-encoder with --t5-encoder/],
  ];
  test.each(impossible)('%s', async (_, args, message) => {
    expect(await fails(train('impossible', ...args))).toMatch(message);
    const left = await readdir(join(folder, 'impossible')).catch(() => []);
    expect(left).not.toContain('config.json');
  });

  test('what needs no clip is refused before one is decoded', async () => {
    for (const args of [
      ['--channels', '9,16'],
      ['--pixels', '15'],
    ]) {
      await fails(train('early', ...args));
      expect(await readdir(join(folder, 'early/clips'))).toEqual([]);
    }
    const encoder = await encoderFolder('clip');
    for (const name of ['vocab.json', 'merges.txt']) await rm(join(encoder, name));
    expect(await fails(train('early', '--text-encoder', encoder))).toMatch(
      /Expected a tokenizer in the text/,
    );
    expect(await readdir(join(folder, 'early/clips'))).toEqual([]);
    expect(await fails(train('run', '--cache', join(folder, 'never')))).toMatch(/already holds a run/);
    expect(await readdir(folder)).not.toContain('never');
    await writeFile(join(folder, 'file'), '');
    expect(await fails(train('file', '--cache', join(folder, 'never')))).toMatch(
      /Cannot make the run folder .*file: a file is where a folder should be; choose a folder/,
    );
    expect(await fails(train('file/run', '--cache', join(folder, 'never')))).toMatch(
      /Cannot make the run folder .*file\/run: a file is where a folder should be; choose a folder/,
    );
  });

  test('equal widths are no mistake', async () => {
    await succeed(...train('equal', '--channels', '8,8', '--steps', '1'));
  });

  test('data that is not there, or without one good sticker', async () => {
    const at = (place: string) => train('never').map((word) => (word === data ? place : word));
    expect(await fails(at(join(folder, 'nowhere')))).toMatch(/Cannot read the folder of stickers .*nowhere/);
    const bad = join(folder, 'bad');
    await addBadStickers(data, bad);
    expect(await fails(at(bad))).toMatch(/at least 1 usable sticker in bad but found 0: 8 skipped/);
  });
});

describe('generate', () => {
  const about = (file: string) => sharp(join(folder, file), { animated: true }).metadata();

  test('writes every format asked for, enlarged, with alpha, its delay and plays; the same for the same seed', async () => {
    const out = ['a.gif', 'a.webp', 'a.png'].flatMap((name) => ['--out', join(folder, name)]);
    const how = ['--prompt', 'a red ball', '--enlarge', '2', '--delay', '80', '--loop', '2', ...out];
    const { stdout, stderr } = await succeed(...generate(...how));
    expect(stderr).toBe('');
    expect(stdout.split('\n').map((line) => line.replace(/^.*\//, ''))).toEqual([
      expect.stringMatching(/^a.gif {2}4 frames of 32x32 {2}\d.* k?B$/),
      expect.stringMatching(/^a.webp {2}4 frames of 32x32/),
      expect.stringMatching(/^a.png {2}4 frames of 32x32/),
      '',
    ]);
    for (const name of ['a.gif', 'a.webp'])
      expect(await about(name)).toMatchObject({
        ...{ width: 32, pageHeight: 32, pages: 4, delay: [80, 80, 80, 80], loop: 2, hasAlpha: true },
      });
    expect(await about('a.png')).toMatchObject({ width: 128, height: 32, hasAlpha: true });
    await succeed(...generate(...how.slice(0, -6), '--lossless', '--out', join(folder, 'exact.webp')));
    const pixels = (file: string) => sharp(join(folder, file), { animated: true }).raw().toBuffer();
    const [exact, strip] = [await pixels('exact.webp'), await pixels('a.png')];
    // Frame 1 below frame 0 in the one, beside it in the other.
    expect(exact.subarray(32 * 32 * 4, 32 * 32 * 4 + 128)).toEqual(strip.subarray(128, 256));
    const first = await readFile(join(folder, 'a.gif'));
    await succeed(...generate(...how));
    expect((await readFile(join(folder, 'a.gif'))).equals(first)).toBe(true);
  });

  test('given frames, a negative prompt, DDIM, fewer frames, previews, a byte budget', async () => {
    const [out, preview] = [join(folder, 'b.webp'), join(folder, 'preview.png')];
    const given = ['--image', join(data, 'ball.webp'), '--keep', `2=${join(data, 'star.webp')}`];
    const how = ['--sampler', 'ddim', '--eta', '1', '--steps', '11', '--negative', 'rain', '--frames', '3'];
    const { stdout } = await succeed(
      ...generate(
        ...given,
        ...how,
        '--prompt',
        'a ball',
        '--preview',
        preview,
        '--max-bytes',
        '700',
        '--out',
        out,
      ),
    );
    const [, frames] = /b.webp {2}(\d) frames of 16x16 {2}\d+ B {2}\(.+ instead of .+\)\n/.exec(stdout) ?? [];
    expect((await about('b.webp')).pages).toBe(Number(frames));
    expect((await readFile(out)).length).toBeLessThanOrEqual(700);
    expect(await about('preview.png')).toMatchObject({ width: 48, height: 16 });
  });

  const ball = () => join(data, 'ball.webp');
  const bad: [string, () => string[], RegExp][] = [
    [
      'a place beyond the frames',
      () => ['--keep', `4=${ball()}`],
      /positions from 0 to 3 in keep .* received 4/,
    ],
    [
      'a place beyond those asked for',
      () => ['--frames', '2', '--keep', `3=${ball()}`],
      /from 0 to 1 .* received 3/,
    ],
    ['the first frame twice', () => ['--image', ball(), '--keep', `0=${ball()}`], /the first frame once/],
    [
      'a frame that is not there',
      () => ['--image', join(data, 'none.webp')],
      /Cannot read the sticker .*none.webp/,
    ],
    [
      'a frame that is no picture',
      () => ['--image', join(data, 'captions.jsonl')],
      /Cannot decode the sticker/,
    ],
    [
      'too many frames',
      () => ['--frames', '9'],
      /between 1 and 4 for frames \(the network has the most\) but received 9/,
    ],
    ['too many steps', () => ['--steps', '2000'], /between 1 and 1000 for the number of sampling steps/],
    [
      'noise DPM-Solver does not know',
      () => ['--eta', '0.5'],
      /eta 0 for dpm-solver but received 0.5; use ddim/,
    ],
    [
      'a huge picture',
      () => ['--enlarge', '1000'],
      /between 1 and 8192 for the enlarged side but received 16000/,
    ],
    [
      'a folder that is not there',
      () => ['--out', join(folder, 'no/a.gif')],
      /Expected the folder of .*a.gif/,
    ],
    ['too few bytes', () => ['--max-bytes', '10'], /at most 10 bytes but the smallest/],
  ];
  test.each(bad)('%s', async (_, args, message) => {
    expect(await fails(generate('--out', join(folder, 'never.gif'), ...args()))).toMatch(message);
    expect(await readdir(folder)).not.toContain('never.gif');
  });

  test.each([
    [['--keep', '0=a.png', '--keep', '0=b.png'], /Expected frame 0 once/],
    [['--keep', 'x=a.png'], /Expected place=file, e.g. 0=first.png, but received x=a.png/],
    [['--out', 'a.mp4'], /Expected a file ending in .gif, .webp or .png but received a.mp4/],
    [['--loop', '70000'], /Expected an integer from 0 to 65535 but received 70000/],
  ])('wrong usage: %j', async (args, message) => {
    expect(await fails(generate(...args), 2)).toMatch(message);
  });

  const gone = (place: string, ...names: string[]) =>
    Promise.all(names.map((name) => rm(join(place, name), { recursive: true })));
  const harmed: [string, (place: string) => Promise<unknown>, RegExp][] = [
    ['none', (place) => gone(place, 'pipeline.json'), /duet stickers train makes such/],
    [
      'not ready',
      (place) => gone(place, 'checkpoints/step-0000002', 'checkpoints/step-0000004'),
      /Expected a checkpoint in .* but found none/,
    ],
    ['broken', (place) => writeFile(join(place, 'pipeline.json'), '{'), /Expected JSON in/],
    ['without words', (place) => gone(place, 'vocab.txt'), /Cannot read vocabulary/],
    [
      'cut short',
      async (place) => {
        for (const step of [2, 4])
          await truncate(join(place, `checkpoints/step-000000${step}/average.safetensors`), 1000);
      },
      /readable checkpoint in .* but all are damaged: .*step-0000004: .*may have been cut off/,
    ],
  ];
  test.each(harmed)('a run folder that is %s', async (name, harm, message) => {
    const place = join(folder, name);
    await cp(run, place, { recursive: true });
    await harm(place);
    const args = generate('--out', join(folder, 'never.gif')).with(2, place);
    expect(await fails(args)).toMatch(message);
  });

  test('a newest checkpoint that is damaged is told, and the one before is taken', async () => {
    const place = join(folder, 'newest-cut');
    await cp(run, place, { recursive: true });
    await truncate(join(place, 'checkpoints/step-0000004/average.safetensors'), 1000);
    const args = generate('--out', join(folder, 'older.webp')).with(2, place);
    const { stdout, stderr } = await succeed(...args);
    expect(stderr).toMatch(/^not readable, left out: .*step-0000004: .* may have been cut off\n$/);
    expect(stdout).toMatch(/older.webp {2}4 frames/);
  });
});
