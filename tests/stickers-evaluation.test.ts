// Measures of generated clips against plain definitions and closed forms.

import { existsSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { Random } from '../src/data/random.js';
import { baseline } from '../src/stickers/evaluation/baselines.js';
import { eigenSymmetric } from '../src/stickers/evaluation/eigen.js';
import { featureStatistics, frechetDistance } from '../src/stickers/evaluation/frechet.js';
import { type ClipShape, frameDifferenceError, psnr, ssim } from '../src/stickers/evaluation/metrics.js';
import { arranged, OnnxFeatures } from '../src/stickers/evaluation/onnx-features.js';

const shape: ClipShape = { channels: 2, frames: 3, height: 14, width: 13 };
const length = 2 * 3 * 14 * 13;
function clip(seed: number): Float32Array {
  const random = new Random(seed);
  return Float32Array.from({ length }, () => random.between(-1, 1));
}
const plane = 14 * 13;
const at = (channel: number, frame: number, y: number, x: number) =>
  (channel * 3 + frame) * plane + y * 13 + x;

describe('picture measures', () => {
  test('PSNR', () => {
    const a = clip(1);
    const b = a.map((value, i) => (Math.floor(i / plane) % 3 === 1 ? value + 0.2 : value));
    expect(psnr(a, b, shape, [1])).toBeCloseTo(10 * Math.log10(4 / 0.04), 4);
    expect(psnr(a, b, shape, [0, 2])).toBe(100);
    expect(psnr(a, b, shape, [0, 1])).toBeCloseTo((100 + 20) / 2, 4);
  });

  test('SSIM against the plain definition', () => {
    const a = clip(1);
    const noise = clip(2);
    const b = a.map((value, i) => 0.8 * value + 0.3 * noise[i]! + 0.1);
    const weights = Array.from({ length: 11 }, (_, i) => Math.exp(-((i - 5) ** 2) / 4.5));
    const total = weights.reduce((sum, weight) => sum + weight, 0) ** 2;
    const local = (f: (i: number) => number, c: number, y: number, x: number) => {
      let sum = 0;
      for (let dy = 0; dy < 11; dy++) {
        for (let dx = 0; dx < 11; dx++)
          sum += (weights[dy]! * weights[dx]! * f(at(c, 2, y + dy, x + dx))) / total;
      }
      return sum;
    };
    const values: number[] = [];
    for (let c = 0; c < 2; c++) {
      for (let y = 0; y <= 3; y++) {
        for (let x = 0; x <= 2; x++) {
          const [mx, my] = [local((i) => a[i]!, c, y, x), local((i) => b[i]!, c, y, x)];
          const vx = local((i) => (a[i]! - mx) ** 2, c, y, x);
          const vy = local((i) => (b[i]! - my) ** 2, c, y, x);
          const cov = local((i) => (a[i]! - mx) * (b[i]! - my), c, y, x);
          const [c1, c2] = [0.02 ** 2, 0.06 ** 2];
          values.push(((2 * mx * my + c1) * (2 * cov + c2)) / ((mx ** 2 + my ** 2 + c1) * (vx + vy + c2)));
        }
      }
    }
    const expected = values.reduce((sum, value) => sum + value, 0) / values.length;
    expect(ssim(a, b, shape, [2])).toBeCloseTo(expected, 9);
    expect(ssim(a, a, shape, [0, 1, 2])).toBeCloseTo(1, 9);
    expect(ssim(a, noise, shape, [0])).toBeLessThan(0.3);
  });

  test('small pictures get a smaller window', () => {
    const small = { channels: 1, frames: 1, height: 4, width: 6 };
    const a = Float32Array.from({ length: 24 }, (_, i) => i / 24);
    expect(ssim(a, a, small, [0])).toBeCloseTo(1, 9);
    expect(
      ssim(
        a,
        a.map((value) => 1 - value),
        small,
        [0],
      ),
    ).toBeLessThan(0);
  });

  test('frame differences see motion and not brightness', () => {
    const a = clip(3);
    expect(
      frameDifferenceError(
        a,
        a.map((value) => value + 0.3),
        shape,
        [0, 1, 2],
      ),
    ).toBeCloseTo(0, 6);
    const b = a.map((value, i) => (Math.floor(i / plane) % 3 === 2 ? value + 0.5 : value));
    expect(frameDifferenceError(a, b, shape, [0, 1, 2])).toBeCloseTo(0.25, 6);
    expect(frameDifferenceError(a, b, shape, [2])).toBeCloseTo(0.5, 6);
    expect(frameDifferenceError(a, b, shape, [0])).toBeCloseTo(0, 6);
  });

  test('what cannot be', () => {
    expect(() => psnr(clip(1), new Float32Array(3), shape, [0])).toThrow(
      /two clips of 1092 values .* 1092 and 3/,
    );
    expect(() => ssim(clip(1), clip(1), shape, [])).toThrow(/at least 1 frame to compare but received 0/);
    expect(() => ssim(clip(1), clip(1), shape, [3])).toThrow(/received 3/);
  });
});

describe('baselines', () => {
  const line = { channels: 1, frames: 6, height: 1, width: 1 };
  const values = Float32Array.of(9, 10, 9, 9, 40, 9);
  const fill = (name: 'nearest' | 'blend', mask: number[]) => [...baseline(name, values, line, mask)];

  test('fill unknown frames from known ones', () => {
    expect(fill('nearest', [0, 1, 0, 0, 1, 0])).toEqual([10, 10, 10, 40, 40, 40]);
    expect(fill('blend', [0, 1, 0, 0, 1, 0])).toEqual([10, 10, 20, 30, 40, 40]);
    expect(fill('nearest', [1, 0, 1, 0, 1, 0])).toEqual([9, 9, 9, 9, 40, 40]);
    expect(() => fill('blend', [0, 0, 0, 0, 0, 0])).toThrow(/at least 1 known frame/);
  });
});

describe('Frechet distance', () => {
  const random = new Random(9);
  const normal = () =>
    Math.sqrt(-2 * Math.log(1 - random.uniform())) * Math.cos(2 * Math.PI * random.uniform());

  test.each([1, 2, 3, 10, 60])('eigenvalues and vectors of %i rows', (size) => {
    const matrix = new Float64Array(size * size);
    for (let i = 0; i < size; i++)
      for (let j = 0; j <= i; j++) matrix[i * size + j] = matrix[j * size + i] = normal();
    const { values, vectors } = eigenSymmetric(matrix, size, true);
    const trace = Array.from({ length: size }, (_, i) => matrix[i * size + i]!).reduce(
      (sum, value) => sum + value,
      0,
    );
    expect(values.reduce((sum, value) => sum + value, 0)).toBeCloseTo(trace, 8);
    for (let column = 0; column < size; column++) {
      for (let row = 0; row < size; row++) {
        let product = 0;
        for (let k = 0; k < size; k++) product += matrix[row * size + k]! * vectors[k * size + column]!;
        expect(product).toBeCloseTo(values[column]! * vectors[row * size + column]!, 8);
      }
    }
    const alone = eigenSymmetric(matrix, size, false).values;
    expect([...alone].sort()).toEqual([...values].sort());
  });

  test('matrices that are already diagonal, and the zero matrix', () => {
    expect([...eigenSymmetric(Float64Array.of(3, 0, 0, 1), 2, true).values].sort()).toEqual([1, 3]);
    expect([...eigenSymmetric(new Float64Array(16), 4, true).values]).toEqual([0, 0, 0, 0]);
  });

  test('closed form where the covariances have the same axes', () => {
    const of = (mean: number[], spread: number[]) => ({
      mean: Float64Array.from(mean),
      covariance: Float64Array.from({ length: 9 }, (_, i) => (i % 4 === 0 ? spread[i / 4]! ** 2 : 0)),
      count: 10,
    });
    const [a, b] = [of([1, 2, 3], [1, 2, 0.5]), of([1, 0, 3.5], [3, 2, 0])];
    expect(frechetDistance(a, b)).toBeCloseTo(4 + 0.25 + (1 - 3) ** 2 + 0 + 0.5 ** 2, 9);
    expect(frechetDistance(a, b)).toBeCloseTo(frechetDistance(b, a), 9);
  });

  test.each(['mean', 'covariance'] as const)('names the statistics with a NaN in their %s', (part) => {
    const good = featureStatistics([
      [1, 2],
      [2, 5],
    ]);
    const bad = { ...good, [part]: good[part].map((value, i) => (i === 1 ? Number.NaN : value)) };
    const names = (which: string) => ({
      code: 'NOT_FINITE',
      message: `Expected finite numbers in the ${part} of the ${which} statistics but received NaN at 1`,
    });
    expect(() => frechetDistance(bad, good)).toThrow(expect.objectContaining(names('first')));
    expect(() => frechetDistance(good, bad)).toThrow(expect.objectContaining(names('second')));
  });

  test('a general case: (C1 C2)^(1/2) of two by two has a formula', () => {
    const a = featureStatistics([
      [1, 2],
      [2, 5],
      [4, 1],
      [0, 3],
    ]);
    const b = featureStatistics([
      [3, 1],
      [1, 1],
      [5, 4],
      [2, 2],
    ]);
    const [p, q] = [a.covariance, b.covariance];
    const trace = p[0]! * q[0]! + p[1]! * q[2]! + p[2]! * q[1]! + p[3]! * q[3]!;
    const determinant = (p[0]! * p[3]! - p[1]! * p[2]!) * (q[0]! * q[3]! - q[1]! * q[2]!);
    const root = Math.sqrt(trace + 2 * Math.sqrt(determinant));
    const means = (a.mean[0]! - b.mean[0]!) ** 2 + (a.mean[1]! - b.mean[1]!) ** 2;
    expect(frechetDistance(a, b)).toBeCloseTo(means + p[0]! + p[3]! + q[0]! + q[3]! - 2 * root, 9);
  });

  test('0 for the same set, also with fewer clips than features; grows with the distance', () => {
    const set = (count: number, shift: number) =>
      featureStatistics(
        Array.from({ length: count }, () => Array.from({ length: 40 }, () => normal() + shift)),
      );
    const few = set(12, 0);
    expect(frechetDistance(few, few)).toBeLessThan(1e-6);
    const many = set(600, 0);
    expect(frechetDistance(many, set(600, 1))).toBeGreaterThan(frechetDistance(many, set(600, 0)) + 35);
  });

  test('as many features as video networks give, of a few clips', () => {
    const uniform = () =>
      featureStatistics(
        Array.from({ length: 12 }, () => Float32Array.from({ length: 200 }, () => random.uniform())),
      );
    const [a, b] = [uniform(), uniform()];
    const means = a.mean.reduce((sum, value, i) => sum + (value - b.mean[i]!) ** 2, 0);
    const spread = [a, b].map(({ covariance }) =>
      covariance.reduce((sum, value, i) => sum + (i % 201 === 0 ? value : 0), 0),
    );
    const distance = frechetDistance(a, b);
    // With 11 dimensions of variance each in 200, the covariances have little in common.
    expect(distance).toBeGreaterThan(means + 0.3 * (spread[0]! + spread[1]!));
    expect(distance).toBeLessThan(means + spread[0]! + spread[1]!);
    expect(frechetDistance(b, a)).toBeCloseTo(distance, 6);
    expect(frechetDistance(a, a)).toBeLessThan(1e-5);
  });

  test('what cannot be', () => {
    expect(() => featureStatistics([[1, 2]])).toThrow(/at least 2 feature vectors/);
    expect(() =>
      featureStatistics([
        [1, 2],
        [Number.NaN, 1],
      ]),
    ).toThrow(/finite features/);
    expect(() => eigenSymmetric(Float64Array.of(1, Number.NaN, Number.NaN, 1), 2, false)).toThrow(
      /finite symmetric matrix/,
    );
  });
});

describe('features from ONNX models', () => {
  test('axes in the order of the layout', () => {
    const small = { channels: 2, frames: 2, height: 1, width: 2 };
    const values = Float32Array.of(0, 1, 2, 3, 4, 5, 6, 7);
    expect(arranged(values, small, 'BFCHW')).toEqual({
      data: Float32Array.of(0, 1, 4, 5, 2, 3, 6, 7),
      dims: [1, 2, 2, 1, 2],
    });
    expect(arranged(values, small, 'BFHWC')).toEqual({
      data: Float32Array.of(0, 4, 1, 5, 2, 6, 3, 7),
      dims: [1, 2, 1, 2, 2],
    });
    expect(arranged(values, small, 'BCFHW').dims).toEqual([1, 2, 2, 1, 2]);
  });

  test('says what to install, or what is wrong with the model', async () => {
    const there = existsSync(new URL('../node_modules/onnxruntime-node', import.meta.url));
    await expect(OnnxFeatures.load('/nowhere/model.onnx')).rejects.toMatchObject(
      there
        ? { code: 'CORRUPT', message: expect.stringMatching(/Cannot load the ONNX model \/nowhere/) }
        : { code: 'UNSUPPORTED', message: expect.stringMatching(/run: npm install onnxruntime-node/) },
    );
  });
});
