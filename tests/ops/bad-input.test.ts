// Bad input to every op: one sound call each, and changes to it that must be refused with INVALID_ARGUMENT and words that
// name what is wrong. None may end the process or touch memory that is not the op's (see `npm run test:asan`).

import { beforeAll, describe, expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import { addon } from '../native-support.js';
import { composedOps } from '../support/composed-ops.js';
import { f32, i32, u8 } from '../support/reference/numbers.js';
import { pictureOps } from './bad-input-pictures.js';
import { matrixChanges, type Op, of } from './bad-input-support.js';

const adapterInputs = {
  x: of(3, 4),
  residual: of(3, 4),
  'adapter_0_down.weight': of(2, 4),
  'adapter_0_down.bias': of(2),
  'adapter_0_up.weight': of(4, 2),
  'adapter_0_up.bias': of(4),
};

const ops: Record<string, Op> = {
  ...pictureOps,
  linear: {
    inputs: { x: of(3, 4), weight: of(2, 4), bias: of(2), residual: of(3, 2) },
    changes: [
      ...matrixChanges,
      { what: 'no weight', inputs: { weight: undefined }, says: /'weight'/ },
      {
        what: 'a weight of other columns',
        inputs: { weight: of(2, 5) },
        says: /5 columns for weight.*\[3, 4\]/,
      },
      { what: 'a weight of one dimension', inputs: { weight: of(4) }, says: /weight/ },
      {
        what: 'a weight of three dimensions',
        inputs: { weight: of(2, 4, 5) },
        says: /two dimensions for weight/,
      },
      { what: 'a weight without dimensions', inputs: { weight: of() }, says: /weight/ },
      { what: 'a short bias', inputs: { bias: of(1) }, says: /bias of 2 .*\[1\]/ },
      { what: 'a long bias', inputs: { bias: of(5) }, says: /bias of 2 .*\[5\]/ },
      { what: 'a small residual', inputs: { residual: of(1, 2) }, says: /residual.*\[3, 2\].*\[1, 2\]/ },
      {
        what: 'an unknown activation',
        attributes: { activation: 'selu' },
        says: /'gelu', .*'silu', 'relu' or 'tanh'.*'selu'/,
      },
      {
        what: 'a number for an activation',
        attributes: { activation: 3 },
        says: /text for attribute 'activation'/,
      },
      {
        what: 'an unknown compute type',
        attributes: { compute: 'fp8' },
        says: /'f32', 'tf32' or 'bf16'.*'fp8'/,
      },
    ],
  },
  feed_forward: {
    inputs: { x: of(3, 4), 'first.weight': of(6, 4), 'second.weight': of(4, 6), residual: of(3, 4) },
    changes: [
      ...matrixChanges,
      { what: 'weights that do not fit', inputs: { 'second.weight': of(4, 5) }, says: /second\.weight/ },
      {
        what: 'a weight of three dimensions',
        inputs: { 'first.weight': of(6, 4, 2) },
        says: /first\.weight/,
      },
      { what: 'a short first bias', inputs: { 'first.bias': of(2) }, says: /bias of 6.*\[2\]/ },
      { what: 'a long second bias', inputs: { 'second.bias': of(9) }, says: /bias of 4.*\[9\]/ },
      { what: 'a small residual', inputs: { residual: of(3, 3) }, says: /residual/ },
    ],
  },
  layer_norm: {
    inputs: { x: of(3, 4), weight: of(4), bias: of(4) },
    changes: [
      ...matrixChanges,
      { what: 'a short weight', inputs: { weight: of(3) }, says: /4 columns for weight/ },
      { what: 'a long bias', inputs: { bias: of(5) }, says: /4/ },
      { what: 'a negative epsilon', attributes: { epsilon: -1 }, says: /epsilon.*-1/ },
      { what: 'a NaN epsilon', attributes: { epsilon: Number.NaN }, says: /epsilon/ },
    ],
  },
  rms_norm: {
    inputs: { x: of(3, 4), weight: of(4) },
    changes: [
      ...matrixChanges,
      { what: 'a short weight', inputs: { weight: of(3) }, says: /4 columns for weight/ },
      { what: 'a negative epsilon', attributes: { epsilon: -1 }, says: /epsilon.*-1/ },
    ],
  },
  attention: {
    inputs: { q: of(3, 4), kv: of(5, 8) },
    attributes: { heads: 2 },
    changes: [
      { what: 'no keys', inputs: { kv: undefined }, says: /'kv'/ },
      {
        what: 'columns that are not three parts',
        inputs: { qkv: of(3, 10) },
        says: /divisible by 3.*\[3, 10\]/,
      },
      { what: 'columns that are not two parts', inputs: { kv: of(5, 9) }, says: /divisible by 2.*\[5, 9\]/ },
      { what: 'queries of another width', inputs: { q: of(3, 6) }, says: /4 columns.*\[3, 6\]/ },
      { what: 'no key rows', inputs: { kv: of(0, 8) }, says: /key/ },
      { what: 'heads that do not divide', attributes: { heads: 3 }, says: /divisible by 3 heads/ },
      { what: 'no heads', attributes: { heads: 0 }, says: /heads/ },
      { what: 'NaN heads', attributes: { heads: Number.NaN }, says: /heads/ },
      { what: 'negative heads', attributes: { heads: -2 }, says: /heads/ },
      { what: 'spans of three numbers', inputs: { spans: i32([0, 3, 0], [1, 3]) }, says: /n x 4/ },
      { what: 'spans as floats', inputs: { spans: of(1, 4) }, says: /'spans' as i32/ },
      {
        what: 'a span beyond the queries',
        inputs: { spans: i32([0, 4, 0, 5], [1, 4]) },
        says: /3 query and 5 key rows/,
      },
      {
        what: 'a span beyond the keys',
        inputs: { spans: i32([0, 3, 0, 6], [1, 4]) },
        says: /3 query and 5 key rows/,
      },
      { what: 'a span before the first row', inputs: { spans: i32([-1, 3, 0, 5], [1, 4]) }, says: /outside/ },
      {
        what: 'a span that ends before it begins',
        inputs: { spans: i32([2, 1, 0, 5], [1, 4]) },
        says: /outside/,
      },
      { what: 'a span without keys', inputs: { spans: i32([0, 3, 2, 2], [1, 4]) }, says: /outside/ },
      {
        what: 'spans that share keys',
        inputs: { spans: i32([0, 1, 0, 3, 1, 3, 2, 5], [2, 4]) },
        says: /share key row 2/,
      },
      {
        what: 'spans that share queries',
        inputs: { spans: i32([0, 2, 0, 3, 1, 3, 3, 5], [2, 4]) },
        says: /share query row 1/,
      },
      { what: 'a short key mask', inputs: { keyMask: u8([1, 1]) }, says: /key mask of 5.*2/ },
      { what: 'a mask that hides every key', inputs: { keyMask: u8([0, 0, 0, 0, 0]) }, says: /visible key/ },
      { what: 'causal with other keys', attributes: { causal: true }, says: /as many queries .* 3 and 5/ },
      {
        what: 'causal without its first key',
        inputs: { kv: of(3, 8), keyMask: u8([0, 1, 1]) },
        attributes: { causal: true },
        says: /hides key row 0/,
      },
      { what: 'a negative scale', attributes: { scale: -1 }, says: /positive scale .*-1/ },
      { what: 'a NaN scale', attributes: { scale: Number.NaN }, says: /positive scale/ },
      { what: 'a bias for other heads', inputs: { bias: of(1, 5, 5) }, says: /\[2, L, L\].*\[1, 5, 5\]/ },
      { what: 'a short bias', inputs: { bias: of(2, 4, 4) }, says: /at least 5 places.*4/ },
      { what: 'a bias without dimensions', inputs: { bias: of() }, says: /bias of \[2, L, L\]/ },
      { what: 'dropout of 1', attributes: { dropout: 1 }, says: /probability.*1/ },
      { what: 'negative dropout', attributes: { dropout: -0.5 }, says: /probability.*-0\.5/ },
      { what: 'NaN dropout', attributes: { dropout: Number.NaN }, says: /probability/ },
      { what: 'a gradient of another size', gradOutput: of(3, 3), says: /grad/ },
    ],
  },
  adapter: {
    inputs: adapterInputs,
    attributes: { call: 'separate' },
    changes: [
      ...matrixChanges,
      { what: 'an unknown mode', attributes: { mode: 'triple' }, says: /'single' or 'gated'.*'triple'/ },
      { what: 'an unknown call', attributes: { call: 'vit' }, says: /'vilt', 'separate' or 'bert'.*'vit'/ },
      {
        what: 'an adapter that is not there',
        attributes: { first: 'adapter_7' },
        says: /adapter_7_down\.weight/,
      },
      { what: 'gated with one adapter', attributes: { mode: 'gated' }, says: /adapter_2_down\.weight/ },
      { what: 'no residual', inputs: { residual: undefined }, says: /'residual'/ },
      { what: 'a small residual', inputs: { residual: of(1, 4) }, says: /residual of \[3, 4\].*\[1, 4\]/ },
      { what: 'another width', inputs: { 'adapter_0_down.weight': of(2, 5) }, says: /width 4.*\[2, 5\]/ },
      { what: 'ranks that differ', inputs: { 'adapter_0_up.weight': of(4, 3) }, says: /adapter/ },
      { what: 'a long down bias', inputs: { 'adapter_0_down.bias': of(100) }, says: /bias.*\[100\]/ },
      { what: 'a short up bias', inputs: { 'adapter_0_up.bias': of(1) }, says: /bias.*\[1\]/ },
      {
        what: 'a weight of one dimension',
        inputs: { 'adapter_0_down.weight': of(8) },
        says: /two dimensions|width/,
      },
      { what: 'a norm that is not there', attributes: { call: 'bert' }, says: /layerNorm\.weight/ },
    ],
  },
  embedding: {
    inputs: { 'table.0': of(3, 4), 'index.0': i32([0, 2]) },
    changes: [
      { what: 'no table', inputs: { 'table.0': undefined }, says: /'table\.0'/ },
      { what: 'no index', inputs: { 'index.0': undefined }, says: /'index\.0'/ },
      { what: 'an index as floats', inputs: { 'index.0': of(2) }, says: /'index\.0' as i32/ },
      {
        what: 'an index beyond the table',
        inputs: { 'index.0': i32([0, 3]) },
        says: /below 3 for table\.0.*3/,
      },
      { what: 'a table without columns', inputs: { 'table.0': of(3, 0) }, says: /column/ },
      {
        what: 'another width',
        inputs: { 'table.1': of(3, 3), 'index.1': i32([0, 1]) },
        says: /columns.*\[3, 4\]/,
      },
      {
        what: 'other rows',
        inputs: { 'table.1': of(3, 4), 'index.1': i32([0]) },
        says: /1 indices for table\.0.*2/,
      },
      { what: 'a weight of other rows', inputs: { 'weight.0': of(3) }, says: /weight/ },
      { what: 'a gradient of another size', gradOutput: of(1, 2), says: /grad/ },
    ],
  },
  gather_rows: {
    inputs: { x: of(3, 4), index: i32([2, 0, 1]) },
    changes: [
      ...matrixChanges,
      { what: 'no index', inputs: { index: undefined }, says: /'index'/ },
      { what: 'a row beyond the end', inputs: { index: i32([3]) }, says: /Row 3 .*\[3, 4\]/ },
      { what: 'a negative row', inputs: { index: i32([-1]) }, says: /Row -1/ },
    ],
  },
  add_rows: {
    inputs: { base: of(3, 4), x: of(2, 4), index: i32([2, 0]) },
    changes: [
      { what: 'rows of another width', inputs: { x: of(2, 5) }, says: /4 columns.*\[2, 5\]/ },
      { what: 'fewer places than rows', inputs: { index: i32([1]) }, says: /2 row numbers but received 1/ },
      { what: 'a row beyond the end', inputs: { index: i32([0, 3]) }, says: /Row 3/ },
      { what: 'a gradient of another size', gradOutput: of(2, 4), says: /grad/ },
    ],
  },
  activation: {
    inputs: { x: of(3, 4) },
    attributes: { activation: 'gelu' },
    changes: [
      ...matrixChanges,
      { what: 'an unknown kind', attributes: { activation: '' }, says: /'none', 'gelu'/ },
    ],
  },
  dropout: {
    inputs: { x: of(3, 4) },
    changes: [
      ...matrixChanges,
      { what: 'probability 1', attributes: { probability: 1 }, says: /probability.*1/ },
      { what: 'probability NaN', attributes: { probability: Number.NaN }, says: /probability/ },
      { what: 'a negative probability', attributes: { probability: -0.1 }, says: /probability/ },
      { what: 'a text for the seed', attributes: { seed: '1' }, says: /number for attribute 'seed'/ },
    ],
  },
  softmax: {
    inputs: { x: of(3, 4) },
    changes: [
      ...matrixChanges,
      { what: 'a number for log', attributes: { log: 1 }, says: /true or false.*'log'/ },
    ],
  },
  distillation_loss: {
    inputs: { output: of(2, 3), target: of(2, 3), labels: of(2, 3) },
    attributes: { part: 'combined' },
    changes: [
      { what: 'one dimension', inputs: { output: of(6) }, says: /two or more dimensions.*\[6\]/ },
      { what: 'no target', inputs: { target: undefined }, says: /'target'/ },
      { what: 'no labels', inputs: { labels: undefined }, says: /'labels'/ },
      {
        what: 'a target of another shape',
        inputs: { target: of(3, 2) },
        says: /target of \[2, 3\].*\[3, 2\]/,
      },
      { what: 'labels of another shape', inputs: { labels: of(2, 4) }, says: /labels of \[2, 3\].*\[2, 4\]/ },
      {
        what: 'no samples',
        inputs: { output: of(0, 3), target: of(0, 3), labels: of(0, 3) },
        says: /element/,
      },
      {
        what: 'no classes',
        inputs: { output: of(2, 0), target: of(2, 0), labels: of(2, 0) },
        says: /element/,
      },
      { what: 'the axis of the samples', attributes: { axis: 0 }, says: /axis.*0/ },
      { what: 'an axis beyond the last', attributes: { axis: 2 }, says: /axis.*2/ },
      { what: 'temperature 0', attributes: { temperature: 0 }, says: /temperature.*0/ },
      { what: 'temperature NaN', attributes: { temperature: Number.NaN }, says: /temperature/ },
      { what: 'an unknown part', attributes: { part: 'mse' }, says: /'kl', 'bce' or 'combined'.*'mse'/ },
    ],
  },
  cross_entropy: {
    inputs: { logits: of(2, 3), labels: i32([0, 2]) },
    changes: [
      { what: 'a label beyond the classes', inputs: { labels: i32([0, 3]) }, says: /below 3/ },
      { what: 'fewer labels than rows', inputs: { labels: i32([0]) }, says: /2 labels but received 1/ },
      { what: 'labels as floats', inputs: { labels: of(2) }, says: /'labels' as i32/ },
      { what: 'no classes', inputs: { logits: of(2, 0) }, says: /class/ },
    ],
  },
  adamw: {
    inputs: { parameter: of(3), gradient: of(3), average: of(3), averageSquare: f32([3], [1, 1, 1]) },
    changes: [
      { what: 'no gradient', inputs: { gradient: undefined }, says: /'gradient'/ },
      { what: 'a gradient of another size', inputs: { gradient: of(2) }, says: /same size/ },
      { what: 'averages of another size', inputs: { average: of(4) }, says: /same size/ },
      { what: 'step 0', attributes: { step: 0 }, says: /step.*0/ },
      { what: 'step NaN', attributes: { step: Number.NaN }, says: /step/ },
    ],
  },
  pack: {
    inputs: { x: of(4, 6) },
    attributes: { used: 2, blocks: 3 },
    changes: [
      ...matrixChanges.slice(0, 1),
      { what: 'nothing to pack', inputs: { x: of(0, 6) }, says: /Expected a matrix/ },
      { what: 'a list of numbers', inputs: { x: of(6) }, says: /Expected a matrix/ },
      {
        what: 'blocks that do not divide',
        attributes: { blocks: 4 },
        says: /blocks that divide the 6 columns/,
      },
      { what: 'transposed blocks', attributes: { transposed: true }, says: /not transposed/ },
      { what: 'more than a block has', attributes: { used: 3 }, says: /used between 1 and 2/ },
      { what: 'none of a block', attributes: { used: 0 }, says: /used between 1 and 2/ },
    ],
  },
  product: {
    inputs: { a: of(3, 4), b: of(4, 5), c: of(3, 5), bias: of(5), residual: of(3, 5) },
    changes: [
      { what: 'no a', inputs: { a: undefined }, says: /'a'/ },
      { what: 'other columns of a', inputs: { a: of(3, 5) }, says: /multiply a and b of \[3, 5\]/ },
      { what: 'a transposed', attributes: { transposedA: true }, says: /Cannot multiply/ },
      { what: 'b transposed', attributes: { transposed: true }, says: /Cannot multiply/ },
      { what: 'b transposed and packed', attributes: { transposed: true, packed: true }, says: /multiply/ },
      { what: 'other columns of c', inputs: { c: of(3, 4) }, says: /into c of \[3, 4\]/ },
      { what: 'a list for c', inputs: { c: of(5) }, says: /matrix 'c'/ },
      { what: 'margins of everything', attributes: { margin: 2 }, says: /margins of 2.*\[3, 4\]/ },
      { what: 'negative margins', attributes: { margin: -1 }, says: /margins of -1/ },
      { what: 'a short bias', inputs: { bias: of(4) }, says: /bias of 5.*\[4\]/ },
      { what: 'a small residual', inputs: { residual: of(2, 5) }, says: /residual of \[3, 5\]/ },
      { what: 'f32 into bf16', attributes: { out: 'bf16' }, says: /'out'.*'bf16'/ },
      { what: 'nothing to pack', inputs: { b: of(0, 5) }, attributes: { packed: true }, says: /to pack/ },
    ],
  },
  gradient_norm: { inputs: { x: of(3) }, changes: matrixChanges.slice(0, 3) },
  philox: {
    inputs: {},
    changes: [
      { what: 'a count of 0', attributes: { count: 0 }, says: /multiple of 4/ },
      { what: 'a count that is not a multiple of 4', attributes: { count: 6 }, says: /multiple of 4/ },
      { what: 'a huge count', attributes: { count: 1e18 }, says: /1048576/ },
      { what: 'a text for the seed', attributes: { seed: 'x' }, says: /'seed'/ },
    ],
  },
};

beforeAll(() => native.setThreads(1));

test('every op is here', () => {
  // gpu_check is in tests/gpu-emulation.test.ts: it has no inputs of its own.
  expect([...Object.keys(ops), ...composedOps, 'gpu_check'].sort()).toEqual(addon.opNames().sort());
});

test.each(composedOps)('%s without anything', async (name) => {
  const inputs = { x: of(3, 4) };
  for (const given of [{}, inputs]) {
    const call = native.runOp(name, given, {}, of(3, 4));
    await expect(call).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringContaining('Expected'),
    });
  }
});

test('an unknown op', async () => {
  const error = { code: 'NOT_FOUND', message: expect.stringMatching(/attention, .*softmax.*'lstm'/) };
  await expect(native.runOp('lstm', {}, {})).rejects.toMatchObject(error);
});

// Packing is of the CPU's products alone.
const onHost = (process.env.DUET_TEST_DEVICE ?? 'cpu') === 'cpu';
const here = Object.entries(ops).filter(([name]) => onHost || name !== 'pack');

describe.each(here)('%s', (name, op) => {
  test('the sound call', async () => {
    await native.runOp(name, op.inputs, op.attributes ?? {});
  });

  test.each(op.changes)('$what', async ({ inputs, attributes, gradOutput, says }) => {
    const changed = Object.entries({ ...op.inputs, ...inputs }).filter(([, tensor]) => tensor !== undefined);
    const call = native.runOp(
      name,
      Object.fromEntries(changed) as Record<string, TensorData>,
      { ...op.attributes, ...attributes },
      gradOutput,
    );
    await expect(call).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: expect.stringMatching(says),
    });
  });

  test('extreme attributes of every kind are refused or used, never fatal', async () => {
    for (const value of [-1, 1e300, Number.NaN, Number.NEGATIVE_INFINITY, '', true]) {
      const keys = [
        'heads',
        'dropout',
        'seed',
        'stream',
        'counter',
        'count',
        'probability',
        'axis',
        'temperature',
        'epsilon',
        'clips',
        'height',
        'size',
        'stride',
        'groups',
        'toWidth',
        'width',
        'causal',
        'scale',
        'used',
        'blocks',
        'transposed',
        'library',
      ];
      for (const key of [
        ...keys,
        'step',
        'learningRate',
        'beta1',
        'log',
        'activation',
        'compute',
        'mode',
        'first',
      ]) {
        const attributes = { ...op.attributes, [key]: value };
        await native.runOp(name, op.inputs, attributes).catch((error: { code?: string }) => {
          expect(error.code, `${key} = ${value}`).toBe('INVALID_ARGUMENT');
        });
      }
    }
  });
});

test('no rows are no work, and no error', async () => {
  const { out } = await native.runOp('linear', { x: of(0, 4), weight: of(2, 4) }, {}, of(0, 2));
  expect(out!.shape).toEqual([0, 2]);
  for (const name of ['activation', 'dropout', 'softmax']) {
    const results = await native.runOp(name, { x: of(0, 4) }, {}, of(0, 4));
    expect(results.out!.shape).toEqual([0, 4]);
  }
});
