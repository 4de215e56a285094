/** A scene in a style to a PNG file's bytes (through sharp, on a worker thread). */

import { imageLibrary } from '../image-library.js';
import { Random } from '../random.js';
import type { Scene } from './scene.js';
import { STYLES, type Style, type StyleName } from './styles.js';

/** The SVG of a scene, `pixels` a side. Details that a style leaves to chance come from (seed, stream). */
export function sceneSvg(
  scene: Scene,
  style: StyleName,
  pixels: number,
  seed: number,
  stream: number,
): string {
  const inside = STYLES[style].paint(scene, new Random(seed, stream));
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${pixels}" height="${pixels}" viewBox="0 0 100 100">${inside}</svg>`;
}

/** The PNG of a scene: `size` x `size` pixels, RGB without alpha. */
export async function renderScene(
  scene: Scene,
  style: StyleName,
  size: number,
  seed: number,
  stream: number,
): Promise<Buffer> {
  const { blocks }: Style = STYLES[style];
  const drawn = blocks !== undefined && blocks < size ? blocks : size;
  const sharp = await imageLibrary();
  const picture = sharp(Buffer.from(sceneSvg(scene, style, drawn, seed, stream)));
  if (drawn !== size) picture.resize(size, size, { kernel: 'nearest' });
  return picture.removeAlpha().png({ compressionLevel: 9 }).toBuffer();
}
