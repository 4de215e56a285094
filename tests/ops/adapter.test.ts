// adapter: residual + U relu(D x + d) + u, one adapter or the mean of two, in the three places it is called from.

import { describe, expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import { checkOp, expectClose, floats } from '../support/reference/check.js';
import { type AdapterWeights, layerNorm, meanOfAdapters, plus } from '../support/reference/layers.js';
import { f32, normals } from '../support/reference/numbers.js';

type Values = Record<string, Float64Array>;

function weights(name: string, width: number, rank: number, seed: number): Record<string, TensorData> {
  return {
    [`${name}_down.weight`]: f32([rank, width], seed, 1 / Math.sqrt(width)),
    [`${name}_down.bias`]: f32([rank], seed + 1, 0.5),
    [`${name}_up.weight`]: f32([width, rank], seed + 2, 1 / Math.sqrt(rank)),
    [`${name}_up.bias`]: f32([width], seed + 3),
  };
}

const part = (v: Values, name: string): AdapterWeights => ({
  down: v[`${name}_down.weight`]!,
  downBias: v[`${name}_down.bias`]!,
  up: v[`${name}_up.weight`]!,
  upBias: v[`${name}_up.bias`]!,
});

const modes = {
  single: { names: ['adapter_1'], attributes: { mode: 'single', first: 'adapter_1' } },
  gated: { names: ['adapter_0', 'adapter_2'], attributes: { mode: 'gated' } },
};

const sizes = [
  [1, 1, 1],
  [1, 17, 3],
  [5, 16, 16],
  [7, 33, 2],
  [520, 3, 5],
] as const;

describe.each(['single', 'gated'] as const)('adapter, %s', (mode) => {
  const { names, attributes } = modes[mode];
  const mixed = (v: Values, x: Float64Array, base: Float64Array) =>
    meanOfAdapters(
      x,
      base,
      names.map((name) => part(v, name)),
    );
  const inputs = (rows: number, width: number, rank: number) => ({
    x: f32([rows, width], 1),
    residual: f32([rows, width], 2),
    ...Object.assign({}, ...names.map((name, i) => weights(name, width, rank + i, 10 * (i + 1)))),
  });
  const without = (all: Record<string, TensorData>, name: string) =>
    Object.fromEntries(Object.entries(all).filter(([key]) => key !== name));

  test.each(sizes)('added to what it reads: %i rows of %i, rank %i', async (rows, width, rank) => {
    await checkOp({
      op: 'adapter',
      inputs: without(inputs(rows, width, rank), 'residual'),
      attributes: { ...attributes, call: 'vilt' },
      samples: 10,
      reference: (v) => mixed(v, v.x!, v.x!),
    });
  });

  test.each(sizes)('added to something else: %i rows of %i, rank %i', async (rows, width, rank) => {
    await checkOp({
      op: 'adapter',
      inputs: inputs(rows, width, rank),
      attributes: { ...attributes, call: 'separate' },
      samples: 10,
      reference: (v) => mixed(v, v.x!, v.residual!),
    });
  });

  test('between two uses of one norm', async () => {
    await checkOp({
      op: 'adapter',
      inputs: {
        ...inputs(6, 21, 4),
        'layerNorm.weight': f32([21], normals(21, 7, 0.3, 1)),
        'layerNorm.bias': f32([21], 8),
      },
      attributes: { ...attributes, call: 'bert', epsilon: 1e-12 },
      reference: (v) => {
        const norm = (x: Float64Array) => layerNorm(x, v['layerNorm.weight']!, v['layerNorm.bias']!, 1e-12);
        const z = norm(plus(v.x!, v.residual!));
        return norm(plus(mixed(v, z, v.x!), v.residual!));
      },
    });
  });

  test('large weights do not spoil the gradient that is taken from the output', async () => {
    // x is not kept: its product comes from y - z U^T - u, where |z U^T| is here about 100 |x|. The digits lost are those.
    const given = without(inputs(12, 24, 4), 'residual');
    for (const name of names) given[`${name}_up.weight`] = f32(given[`${name}_up.weight`]!.shape, 31, 50);
    await checkOp({
      op: 'adapter',
      inputs: given,
      attributes: { ...attributes, call: 'vilt' },
      reference: (v) => mixed(v, v.x!, v.x!),
      gradientTolerance: 1e-4,
    });
  });
});

test('two equal adapters are one', async () => {
  const one = weights('adapter_1', 20, 3, 5);
  const two = Object.fromEntries(
    ['adapter_0', 'adapter_2'].flatMap((name) =>
      Object.entries(one).map(([key, value]) => [key.replace('adapter_1', name), value]),
    ),
  );
  const x = f32([4, 20], 1);
  const single = await native.runOp('adapter', { x, ...one }, modes.single.attributes);
  const gated = await native.runOp('adapter', { x, ...two }, modes.gated.attributes);
  expectClose(floats(gated.out), floats(single.out), 1e-6, 'gated against single');
});

test('NaN passes the relu of the bottleneck', async () => {
  const x = f32([2, 20], 1);
  (x.data as Float32Array)[3] = Number.NaN;
  const { out } = await native.runOp(
    'adapter',
    { x, ...weights('adapter_1', 20, 3, 5) },
    modes.single.attributes,
  );
  expect(Array.from(floats(out), Number.isNaN)).toEqual(Array.from({ length: 40 }, (_, i) => i < 20));
});
