// Ops large enough to be shared between threads: one thread and several agree to rounding (most to the bit), and a number
// of threads repeats its bits. Sums over rows are taken in a fixed number of chunks, so only products may differ.

import { afterAll, describe, expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import { type Attributes, BF16, expectClose, expectSame, FP32, floats } from '../support/reference/check.js';
import { f32, i32, normals, uniform } from '../support/reference/numbers.js';

interface Call {
  op: string;
  inputs: Record<string, TensorData>;
  attributes?: Attributes;
  gradient?: TensorData;
}

const of = (...shape: number[]) => f32(shape, shape.length + shape[0]!, 0.3);
const draw = uniform(8);
const rows = (count: number, below: number) =>
  i32(Array.from({ length: count }, () => Math.floor(draw() * below)));
const apart = (count: number, below: number) =>
  i32(Array.from({ length: count }, (_, i) => Math.floor((i * below) / count)));
const spans = i32([0, 100, 0, 100, 100, 101, 100, 101, 101, 230, 101, 230], [3, 4]);
const adapter = {
  'adapter_1_down.weight': of(9, 70),
  'adapter_1_down.bias': of(9),
  'adapter_1_up.weight': of(70, 9),
  'adapter_1_up.bias': of(70),
};
const feedForward = {
  x: of(600, 40),
  'first.weight': of(90, 40),
  'second.weight': of(40, 90),
  residual: of(600, 40),
};
const grid = { clips: 2, frames: 8, height: 6, width: 7 };
const pixels = 2 * 8 * 6 * 7;
const detail = Object.fromEntries(
  ['conv_layers.0', 'conv_layers.1'].flatMap((block) =>
    ['1', '2'].flatMap((layer) => [
      [`${block}.norm${layer}.weight`, of(8)],
      [`${block}.norm${layer}.bias`, of(8)],
      [`${block}.conv${layer}.weight`, of(8, 8, 3, 3)],
      [`${block}.conv${layer}.bias`, of(8)],
    ]),
  ),
);
const count = 40_003;
const moments = { average: of(count), averageSquare: f32([count], normals(count, 1).map(Math.abs)) };

// Whatever has no product in it gives the same bits.
const exact: Call[] = [
  { op: 'layer_norm', inputs: { x: of(500, 70), weight: of(70), bias: of(70) }, gradient: of(500, 70) },
  {
    op: 'attention',
    inputs: { qkv: of(230, 96), spans },
    attributes: { heads: 4, dropout: 0.1 },
    gradient: of(230, 32),
  },
  { op: 'activation', inputs: { x: of(count) }, attributes: { activation: 'gelu' }, gradient: of(count) },
  { op: 'dropout', inputs: { x: of(count) }, gradient: of(count) },
  { op: 'embedding', inputs: { 'table.0': of(50, 70), 'index.0': rows(600, 50) }, gradient: of(600, 70) },
  { op: 'gather_rows', inputs: { x: of(700, 70), index: apart(500, 700) }, gradient: of(500, 70) },
  {
    op: 'add_rows',
    inputs: { base: of(700, 70), x: of(500, 70), index: apart(500, 700) },
    gradient: of(700, 70),
  },
  { op: 'softmax', inputs: { x: of(20, 2000) }, gradient: of(20, 2000) },
  {
    op: 'convolution', // by Winograd's method, which has its own product
    inputs: { x: of(pixels, 30), weight: of(20, 270), bias: of(20) },
    attributes: grid,
    gradient: of(pixels, 20),
  },
  {
    op: 'groupNorm',
    inputs: { x: of(pixels, 30), weight: of(30), bias: of(30), shift: of(2, 30) },
    attributes: { ...grid, groups: 3, silu: true },
    gradient: of(pixels, 30),
  },
  {
    op: 'upsampleNearest',
    inputs: { x: of(pixels, 30) },
    attributes: { ...grid, toHeight: 13, toWidth: 9 },
    gradient: of(16 * 13 * 9, 30),
  },
  { op: 'averagePool', inputs: { x: of(pixels, 30) }, attributes: grid, gradient: of(16 * 9, 30) },
  {
    op: 'temporalAttention',
    inputs: { qkv: of(pixels, 60) },
    attributes: { ...grid, heads: 4 },
    gradient: of(pixels, 20),
  },
  {
    op: 'detailBranch',
    inputs: { x: of(pixels, 70), ...detail },
    attributes: grid,
    gradient: of(pixels, 70),
  },
  {
    op: 'weightedSum',
    inputs: { a: of(pixels, 30), b: of(pixels, 30), w1: of(1), w2: of(1) },
    gradient: of(pixels, 30),
  },
  {
    op: 'concatColumns',
    inputs: { a: of(pixels, 30), b: of(pixels, 7) },
    gradient: of(pixels, 37),
  },
  { op: 'movingAverage', inputs: { average: of(count), value: of(count) } },
  { op: 'adamw', inputs: { parameter: of(count), gradient: of(count), ...moments } },
  { op: 'gradient_norm', inputs: { x: of(count) } },
];
const rounding: Call[] = [
  { op: 'linear', inputs: { x: of(600, 70), weight: of(50, 70), bias: of(50) }, gradient: of(600, 50) },
  { op: 'feed_forward', inputs: feedForward, attributes: { activation: 'gelu' }, gradient: of(600, 40) },
  {
    op: 'adapter',
    inputs: { x: of(500, 70), ...adapter },
    attributes: { first: 'adapter_1' },
    gradient: of(500, 70),
  },
];
rounding.push(
  {
    op: 'convolution',
    inputs: { x: of(pixels, 12), weight: of(20, 108), bias: of(20) },
    attributes: grid,
    gradient: of(pixels, 20),
  },
  {
    op: 'gatedFeedForward',
    inputs: { x: of(600, 40), 'first.weight': of(60, 40), 'second.weight': of(40, 30) },
    gradient: of(600, 40),
  },
);
const inHalf = [...rounding, exact[0]!, exact[1]!]
  .filter(({ op }) => op !== 'adapter')
  .map((call) => ({
    ...call,
    attributes: { ...call.attributes, compute: 'bf16' },
  }));

describe('threads', () => {
  afterAll(() => native.setThreads(1));

  async function run({ op, inputs, attributes = {}, gradient }: Call, threads: number) {
    native.setThreads(threads);
    return native.runOp(op, inputs, attributes, gradient);
  }

  async function compare(
    call: Call,
    same: (actual: Float32Array, expected: Float32Array, what: string) => void,
  ) {
    const one = await run(call, 1);
    const two = await run(call, 2);
    const again = await run(call, 2);
    for (const [name, tensor] of Object.entries(one)) {
      same(floats(two[name]), floats(tensor), name);
      expectSame(floats(again[name]), floats(two[name]), `${name}, repeated`);
    }
    expect(Object.keys(two)).toEqual(Object.keys(one));
  }

  test.each(exact)('$op: the same bits', (call) => compare(call, expectSame));
  test.each(rounding)('$op: the same but for rounding', (call) =>
    compare(call, (actual, expected, what) => expectClose(actual, expected, FP32, what)),
  );
  test.each(inHalf)('$op in bf16', (call) =>
    compare(call, (actual, expected, what) => expectClose(actual, expected, BF16, what)),
  );
});
