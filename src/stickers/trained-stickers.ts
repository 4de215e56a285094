/** Which stickers a run was trained on: their names in config.json, fingerprints of their clips in data.json. */

import { join } from 'node:path';
import { z } from 'zod';
import { readJson } from '../data/files.js';
import { DuetError } from '../errors.js';
import { parseJson, readIfThere } from '../run/files.js';
import { validated } from '../validation.js';
import { KEY_FRAME_METHODS } from './key-frames.js';

const configSchema = z.looseObject({
  settings: z.looseObject({
    data: z.looseObject({
      stickers: z.array(z.string()),
      frames: z.int(),
      size: z.int(),
      channels: z.union([z.literal(3), z.literal(4)]),
      keyFrames: z.enum(KEY_FRAME_METHODS),
      shortClips: z.enum(['pad', 'bounce']),
      minFrames: z.int().optional(), // earlier versions did not note it
    }),
  }),
});

const dataSchema = z.looseObject({ fingerprints: z.record(z.string(), z.string()).optional() });

/** @throws DuetError NOT_FOUND or CORRUPT when the folder is not one of a sticker run */
export async function trainedStickers(runDir: string) {
  const path = join(runDir, 'config.json');
  const config = await readJson(path, 'run settings', 'duet stickers train makes such a folder');
  const { stickers, ...spec } = validated(configSchema, config, path, 'CORRUPT').settings.data;
  const { frames, size, channels, keyFrames, shortClips, minFrames } = spec;
  return {
    names: stickers,
    spec: { frames, size, channels, keyFrames, shortClips, ...(minFrames !== undefined && { minFrames }) },
    fingerprints: await trainedFingerprints(runDir).catch((error: unknown) => {
      if (!(error instanceof DuetError) || error.code !== 'CORRUPT') throw error;
      const mend = 'resume the training, which writes it again, or delete it to tell stickers apart by name';
      throw new DuetError('CORRUPT', `${error.message}; ${mend}`, { cause: error });
    }),
  };
}

/**
 * By name; undefined for a run that has noted none, as those of earlier versions.
 * @throws DuetError CORRUPT when the file is damaged
 */
export async function trainedFingerprints(runDir: string): Promise<Record<string, string> | undefined> {
  const path = join(runDir, 'data.json');
  const text = await readIfThere(path);
  if (text === undefined) return undefined;
  return validated(dataSchema, parseJson(text, path), path, 'CORRUPT').fingerprints;
}
