// Frames on their way to the network and back, and the reference numbers that need no network.

import { describe, expect, test } from 'vitest';
import { findCases, runCase } from '../src/golden/run.js';
import { native } from '../src/native.js';
import { hasShared, sharedPath } from './data-support.js';

describe('RGBA frames', () => {
  test('what is transparent leaves no colour at the edges', async () => {
    // Left half opaque red, right half transparent green: green must not shine through.
    const rgba = Uint8Array.from({ length: 8 * 8 * 4 }, (_, index) => {
      const opaque = Math.floor(index / 4) % 8 < 4;
      return (opaque ? [200, 0, 0, 255] : [0, 255, 0, 0])[index % 4]!;
    });
    const small = await native.resizeRgba(rgba, 1, 8, 8, 5, 5);
    for (let i = 0; i < small.length; i += 4) {
      expect(small[i + 1]).toBe(0);
      if (small[i + 3]! > 40) expect(Math.abs(small[i]! - 200)).toBeLessThan(20);
    }
  });

  test('a strip is resized frame by frame', async () => {
    const frames = [10, 90, 250].map((value) => new Uint8Array(6 * 4 * 4).fill(value));
    const strip = Buffer.concat(frames);
    const resized = await native.resizeRgba(strip, 3, 6, 4, 3, 5);
    const single = await Promise.all(frames.map((frame) => native.resizeRgba(frame, 1, 6, 4, 3, 5)));
    expect(Buffer.compare(resized, Buffer.concat(single))).toBe(0);
    expect(resized).toHaveLength(3 * 3 * 5 * 4);
  });

  test('bytes to values: planes, and mid grey for frames that are not there', async () => {
    const strip = Uint8Array.of(0, 51, 102, 153, 204, 255); // 1 frame of 2 pixels, RGB
    const values = await native.stackClips([{ strip, frames: 1 }], 2, 1, 2, 3);
    const expected = [0, 153, null, null, 51, 204, null, null, 102, 255, null, null];
    for (const [index, byte] of expected.entries()) {
      expect(values[index]).toBeCloseTo(byte === null ? 0 : (2 * byte) / 255 - 1, 6);
    }
  });

  test('there and back, with and without alpha', async () => {
    const rgba = Uint8Array.from({ length: 2 * 4 * 4 * 4 }, (_, index) =>
      index % 4 === 3 ? [0, 255, 128, 200][Math.floor(index / 4) % 4]! : (index * 37) % 256,
    );
    const back = async (keepAlpha: boolean) => {
      const strip = await native.compositeOnWhite(rgba, keepAlpha);
      const channels = keepAlpha ? 4 : 3;
      const values = await native.stackClips([{ strip, frames: 2 }], 2, 4, 4, channels);
      return native.framesFromValues(values, 2, 4, 4, channels);
    };
    const withAlpha = await back(true);
    const onWhite = await native.compositeOnWhite(rgba, false);
    const opaque = await back(false);
    for (let i = 0; i < rgba.length; i++) {
      const alpha = rgba[i - (i % 4) + 3]!;
      if (i % 4 === 3) {
        expect(withAlpha[i]).toBe(alpha);
        expect(opaque[i]).toBe(255);
      } else {
        if (alpha > 0) expect(Math.abs(withAlpha[i]! - rgba[i]!)).toBeLessThanOrEqual(2);
        else expect(withAlpha[i]).toBe(255);
        expect(opaque[i]).toBe(onWhite[Math.floor(i / 4) * 3 + (i % 4)]);
      }
    }
  });

  test('values beyond the range are clipped', async () => {
    const values = Float32Array.of(-3, 0, 7, 1, -1, Number.NaN);
    expect([...(await native.framesFromValues(values, 1, 1, 2, 3))]).toEqual([
      0, 255, 0, 255, 128, 255, 0, 255,
    ]);
  });

  test.each([
    [3, 5, 7, 8],
    [9, 4, 4, 3],
    [1, 1, 2, 3],
    [4, 6, 4, 6],
  ])('bilinear: %i x %i to %i x %i', async (height, width, outHeight, outWidth) => {
    const values = Float32Array.from({ length: 2 * height * width }, (_, i) => Math.sin(1.7 * i));
    const resized = await native.resizeValues(values, height, width, outHeight, outWidth);
    expect(resized).toHaveLength(2 * outHeight * outWidth);
    // Each output pixel is a sum over all pixels of its plane, weighted by the hat function around its centre.
    const hat = (out: number, size: number, outSize: number, at: number) => {
      const centre = Math.min(Math.max(((out + 0.5) * size) / outSize - 0.5, 0), size - 1);
      return Math.max(1 - Math.abs(centre - at), 0);
    };
    for (const [i, found] of resized.entries()) {
      const [plane, y, x] = [
        Math.floor(i / (outHeight * outWidth)),
        Math.floor(i / outWidth) % outHeight,
        i % outWidth,
      ];
      let sum = 0;
      for (let at = 0; at < height * width; at++) {
        const [row, column] = [Math.floor(at / width), at % width];
        sum +=
          hat(y, height, outHeight, row) *
          hat(x, width, outWidth, column) *
          values[plane * height * width + at]!;
      }
      expect(found).toBeCloseTo(sum, 6);
    }
  });

  test('what cannot be', async () => {
    const twelve = new Uint8Array(12);
    await expect(native.resizeRgba(twelve, 1, 2, 2, 4, 4)).rejects.toThrow(
      /Expected 16 bytes of RGBA .* received 12/,
    );
    await expect(native.compositeOnWhite(new Uint8Array(6), false)).rejects.toThrow(/multiple of 4 bytes/);
    await expect(native.stackClips([{ strip: twelve, frames: 1 }], 1, 2, 2, 5)).rejects.toThrow(
      /3 or 4 channels/,
    );
    await expect(native.stackClips([{ strip: twelve, frames: 3 }], 2, 1, 2, 3)).rejects.toThrow(
      /at most 2 frames/,
    );
    await expect(native.framesFromValues(new Float32Array(5), 1, 1, 2, 3)).rejects.toThrow(
      /Expected 6 values/,
    );
    await expect(native.resizeValues(new Float32Array(5), 2, 2, 4, 4)).rejects.toThrow(/planes of 4 values/);
    await expect(native.resizeValues(new Float32Array(4), 2, 2, 65535, 65535)).rejects.toThrow(
      /fewer than 2\^31/,
    );
  });
});

describe.skipIf(!hasShared('golden', 'rdtf'))('reference numbers', async () => {
  const folder = sharedPath('golden', 'rdtf');
  const cases = hasShared('golden', 'rdtf') ? await findCases({ folder, device: 'cpu', threads: 1 }) : [];
  const ours = cases.filter(({ name }) => /^(masks|curriculum|frames|ddim)\//.test(name));
  test('are all there', () => expect(ours.length).toBeGreaterThanOrEqual(15));
  test.each(ours)('$name', async (one) => {
    expect(await runCase(one)).toMatchObject({ status: 'pass' });
  });
});
