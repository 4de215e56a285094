// Helpers of the sticker tests: plain frames, animated PNGs made chunk by chunk, tiny networks and their runs.

import { readFile } from 'node:fs/promises';
import { crc32 } from 'node:zlib';
import sharp from 'sharp';
import { StickerCheckpoints, weightsIn } from '../src/stickers/checkpoints.js';
import type { StickerStep } from '../src/stickers/metrics.js';
import type { StickerTrainer } from '../src/stickers/trainer.js';

/** Frames of one RGBA colour each, `size` x `size`, below each other. */
export function solidFrames(colors: readonly (readonly number[])[], size: number): Uint8Array {
  const bytes = size * size * 4;
  const strip = new Uint8Array(colors.length * bytes);
  for (let i = 0; i < strip.length; i++) strip[i] = colors[Math.floor(i / bytes)]![i % 4]!;
  return strip;
}

export interface PngFrame {
  width: number;
  height: number;
  left: number;
  top: number;
  /** 0 keep, 1 clear, 2 previous */
  dispose: number;
  /** 0 replace, 1 over */
  blend: number;
  color: number[];
  /** Seconds as a fraction. */
  delay: [number, number];
}

/** An animated PNG of frames of one colour; with `hiddenDefault` the default picture is not one of them. */
export async function animatedPng(
  width: number,
  height: number,
  frames: PngFrame[],
  { loop = 0, hiddenDefault = false },
): Promise<Buffer> {
  const whole = await pixelData(width, height, [0, 0, 0, 0]);
  const parts: Buffer[] = [Buffer.from([137, 80, 78, 71, 13, 10, 26, 10])];
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 6, 0, 0, 0], 8);
  parts.push(chunk('IHDR', header), chunk('acTL', uint32(frames.length, loop)));
  if (hiddenDefault) parts.push(chunk('IDAT', whole));
  let sequence = 0;
  for (const [index, frame] of frames.entries()) {
    const control = Buffer.alloc(26);
    control.set(uint32(sequence++, frame.width, frame.height, frame.left, frame.top));
    control.writeUInt16BE(frame.delay[0], 20);
    control.writeUInt16BE(frame.delay[1], 22);
    control.set([frame.dispose, frame.blend], 24);
    parts.push(chunk('fcTL', control));
    const data = await pixelData(frame.width, frame.height, frame.color);
    const first = index === 0 && !hiddenDefault;
    parts.push(first ? chunk('IDAT', data) : chunk('fdAT', Buffer.concat([uint32(sequence++), data])));
  }
  return Buffer.concat([...parts, chunk('IEND', Buffer.alloc(0))]);
}

/** The IDAT of a PNG of one colour. */
async function pixelData(width: number, height: number, color: number[]): Promise<Buffer> {
  const rgba = Buffer.alloc(width * height * 4, Buffer.from(color));
  const png = await sharp(rgba, { raw: { width, height, channels: 4 } })
    .png({ palette: false })
    .toBuffer();
  const at = png.indexOf('IDAT');
  return png.subarray(at + 4, at + 4 + png.readUInt32BE(at - 4));
}

function uint32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [index, value] of values.entries()) bytes.writeUInt32BE(value, 4 * index);
  return bytes;
}

function chunk(name: string, data: Buffer): Buffer {
  const named = Buffer.concat([Buffer.from(name, 'latin1'), data]);
  return Buffer.concat([uint32(data.length), named, uint32(crc32(named) >>> 0)]);
}

/** A network that steps in some ten milliseconds. */
export const tinyNetwork = {
  block_out_channels: [8, 16],
  layers_per_block: 1,
  norm_num_groups: 4,
  cross_attention_dim: 16,
  t5_dim: null,
  attention_head_dim: 8,
};

/** Options of the command for one about as small. */
export const quickStickers = [
  ...['--size', 'tiny', '--channels', '8,16', '--pixels', '16', '--patch', '2', '--frames', '4'],
  ...['--batch-size', '2', '--threads', '1'],
];

export async function allSteps(trainer: StickerTrainer, signal?: AbortSignal): Promise<StickerStep[]> {
  const steps: StickerStep[] = [];
  for await (const step of trainer.run({ signal })) steps.push(step);
  return steps;
}

/** What must be the same for the same seed. */
export const withoutMetrics = (steps: readonly StickerStep[]) => steps.map(({ metrics: _, ...step }) => step);

export async function lastWeightsFile(runDir: string): Promise<string> {
  const checkpoints = new StickerCheckpoints(runDir, true);
  return weightsIn(checkpoints.path((await checkpoints.steps()).at(-1) as number));
}

/** The file that stickers are generated with. */
export async function lastWeights(runDir: string): Promise<Buffer> {
  return readFile(await lastWeightsFile(runDir));
}
