// The ground that GPU kernels stand on, and that the emulation sees what goes wrong there. Runs on DUET_TEST_DEVICE where one
// is chosen, else on the emulated device; the mistakes only there (a real GPU would hang or go on).

import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { addonPath, native } from '../src/native.js';
import { expectClose, floats } from './support/reference/check.js';
import { f32, normals, roundToBf16 } from './support/reference/numbers.js';

const device = process.env.DUET_TEST_DEVICE ?? 'emulated';
const there = device !== 'emulated' || existsSync(join(dirname(addonPath()), 'duet-emulated.so'));
if (!there) console.log('skipped: the emulated GPU was not built (apt-get install libboost-context-dev)');

async function check(what: string, count: number, x?: Float32Array, y?: Float32Array): Promise<Float32Array> {
  const inputs = { ...(x && { x: f32([x.length], x) }), ...(y && { y: f32([y.length], y) }) };
  return floats((await native.runOp('gpu_check', inputs, { what, count }, undefined, device)).out);
}

/** A [m, k] B [k, n]. */
function product(a: Float32Array, b: Float32Array, m: number, k: number, n: number): Float64Array {
  return Float64Array.from({ length: m * n }, (_, i) => {
    let sum = 0;
    for (let j = 0; j < k; j++) sum += a[Math.floor(i / n) * k + j]! * b[j * n + (i % n)]!;
    return sum;
  });
}

describe.skipIf(!there)(`on ${device}`, () => {
  test('lanes see each other, and sums of a block are those of all its warps', async () => {
    const x = Float32Array.from({ length: 64 }, (_, i) => ((i * 37) % 64) - 20);
    const out = await check('lanes', 64 * 7, x);
    const at = (i: number, lane: number) => x[Math.floor(i / 32) * 32 + lane]!;
    for (let i = 0; i < 64; i++) {
      const lane = i % 32;
      expect([...out.subarray(i * 7, i * 7 + 7)], `thread ${i}`).toEqual([
        x.reduce((sum, value) => sum + value, 0),
        Math.max(...x),
        at(i, lane ^ 5),
        at(i, lane + 3 < 32 ? lane + 3 : lane),
        at(i, lane >= 3 ? lane - 3 : lane),
        at(i, Math.floor(lane / 8) * 8 + 2),
        x[i]! > 0 ? 1 : 0,
      ]);
    }
  });

  test('products on tensor cores: bf16 by way of ldmatrix, tf32', async () => {
    const [a, b] = [normals(256, 1).map(roundToBf16), normals(128, 2).map(roundToBf16)];
    // Sums of 16 exact products in fp32.
    expectClose(await check('mma_bf16', 128, a, b), product(a, b, 16, 16, 8), 1e-6, 'bf16');
    const [c, d] = [normals(128, 3), normals(64, 4)];
    // Both factors are rounded to 11 bits: 2^-11 relative a product.
    expectClose(await check('mma_tf32', 128, c, d), product(c, d, 16, 8, 8), 1e-3, 'tf32');
  });

  test.each([
    ['f32', 1e-4, 1e-6],
    ['tf32', 1e-4, 1e-3],
  ] as const)('products in %s', async (compute, least, most) => {
    const [m, k, n] = [70, 133, 36];
    const [x, weight] = [normals(m * k, 5), normals(n * k, 6)];
    const turned = Float32Array.from({ length: k * n }, (_, i) => weight[(i % n) * k + Math.floor(i / n)]!);
    const inputs = { x: f32([m, k], x), weight: f32([n, k], weight) };
    const out = floats((await native.runOp('linear', inputs, { compute }, undefined, device)).out);
    const expected = product(x, turned, m, k, n);
    expectClose(out, expected, most, 'product');
    expect(out.every((value, i) => Math.abs(value - expected[i]!) <= least)).toBe(compute === 'f32');
  });

  test('lists that change after they were uploaded', async () => {
    const out = await check('uploads', 600_000);
    expect(out.every((value, i) => value === i)).toBe(true);
  });

  test('asynchronous copies, whole and cut short', async () => {
    const x = Float32Array.from({ length: 160 }, (_, i) => i + 1);
    const expected = x.map((value, i) => (i >= 158 ? 0 : value)).reverse();
    expect([...(await check('copy', 160, x))]).toEqual([...expected]);
  });
});

/** Whether a device has wgmma and tensor copies by hardware. */
const hopper =
  device === 'emulated' ||
  native.describeDevices('cuda')[Number(device.split(':')[1] ?? 0)]?.architecture === 'sm_90';
if (there && !hopper) console.log(`skipped: ${device} is not Hopper`);

describe.skipIf(!there || !hopper)(`Hopper's own instructions on ${device}`, () => {
  test('tiles are copied with their chunks in other places, and zeros outside of the matrix', async () => {
    const [rows, columns] = [10, 80];
    const x = Float32Array.from({ length: rows * columns }, (_, i) => (i % 251) + 1);
    const out = await check('copy_tile', 16 * 64, x);
    for (let row = 0; row < 16; row++)
      for (let column = 0; column < 64; column++) {
        const [y, x0] = [row - 3, column + 24];
        const inside = y >= 0 && y < rows && x0 < columns;
        const place = row * 64 + (((column >> 3) ^ (row & 7)) << 3) + (column & 7);
        expect(out[place], `${row}, ${column}`).toBe(inside ? x[y * columns + x0] : 0);
      }
  });

  test('a warpgroup multiplies what descriptors point to, along K and across', async () => {
    const [m, k, n] = [64, 64, 128];
    const [a, b] = [normals(m * k, 1).map(roundToBf16), normals(k * n, 2).map(roundToBf16)];
    const turned = (x: Float32Array, rows: number) =>
      x.map((_, i) => x[(i % rows) * (x.length / rows) + Math.floor(i / rows)]!);
    const expected = product(a, b, m, k, n);
    // Sums of 64 exact products in fp32.
    expectClose(await check('wgmma_along', m * n, a, turned(b, k)), expected, 2e-6, 'along K');
    expectClose(await check('wgmma_across', m * n, turned(a, m), b), expected, 2e-6, 'across');
  });

  test('all its products agree with the portable ones', async () => {
    expect([...(await check('products', 1))]).toEqual([1]);
  }, 120_000);
});

test.skipIf(!there || device !== 'emulated')('products go the portable way where that is asked for', () => {
  const program = `process.stdout.write(require(process.argv[1]).describeDevices('emulated')[0].products)`;
  const way = (env: Record<string, string>) =>
    spawnSync(process.execPath, ['-e', program, addonPath()], {
      encoding: 'utf8',
      env: { ...process.env, ...env },
    }).stdout;
  expect(way({})).toBe('Hopper (wgmma, TMA)');
  expect(way({ DUET_PRODUCTS: 'portable' })).toBe('portable (mma.sync), as DUET_PRODUCTS says');
});

describe.skipIf(!there || device !== 'emulated')('the emulation sees', () => {
  test('a barrier in shared memory that nobody comes to', async () => {
    await expect(check('deadlock', 1)).rejects.toMatchObject({
      message: expect.stringMatching(/of 40 threads 40 wait for others in line \d+, 0 have ended$/),
    });
  });

  test('a barrier that some threads never reach', async () => {
    await expect(check('divergent', 64)).rejects.toMatchObject({
      code: 'INTERNAL',
      message: expect.stringMatching(
        /^A barrier in divergent code: of 64 threads 16 wait for their block in line \d+, 48 have ended$/,
      ),
    });
    await check('lanes', 64 * 7, new Float32Array(64)); // and goes on afterwards
  });

  test.each([
    [
      'overrun',
      'a kernel that writes behind a tensor',
      'A kernel wrote behind the end of 128 bytes of the device',
    ],
    [
      'host_list',
      'a kernel that is given memory of the host',
      "A kernel is given an address of the host's in its argument of type PKi",
    ],
  ])('%s: %s', async (what, _, message) => {
    await expect(check(what, 32)).rejects.toMatchObject({ code: 'INTERNAL', message });
    await check('lanes', 64 * 7, new Float32Array(64));
  });

  test('the host where it touches memory of the device', () => {
    const script = `const { native } = await import(${JSON.stringify(new URL('../dist/native.js', import.meta.url).href)});
      await native.runOp('gpu_check', {}, { what: 'host_read', count: 32 }, undefined, 'emulated');`;
    const { signal, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
    });
    expect(stderr).toMatch('The host touched memory of the emulated device outside of a kernel or a copy');
    expect(signal).toBe('SIGSEGV');
  });

  test('shared memory that nobody wrote', async () => {
    expect([...(await check('unwritten', 32))].every(Number.isNaN)).toBe(true);
  });
});
