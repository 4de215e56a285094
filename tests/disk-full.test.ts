// A disk that fills up during a run: a real one, a small tmpfs, where this process may mount one.

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { allRounds, tinyFederation, tinyModel, withoutTiming } from './federation-support.js';

const place = await mkdtemp(join(tmpdir(), 'duet-full-'));
const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', place], { encoding: 'utf8' });
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

  test('a model is not half saved', async () => {
    using model = tinyModel();
    await fill(filler);
    await expect(model.save(join(place, 'model'))).rejects.toMatchObject({ code: 'DISK_FULL' });
    expect(existsSync(join(place, 'model/model.safetensors'))).toBe(false);
    await rm(filler);
  });
});
