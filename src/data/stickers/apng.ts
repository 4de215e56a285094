/**
 * Animated PNG (PNG Specification, third edition): taken apart into one PNG a frame, which the picture decoder reads on
 * its worker threads, and put together again as the file asks (offsets, disposal, blending).
 */

import { crc32 } from 'node:zlib';

const SIGNATURE = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
/** Chunks before the pixels that a decoder needs in every frame. */
const SHARED = new Set(['PLTE', 'tRNS', 'sBIT']);

export interface ApngFrame {
  /** A PNG file of this frame alone. */
  png: Buffer;
  width: number;
  height: number;
  /** Place on the canvas. */
  left: number;
  top: number;
  delayMs: number;
  /** What happens to its place before the next frame. */
  dispose: 'keep' | 'clear' | 'previous';
  /** Whether it replaces what is below or is laid over it. */
  blend: 'replace' | 'over';
}

export interface Apng {
  width: number;
  height: number;
  /** 0 = for ever. */
  loop: number;
  /** As declared; checked against the frames that are there. */
  declaredFrames: number;
  frames: ApngFrame[];
}

/**
 * Takes the file apart. Undefined for a PNG without animation.
 * @throws Error when it is damaged: cut short, chunks in a wrong order, frames outside the canvas
 */
export function parseApng(file: Buffer, maxFrames: number): Apng | undefined {
  if (!file.subarray(0, 8).equals(SIGNATURE)) throw new Error('it is no PNG');
  let header: Buffer | undefined;
  let animation: { declaredFrames: number; loop: number } | undefined;
  let frame: (Omit<ApngFrame, 'png'> & { data: Buffer[] }) | undefined;
  const shared: Buffer[] = [];
  const frames: ApngFrame[] = [];
  let ended = false;
  const finish = () => {
    if (!frame || !header) return;
    if (frame.data.length === 0) throw new Error(`frame ${frames.length} has no pixels`);
    const { data, ...rest } = frame;
    frames.push({ ...rest, png: pngOf(header, rest.width, rest.height, shared, data) });
    frame = undefined;
  };
  for (const { type, data } of chunksOf(file)) {
    if (type === 'IHDR') header = data;
    else if (!header) throw new Error('it does not begin with a header');
    else if (type === 'acTL') {
      animation = { declaredFrames: data.readUInt32BE(0), loop: data.readUInt32BE(4) };
      if (animation.declaredFrames > maxFrames) break;
    } else if (type === 'fcTL') {
      finish();
      frame = { ...frameControl(data), data: [] };
      const fits =
        frame.width >= 1 &&
        frame.height >= 1 &&
        frame.left + frame.width <= header.readUInt32BE(0) &&
        frame.top + frame.height <= header.readUInt32BE(4);
      if (!fits) throw new Error(`frame ${frames.length} lies outside the canvas`);
    } else if (type === 'IDAT') {
      if (!animation) return undefined;
      // Without a control chunk before it, the default picture is not part of the animation.
      frame?.data.push(data);
    } else if (type === 'fdAT') {
      if (!frame) throw new Error('a frame has no control chunk');
      frame.data.push(data.subarray(4));
    } else if (SHARED.has(type)) shared.push(chunk(type, data));
    else if (type === 'IEND') {
      ended = true;
      break;
    }
  }
  if (!header || !animation) return undefined;
  const { declaredFrames, loop } = animation;
  if (declaredFrames <= maxFrames) {
    finish();
    if (!ended || frames.length !== declaredFrames) {
      throw new Error(`it declares ${declaredFrames} frames but ${frames.length} are there`);
    }
  }
  const [width, height] = [header.readUInt32BE(0), header.readUInt32BE(4)];
  return { width, height, loop: Math.min(loop, 65535), declaredFrames, frames };
}

/** Draws the next frame onto a canvas of RGBA bytes; returns the canvas as it is to be before the frame after it. */
export function drawFrame(
  canvas: Uint8Array,
  canvasWidth: number,
  frame: ApngFrame,
  pixels: Uint8Array,
  isFirst: boolean,
): { shown: Uint8Array; next: Uint8Array } {
  const shown = canvas.slice();
  const next = frame.dispose === 'keep' ? shown : canvas.slice();
  for (let y = 0; y < frame.height; y++) {
    const at = ((frame.top + y) * canvasWidth + frame.left) * 4;
    const row = pixels.subarray(y * frame.width * 4, (y + 1) * frame.width * 4);
    if (frame.blend === 'replace') shown.set(row, at);
    else for (let x = 0; x < row.length; x += 4) over(shown, at + x, row, x);
    // The first frame has nothing before it: "previous" means clear there.
    if (frame.dispose === 'clear' || (frame.dispose === 'previous' && isFirst))
      next.fill(0, at, at + row.length);
  }
  return { shown, next };
}

/** Source over destination, colours not multiplied by alpha. */
function over(target: Uint8Array, to: number, source: Uint8Array, from: number): void {
  const front = source[from + 3] as number;
  if (front === 0) return;
  const back = (target[to + 3] as number) * (255 - front);
  const alpha = front * 255 + back;
  for (let channel = 0; channel < 3; channel++) {
    const mixed = (source[from + channel] as number) * front * 255 + (target[to + channel] as number) * back;
    target[to + channel] = Math.round(mixed / alpha);
  }
  target[to + 3] = Math.round(alpha / 255);
}

function frameControl(data: Buffer): Omit<ApngFrame, 'png'> {
  if (data.length < 26) throw new Error('a control chunk is too short');
  const numerator = data.readUInt16BE(20);
  const denominator = data.readUInt16BE(22) || 100;
  return {
    width: data.readUInt32BE(4),
    height: data.readUInt32BE(8),
    left: data.readUInt32BE(12),
    top: data.readUInt32BE(16),
    delayMs: Math.round((1000 * numerator) / denominator),
    dispose: (['keep', 'clear', 'previous'] as const)[data[24] as number] ?? 'keep',
    blend: data[25] === 1 ? 'over' : 'replace',
  };
}

function* chunksOf(file: Buffer): Generator<{ type: string; data: Buffer }> {
  let at = SIGNATURE.length;
  while (at + 8 <= file.length) {
    const length = file.readUInt32BE(at);
    const type = file.toString('latin1', at + 4, at + 8);
    if (at + 12 + length > file.length) throw new Error('it is cut short');
    const data = file.subarray(at + 8, at + 8 + length);
    if (crc32(file.subarray(at + 4, at + 8 + length)) >>> 0 !== file.readUInt32BE(at + 8 + length)) {
      throw new Error(`the checksum of a chunk ${type} is wrong`);
    }
    yield { type, data };
    at += 12 + length;
  }
}

function chunk(type: string, data: Buffer): Buffer {
  const framed = Buffer.alloc(12 + data.length);
  framed.writeUInt32BE(data.length, 0);
  framed.write(type, 4, 'latin1');
  data.copy(framed, 8);
  framed.writeUInt32BE(crc32(framed.subarray(4, 8 + data.length)) >>> 0, 8 + data.length);
  return framed;
}

function pngOf(header: Buffer, width: number, height: number, shared: Buffer[], data: Buffer[]): Buffer {
  const ownHeader = Buffer.from(header);
  ownHeader.writeUInt32BE(width, 0);
  ownHeader.writeUInt32BE(height, 4);
  const parts = [SIGNATURE, chunk('IHDR', ownHeader), ...shared];
  for (const piece of data) parts.push(chunk('IDAT', piece));
  return Buffer.concat([...parts, chunk('IEND', Buffer.alloc(0))]);
}
