/** A finished sticker: its frames in RGBA, and how to save it. */

import { requireInteger, requireKnown, requireObject } from '../arguments.js';
import { native } from '../native.js';
import { type Animation, checkAnimation } from './animation.js';
import {
  type Exported,
  type ExportOptions,
  exportAnimation,
  type StickerFormat,
  saveAnimation,
} from './export.js';

/** A finished sticker: an animation that can save itself. */
export class Sticker implements Animation {
  /** Pixels. */
  readonly width: number;
  /** Pixels. */
  readonly height: number;
  /** [frames, height, width, 4], colours not multiplied by alpha. */
  readonly rgba: Uint8Array;
  /** Milliseconds each frame is shown. */
  readonly delays: readonly number[];
  /** Times it is played; 0 = for ever. */
  readonly loop: number;

  /** @throws DuetError INVALID_ARGUMENT for an animation that does not fit its sizes */
  constructor(animation: Animation) {
    checkAnimation(animation);
    const { width, height, rgba, delays, loop } = animation;
    this.width = width;
    this.height = height;
    this.rgba = rgba;
    this.delays = delays;
    this.loop = loop;
  }

  /**
   * From values as the network gives them.
   * @param values [channels, frames, height, width] in -1 .. 1; with 4 channels the last is alpha
   * @param options the first `frames` count (default all); milliseconds a frame (default 100); times it is played
   *   (default 0, for ever)
   * @throws DuetError INVALID_ARGUMENT for values that do not fit the shape
   */
  static async fromValues(
    values: Float32Array,
    shape: { channels: 3 | 4; frames: number; height: number; width: number },
    options: { frames?: number; delay?: number; loop?: number } = {},
  ): Promise<Sticker> {
    const { channels, height, width } = requireObject(shape, 'shape');
    const known = { frames: true, delay: true, loop: true };
    const { frames = shape.frames, delay = 100, loop = 0 } = requireKnown(options, 'options', known);
    requireInteger(frames, 'frames', 1, requireInteger(shape.frames, 'frames of shape', 1));
    const rgba = await native.framesFromValues(values, shape.frames, height, width, channels);
    return new Sticker({
      width,
      height,
      rgba: rgba.subarray(0, frames * width * height * 4),
      delays: Array.from({ length: frames }, () => delay),
      loop,
    });
  }

  /**
   * Writes a GIF, an animated WebP or a PNG strip, by the ending of the path. Returns what was given up for
   * `maxBytes`.
   * @throws DuetError as `exportAnimation`, and IO or DISK_FULL
   */
  save(
    path: string,
    options: ExportOptions = {},
  ): Promise<Omit<Exported, 'bytes'> & { path: string; bytes: number }> {
    return saveAnimation(path, this, options);
  }

  /**
   * The bytes of a file.
   * @throws DuetError as `exportAnimation`
   */
  async encode(format: StickerFormat, options: Omit<ExportOptions, 'format'> = {}): Promise<Uint8Array> {
    return (await exportAnimation(this, { ...requireObject(options, 'options'), format })).bytes;
  }
}
