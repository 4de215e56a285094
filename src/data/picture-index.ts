/** Finds the picture files of a data set: a folder of `<anything><image_id>.<extension>`, or a function. */

import { access, readdir } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { DuetError, ioError } from '../errors.js';
import { forEachAtOnce } from './concurrency.js';

const EXTENSIONS = new Set(['.png', '.jpg', '.jpeg', '.webp', '.gif', '.tif', '.tiff', '.avif', '.bmp']);

/** Where the pictures are: a folder, or the path of an image_id (undefined when there is none). */
export type PictureSource = string | ((imageId: number) => string | undefined);

/**
 * Maps image_id to path for a folder. The id is the number at the end of a file's name, so `1001.png` and
 * `COCO_val2014_000000001001.jpg` are both picture 1001; other files are left alone.
 * @throws DuetError NOT_FOUND when there is no such folder, CORRUPT when two files have the same id
 */
export async function indexPictures(folder: string): Promise<Map<number, string>> {
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (error) {
    throw ioError(error, `read picture folder ${folder}`);
  }
  const paths = new Map<number, string>();
  for (const name of names.sort()) {
    const extension = extname(name);
    if (!EXTENSIONS.has(extension.toLowerCase())) continue;
    const digits = /(\d+)$/.exec(name.slice(0, -extension.length))?.[1];
    const imageId = Number(digits ?? Number.NaN);
    if (!Number.isSafeInteger(imageId)) continue;
    const path = join(folder, name);
    const other = paths.get(imageId);
    if (other !== undefined) {
      throw new DuetError(
        'CORRUPT',
        `Expected one picture for image_id ${imageId} but found ${other} and ${path}`,
      );
    }
    paths.set(imageId, path);
  }
  return paths;
}

/** The existing files of the given images; an image without a file is left out. */
export async function findPictures(
  source: PictureSource,
  imageIds: Iterable<number>,
): Promise<Map<number, string>> {
  if (typeof source === 'string') return indexPictures(source);
  const found = new Map<number, string>();
  await forEachAtOnce(new Set(imageIds), 8, async (imageId) => {
    const path = source(imageId);
    if (path !== undefined && (await exists(path))) found.set(imageId, path);
  });
  return found;
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}
