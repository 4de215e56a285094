// A disk that fills up during a run: a real one, a small tmpfs, where this process may mount one.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { StickerDataset } from '../src/data/stickers/dataset.js';
import { LatentSpace } from '../src/stickers/space.js';
import { generateStickers } from '../src/stickers/synthetic/generate.js';
import { StickerTrainer } from '../src/stickers/trainer.js';
import {
  allRounds,
  temporaryFolder,
  tinyFederation,
  tinyModel,
  withoutTiming,
} from './federation-support.js';
import { allSteps, lastWeights, tinyNetwork, withoutMetrics } from './sticker-support.js';
import { autoencoderFolder } from './support/encoder-folders.js';

const place = await mkdtemp(join(tmpdir(), 'duet-full-'));
const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=32m', 'tmpfs', place], { encoding: 'utf8' });
const reason = mounted.status === 0 ? undefined : (mounted.stderr ?? String(mounted.error)).trim();
if (reason)
  console.log(`skipped: a full disk is not tested, for no small file system can be mounted (${reason})`);
afterAll(async () => {
  if (!reason) spawnSync('umount', [place]);
  await rm(place, { recursive: true, force: true });
});

/** Writes a file until nothing fits any more. */
async function fill(path: string): Promise<void> {
  const file = await open(path, 'w');
  try {
    for (let size = 64 * 1024; size >= 1; size = Math.floor(size / 4)) {
      for (;;) {
        try {
          await file.write(new Uint8Array(size));
        } catch {
          break;
        }
      }
    }
  } finally {
    await file.close();
  }
}

describe.skipIf(reason)('when the disk is full', () => {
  const runDir = join(place, 'run');
  const filler = join(place, 'filler');

  beforeAll(() => mkdir(runDir));

  test('a run stops with DISK_FULL, keeps its last checkpoint, and continues with the same numbers once there is space', async () => {
    const rounds = tinyFederation({ rounds: 3, runDir }).run();
    await rounds.next();
    await fill(filler);
    await expect(rounds.next()).rejects.toMatchObject({
      code: 'DISK_FULL',
      message: expect.stringMatching(
        /Round 2 could not be recorded in .*; the checkpoint of round 1 is kept, free some space and resume/s,
      ),
    });
    expect(existsSync(join(runDir, 'checkpoints/round-0001.safetensors'))).toBe(true);
    expect(existsSync(join(runDir, '.lock'))).toBe(false);
    await rm(filler);
    const resumed = tinyFederation({ rounds: 3, runDir, resume: true });
    const reports = await allRounds(resumed);
    const whole = await allRounds(tinyFederation({ rounds: 3 }));
    expect(withoutTiming([...resumed.history, ...reports])).toEqual(withoutTiming(whole));
  });

  test('a new run does not begin', async () => {
    await fill(filler);
    await expect(allRounds(tinyFederation({ runDir: join(place, 'other') }))).rejects.toMatchObject({
      code: 'DISK_FULL',
    });
    await rm(filler);
  });

  test.each([
    ['all clips are decoded before', true, /write .*weights.safetensors.*: No space left on device/],
    ['new clips are noted in data.json', false, /write .*data.json: no space is left on its disk/],
  ])(
    'a sticker training stops with DISK_FULL, keeps its last checkpoint and the clips it has, and continues with the same bits (%s)',
    async (_, prepared, what) => {
      const drawn = join(await temporaryFolder(), 'drawn');
      await generateStickers(drawn, { size: 16, frames: 6 });
      const [whole, cut] = [join(await temporaryFolder(), 'whole'), join(place, `stickers-${prepared}`)];
      const trainer = async (run: string, cache?: string) => {
        const data = await StickerDataset.fromFolder(drawn, { frames: 4, size: 16, ...(cache && { cache }) });
        return new StickerTrainer({
          network: tinyNetwork,
          data: prepared ? await data.prepare() : data,
          ...{ runDir: run, resume: true, steps: 4, batchSize: 2, threads: 1 },
          ...{ checkpointEvery: 1, reportEvery: 4, keepCheckpoints: 1, learningRate: 1e-3 },
        });
      };
      const wanted = await allSteps(await trainer(whole));
      const full = await trainer(cut, join(cut, 'clips'));
      const steps = full.run();
      await steps.next();
      await steps.next();
      await fill(filler);
      await expect(steps.next()).rejects.toMatchObject({
        code: 'DISK_FULL',
        message: expect.stringMatching(
          new RegExp(
            `Step 3 could not be recorded in .*${what.source}.*; the checkpoint of step 2 is kept, free some space and resume`,
          ),
        ),
      });
      expect(await readdir(join(cut, 'checkpoints'))).toEqual(['step-0000002']);
      await rm(filler);
      const seen = await allSteps(await trainer(cut, join(cut, 'clips')));
      expect(withoutMetrics(seen)).toEqual(withoutMetrics(wanted).slice(2));
      expect((await lastWeights(cut)).equals(await lastWeights(whole))).toBe(true);
    },
  );

  test('a full cache of clips costs nothing but the cache', async () => {
    const drawn = join(await temporaryFolder(), 'drawn');
    await generateStickers(drawn, { size: 16, frames: 6 });
    const cache = join(place, 'clips');
    const data = await StickerDataset.fromFolder(drawn, { frames: 4, size: 16, cache });
    await fill(filler);
    expect((await data.prepare()).size).toBe(16);
    expect(data.cacheProblem).toMatch(/no longer kept in .*clips: ENOSPC/);
    await rm(filler);
  });

  test('nor does a full cache of latents', async () => {
    const cache = join(place, 'clips');
    const space = await LatentSpace.open(await autoencoderFolder(), { threads: 1, cache });
    const shape = { clips: 1, frames: 1, height: 16, width: 16 };
    const clip = { values: new Float32Array(3 * 16 * 16), fingerprints: ['grey'] };
    const enter = () => space.enter(clip, shape, (length) => new Float32Array(length));
    await fill(filler);
    expect((await enter()).every(Number.isFinite)).toBe(true);
    expect(space.cacheProblem).toMatch(/^Latents are no longer kept in .*clips: ENOSPC/);
    await rm(filler);
    space.dispose();
  });

  test('a model is not half saved', async () => {
    using model = tinyModel();
    await fill(filler);
    await expect(model.save(join(place, 'model'))).rejects.toMatchObject({ code: 'DISK_FULL' });
    expect(existsSync(join(place, 'model/model.safetensors'))).toBe(false);
    await rm(filler);
  });
});
