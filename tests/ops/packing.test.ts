// Our packing of the right-hand side of products against oneDNN's own reorder: every byte, fill-up zeros included. Subnormal
// numbers in bf16 are left out: the instruction oneDNN rounds with makes them 0.

import { expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import { f32, normals } from '../support/reference/numbers.js';

/** Normal numbers with what is hard to round among them. */
function values(rows: number, columns: number): TensorData {
  const odd = [Number.NaN, Infinity, -Infinity, -0, 1.2e-38, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 3.4e38];
  const numbers = normals(rows * columns, rows + columns);
  return f32(
    [rows, columns],
    numbers.map((x, i) => (i % 11 === 0 ? (odd[(i / 11) % odd.length] as number) : x)),
  );
}

const pack = (x: TensorData, attributes: Record<string, string | number | boolean>) =>
  native.runOp('pack', { x }, attributes).then(({ out }) => out?.data as Uint8Array);

const refusal = async (compute: string) =>
  pack(values(1, 1), { compute, library: true }).then(
    () => undefined,
    (error: Error) => error.message,
  );

const onHost = (process.env.DUET_TEST_DEVICE ?? 'cpu') === 'cpu';
if (!onHost) console.log('skipped: other devices have layouts of their own (see product.test.ts)');

const sizes = [
  [1, 1],
  [5, 17],
  [16, 64],
  [33, 65],
  [100, 130],
  [31, 192],
  [77, 1000],
  [1000, 77],
] as const;

for (const compute of ['f32', 'bf16']) {
  const reason = onHost ? await refusal(compute) : undefined;
  if (reason) console.log(`skipped: packing of ${compute} has nothing to be compared with (${reason})`);
  test.skipIf(reason || !onHost).each(sizes)(`${compute}: %i x %i`, async (k, n) => {
    const cases = {
      plain: [values(k, n), {}],
      transposed: [values(n, k), { transposed: true }],
      'rows apart': [values(k, n + 3), { used: n }],
      'columns apart': [values(n, k + 3), { used: k, transposed: true }],
      'blocks of rows': [values(k, 3 * n), { blocks: 3 }],
      'blocks of rows apart': [values(k, 2 * (n + 1)), { blocks: 2, used: n }],
    } as const;
    for (const [what, [x, attributes]] of Object.entries(cases)) {
      const ours = await pack(x, { ...attributes, compute });
      const library = await pack(x, { ...attributes, compute, library: true });
      expect(Buffer.compare(ours, library), what).toBe(0);
    }
  });
}

test.skipIf(!onHost)('blocks side by side are the matrix of all their rows', async () => {
  const blocks = [values(5, 7), values(6, 7), values(7, 7)].map(({ data }) =>
    [...(data as Float32Array)].slice(0, 35),
  );
  const below = f32([15, 7], blocks.flat());
  const beside = f32(
    [5, 21],
    Array.from(
      { length: 105 },
      (_, i) => blocks[Math.floor(i / 7) % 3]?.[Math.floor(i / 21) * 7 + (i % 7)] as number,
    ),
  );
  expect(await pack(beside, { blocks: 3 })).toEqual(await pack(below, {}));
});
