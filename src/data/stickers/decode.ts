/**
 * Animation files to RGBA frames: GIF and animated WebP (the picture library puts their frames together), animated PNG
 * (apng.ts does), and folders of numbered PNGs. Sizes are checked before anything is decoded; decoding runs on libuv's
 * worker threads.
 */

import { createHash } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Sharp } from 'sharp';
import { ioError, messageOf } from '../../errors.js';
import type { Animation } from '../../stickers/animation.js';
import { imageLibrary } from '../image-library.js';
import { drawFrame, parseApng } from './apng.js';
import { checkGifBlocks } from './gif.js';
import { type AnimationLimits, checkLimits, StickerError } from './limits.js';

/** Shown when a file says nothing (PNG sequences) or 0. */
const DEFAULT_DELAY_MS = 100;

/** The bytes of one sticker: a file, or the files of a sequence in their order. */
export interface StickerBytes {
  path: string;
  parts: Buffer[];
  /** Of the content, hexadecimal SHA-256. */
  hash: string;
}

/**
 * Reads a file, or the numbered PNGs of a folder.
 * @throws StickerError NOT_FOUND, IO, UNSUPPORTED (more bytes or frames than allowed), CORRUPT (no numbered PNG)
 */
export async function readSticker(path: string, limits: AnimationLimits): Promise<StickerBytes> {
  try {
    const found = await stat(path);
    if (!found.isDirectory() && !found.isFile())
      throw new StickerError(
        'CORRUPT',
        'corrupt animation',
        `Expected a file or folder at ${path} but it is neither`,
      );
    const files = found.isDirectory() ? await numberedPngs(path) : [path];
    if (files.length > limits.maxFrames)
      checkLimits(`the sequence ${path}`, { frames: files.length, width: 1, height: 1 }, limits);
    const hash = createHash('sha256');
    const parts: Buffer[] = [];
    let bytes = 0;
    for (const file of files) {
      bytes += (file === path ? found : await stat(file)).size;
      if (bytes > limits.maxFileBytes) {
        throw new StickerError(
          'UNSUPPORTED',
          'too large',
          `Expected ${path} of at most ${limits.maxFileBytes} bytes but it has at least ${bytes}; cut it down or raise maxFileBytes`,
        );
      }
      const part = await readFile(file);
      hash.update(`${part.length}\n`).update(part);
      parts.push(part);
    }
    return { path, parts, hash: hash.digest('hex') };
  } catch (error) {
    if (error instanceof StickerError) throw error;
    const { code, message } = ioError(error, `read the sticker ${path}`);
    const reason = code === 'NOT_FOUND' ? 'missing file' : 'corrupt animation';
    throw new StickerError(code, reason, message, { cause: error });
  }
}

/** The PNGs of a folder with a number in their names, by that number. */
async function numberedPngs(folder: string): Promise<string[]> {
  const numbered = (await readdir(folder)).flatMap((name) => {
    const number = /(\d+)\D*\.png$/i.exec(name)?.[1];
    return number === undefined ? [] : [{ name, number: Number(number) }];
  });
  if (numbered.length === 0) {
    throw new StickerError(
      'CORRUPT',
      'corrupt animation',
      `Expected numbered PNG files such as 001.png in ${folder} but found none`,
    );
  }
  numbered.sort((a, b) => a.number - b.number || (a.name < b.name ? -1 : 1));
  return numbered.map(({ name }) => join(folder, name));
}

/**
 * Decodes a sticker.
 * @throws StickerError CORRUPT (damaged, cut short, frames of different sizes), UNSUPPORTED (above the limits)
 */
export async function decodeSticker(bytes: StickerBytes, limits: AnimationLimits): Promise<Animation> {
  const { path, parts } = bytes;
  try {
    if (parts.length > 1) return await decodeSequence(path, parts, limits);
    const file = parts[0] as Buffer;
    if (file[0] === 137) return await decodePng(path, file, limits);
    checkGifBlocks(file);
    return await decodeAnimated(path, file, limits);
  } catch (error) {
    if (error instanceof StickerError) throw error;
    throw new StickerError(
      'CORRUPT',
      'corrupt animation',
      `Cannot decode the sticker ${path}: ${messageOf(error).trim()}; replace or remove it`,
      { cause: error },
    );
  }
}

/** Every pixel is counted by `checkLimits`, so the decoder's own limit is off. */
const DECODER = { failOn: 'error', limitInputPixels: false, ignoreIcc: true } as const;

async function decodeAnimated(path: string, file: Buffer, limits: AnimationLimits): Promise<Animation> {
  const sharp = await imageLibrary();
  const about = await sharp(file, { ...DECODER, animated: true }).metadata();
  const frames = about.pages ?? 1;
  const width = about.width ?? 0;
  const height = about.pageHeight ?? about.height ?? 0;
  checkLimits(`the sticker ${path}`, { frames, width, height }, limits);
  const rgba = await pixelsOf(sharp(file, { ...DECODER, animated: true }), width, height * frames);
  const delays = Array.from({ length: frames }, (_, i) => about.delay?.[i] || DEFAULT_DELAY_MS);
  return { width, height, rgba, delays, loop: about.loop ?? 0 };
}

async function decodePng(path: string, file: Buffer, limits: AnimationLimits): Promise<Animation> {
  const apng = parseApng(file, limits.maxFrames);
  if (!apng) return decodeAnimated(path, file, limits);
  const { width, height, frames, loop, declaredFrames } = apng;
  checkLimits(`the sticker ${path}`, { frames: declaredFrames, width, height }, limits);
  const sharp = await imageLibrary();
  const rgba = new Uint8Array(width * height * 4 * frames.length);
  let canvas: Uint8Array = new Uint8Array(width * height * 4);
  for (const [index, frame] of frames.entries()) {
    const pixels = await pixelsOf(sharp(frame.png, DECODER), frame.width, frame.height);
    const { shown, next } = drawFrame(canvas, width, frame, pixels, index === 0);
    rgba.set(shown, index * shown.length);
    canvas = next;
  }
  return { width, height, rgba, delays: frames.map(({ delayMs }) => delayMs || DEFAULT_DELAY_MS), loop };
}

async function decodeSequence(path: string, parts: Buffer[], limits: AnimationLimits): Promise<Animation> {
  const sharp = await imageLibrary();
  const { width = 0, height = 0 } = await sharp(parts[0], DECODER).metadata();
  checkLimits(`the sequence ${path}`, { frames: parts.length, width, height }, limits);
  const rgba = new Uint8Array(width * height * 4 * parts.length);
  for (const [index, part] of parts.entries()) {
    const about = await sharp(part, DECODER).metadata();
    if (about.width !== width || about.height !== height) {
      throw new Error(
        `picture ${index} has ${about.width}x${about.height} pixels, the first ${width}x${height}`,
      );
    }
    rgba.set(await pixelsOf(sharp(part, DECODER), width, height), index * width * height * 4);
  }
  return { width, height, rgba, delays: parts.map(() => DEFAULT_DELAY_MS), loop: 0 };
}

async function pixelsOf(decoder: Sharp, width: number, height: number): Promise<Uint8Array> {
  const { data, info } = await decoder
    .toColourspace('srgb')
    .ensureAlpha()
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  if (info.width !== width || info.height !== height || info.channels !== 4) {
    throw new Error(
      `it decodes to ${info.width}x${info.height} with ${info.channels} channels instead of ${width}x${height} with 4`,
    );
  }
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}
