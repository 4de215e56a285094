// The kernels are built for AVX-512, AVX2 and any machine. Child processes run with lesser ones (DUET_ISA), and as a whole
// lesser machine would, matrix products included (ONEDNN_MAX_CPU_ISA); every op and a FedDAT training must come out as here.

import { spawn } from 'node:child_process';
import { buffer } from 'node:stream/consumers';
import { deserialize, serialize } from 'node:v8';
import { describe, expect, test } from 'vitest';
import type { TensorData } from '../src/native/core.js';
import { addonPath, native } from '../src/native.js';
import { addon, runScript } from './native-support.js';
import { composedOps } from './support/composed-ops.js';
import { type Attributes, BF16, expectClose, FP32 } from './support/reference/check.js';
import { f32, i32, normals, u8 } from './support/reference/numbers.js';
import {
  CLASSES,
  collate,
  expectNearRuns,
  type Run,
  readAll,
  smallModel,
  smallShape,
  TASK,
  threeSamples,
  training,
} from './support/reference/small-vilt.js';

type Call = [op: string, inputs: Record<string, TensorData>, attributes: Attributes, gradOutput?: TensorData];

const of = (...shape: number[]) => f32(shape, shape.length + shape[0]!);
const stretched = f32([40, 21], normals(840, 3, 4));

/** Odd sizes, so that every instruction set has elements left over beside its vectors. */
function calls(): Call[] {
  const adapters = ['adapter_0', 'adapter_2'].flatMap((name) => [
    [`${name}_down.weight`, of(5, 21)],
    [`${name}_down.bias`, of(5)],
    [`${name}_up.weight`, of(21, 5)],
    [`${name}_up.bias`, of(21)],
  ]);
  const state = {
    parameter: of(37),
    gradient: of(37),
    average: of(37),
    averageSquare: f32([37], normals(37, 2).map(Math.abs)),
  };
  const attended = { qkv: of(61, 78), keyMask: u8(Array.from({ length: 61 }, (_, i) => Number(i % 5 > 0))) };
  const losses = {
    output: f32([4, 21], 1, 3),
    target: f32([4, 21], 2, 3),
    labels: f32([4, 21], normals(84, 3).map(Math.abs)),
  };
  const computed = ['f32', 'bf16'].flatMap((compute): Call[] => [
    ...['none', 'gelu', 'relu', 'tanh', 'silu', 'quick_gelu', 'gelu_tanh'].flatMap((activation): Call[] => [
      ['linear', { x: of(40, 21), weight: of(19, 21), bias: of(19) }, { activation, compute }, of(40, 19)],
      ['activation', { x: stretched }, { activation, compute }, of(40, 21)],
    ]),
    [
      'feed_forward',
      { x: of(7, 21), 'first.weight': of(33, 21), 'second.weight': of(21, 33) },
      { compute, activation: 'gelu' },
      of(7, 21),
    ],
    ['layer_norm', { x: stretched, weight: of(21), bias: of(21) }, { compute }, of(40, 21)],
    ['attention', attended, { heads: 2, compute, dropout: 0.2, seed: 3 }, of(61, 26)],
    ['attention', attended, { heads: 2, compute, causal: true, scale: 0.7 }, of(61, 26)],
    ['attention', { ...attended, bias: of(2, 61, 61) }, { heads: 2, compute, causal: true, scale: 1 }],
    ['rms_norm', { x: stretched, weight: of(21) }, { compute }],
    ['pack', { x: of(66, 33) }, { compute, blocks: 3, used: 10 }],
    ['pack', { x: of(131, 70) }, { compute, transposed: true }],
    ['product', { a: of(37, 21), b: of(21, 19), c: of(37, 19) }, { compute, accumulate: true }],
  ]);
  return [
    ...computed,
    ...pictureCalls(),
    ['adapter', { x: of(40, 21), ...Object.fromEntries(adapters) }, { mode: 'gated' }, of(40, 21)],
    ['embedding', { 'table.0': of(9, 21), 'index.0': i32([3, -1, 3, 8]), 'weight.0': of(4) }, {}, of(4, 21)],
    ['gather_rows', { x: of(40, 21), index: i32([39, 0, 7]) }, {}, of(3, 21)],
    ['add_rows', { base: of(40, 21), x: of(3, 21), index: i32([39, 0, 7]) }, {}, of(40, 21)],
    ['dropout', { x: of(40, 21) }, { probability: 0.3, seed: 4 }, of(40, 21)],
    ['softmax', { x: stretched }, { log: false }, of(40, 21)],
    ['softmax', { x: stretched }, { log: true }, of(40, 21)],
    ['distillation_loss', losses, { part: 'combined' }],
    ['cross_entropy', { logits: of(4, 21), labels: i32([20, -1, 0, 3]) }, {}],
    ['adamw', state, { step: 3 }],
    ['gradient_norm', { x: of(1003) }, {}],
    ['philox', {}, { count: 40, seed: 7, stream: 1 }],
  ];
}

/** The ops on feature maps; 2 clips of 3 frames of 5 x 3 pixels. */
function pictureCalls(): Call[] {
  const grid = { clips: 2, frames: 3, height: 5, width: 3 };
  const detail = [0, 1].flatMap((block) =>
    [1, 2].flatMap((part) => [
      [`conv_layers.${block}.norm${part}.weight`, of(3)],
      [`conv_layers.${block}.norm${part}.bias`, of(3)],
      [`conv_layers.${block}.conv${part}.weight`, of(3, 3, 3, 3)],
      [`conv_layers.${block}.conv${part}.bias`, of(3)],
    ]),
  );
  const norm = { x: of(90, 20), weight: of(20), bias: of(20) };
  const gated = { x: of(40, 21), 'first.weight': of(38, 21), 'second.weight': of(21, 19) };
  const clips = { output: of(6, 45), target: f32([6, 45], 9), keep: u8([1, 1, 0, 1, 0, 0]) };
  const computed = ['f32', 'bf16'].flatMap((compute): Call[] => [
    ['convolution', { x: of(90, 6), weight: of(7, 54) }, { ...grid, size: 3, compute }, of(90, 7)],
    ['convolution', { x: of(90, 32), weight: of(33, 288) }, { ...grid, size: 3, compute }, of(90, 33)],
    ['upsampleNearest', { x: of(90, 6) }, { ...grid, toHeight: 7, toWidth: 6, compute }],
    ['temporalAttention', { qkv: of(90, 42) }, { ...grid, heads: 2, compute }, of(90, 14)],
    ['gatedFeedForward', gated, { compute }, of(40, 21)],
    ['concatColumns', { a: of(8, 5), b: of(8, 3) }, { compute }, of(8, 8)],
  ]);
  return [
    ...computed,
    ['groupNorm', { ...norm, shift: of(2, 20) }, { ...grid, groups: 4, silu: true }, of(90, 20)],
    ['groupNorm', norm, { ...grid, groups: 5, acrossFrames: true }, of(90, 20)],
    ['averagePool', { x: of(90, 6) }, grid, of(12, 6)],
    ['detailBranch', { x: of(90, 21), ...Object.fromEntries(detail) }, grid, of(90, 21)],
    ['weightedSum', { a: of(8, 5), b: f32([8, 5], 3), w1: of(1), w2: of(1) }, {}, of(8, 5)],
    ['timeEmbedding', { times: f32([3], [1, 500, 999]) }, { width: 10 }],
    ['maskedSquaredError', clips, { clips: 2, frames: 3 }],
    ['movingAverage', { average: of(37), value: f32([37], 8) }, { decay: 0.9 }],
  ];
}

const shape = smallShape();
const batch = collate(shape, threeSamples(shape));
const model = { shape, batch, training, task: TASK, classes: CLASSES };

/** A refusal stands where a result would. */
type Refused = { code: string };

interface Outcome {
  isa: string;
  results: (Record<string, TensorData> | Refused)[];
  fp32: { logits: Float32Array; run: Run };
  bf16: { logits: Float32Array; run: Run } | Refused;
}

const script = `
  const { deserialize, serialize } = require('node:v8');
  const { file, calls, values, model } = deserialize(require('node:fs').readFileSync(0));
  const { shape, batch, training, task, classes } = model;
  const addon = require(file);
  addon.setThreads(1);
  const refusal = (error) => ({ code: error.code });
  async function train(compute) {
    const vilt = new addon.Vilt(shape, { threads: 1, compute });
    vilt.addAdapters(4, 1);
    vilt.addHead(task, classes, 1);
    await vilt.write(values);
    const logits = await vilt.evaluate(batch, task, 'gated');
    await vilt.startTraining(training);
    const results = [await vilt.step(batch), await vilt.step(batch)];
    const parameters = await vilt.read(Object.keys(values));
    return { logits, run: { results, parameters, state: await vilt.optimizerState() } };
  }
  (async () => {
    const results = [];
    for (const call of calls) results.push(await addon.runOp(...call).catch(refusal));
    const outcome = { isa: addon.systemInfo().isa, results, fp32: await train('fp32') };
    process.stdout.write(serialize({ ...outcome, bf16: await train('bf16').catch(refusal) }));
  })();`;

async function outcomeOf(env: Record<string, string>): Promise<Outcome> {
  const child = spawn(process.execPath, ['-e', script], {
    env: { ...process.env, NODE_OPTIONS: '', ...env },
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.on('close', (...how) => resolve(how)));
  const values = await readAll(await smallModel(shape));
  child.stdin.end(serialize({ file: addonPath(), calls: calls(), values, model }));
  const output = await buffer(child.stdout);
  expect(await ended, 'exit code and signal').toEqual([0, null]);
  return deserialize(output) as Outcome;
}

/** Tensors of one op against those of another machine; either has refused, or both have results. */
function expectSameResults(
  got: Outcome['results'][0],
  wanted: Outcome['results'][0],
  tolerance: number,
  what: string,
) {
  expect(Object.keys(got), what).toEqual(Object.keys(wanted));
  for (const [name, tensor] of Object.entries(wanted as Record<string, TensorData>)) {
    const actual = (got as Record<string, TensorData>)[name]!;
    if (tensor.dtype !== 'f32') expect(actual, what).toEqual(tensor);
    else expectClose(actual.data as Float32Array, tensor.data as Float32Array, tolerance, `${what}: ${name}`);
  }
}

/** Products of bf16 need a processor (or an oneDNN) that has them; a machine without refuses all of bf16, and says so. */
function expectSameOutcome(actual: Outcome, expected: Outcome): void {
  const refuses = 'code' in actual.bf16;
  for (const [i, [op, , attributes]] of calls().entries()) {
    const half = attributes.compute === 'bf16';
    // Draws and copies are exact. Values in bf16 may fall to either side of a rounding, and so may what follows from them.
    const exact = ['dropout', 'gather_rows'].includes(op) ? 0 : FP32;
    const what = `${op} ${JSON.stringify(attributes)}`;
    if (half && refuses) expect(actual.results[i], what).toEqual({ code: 'UNSUPPORTED' });
    else expectSameResults(actual.results[i]!, expected.results[i]!, half ? BF16 : exact, what);
  }
  expectClose(actual.fp32.logits, expected.fp32.logits, FP32, 'logits');
  expectNearRuns(actual.fp32.run, expected.fp32.run);
  if ('code' in actual.bf16) expect(actual.bf16.code).toBe('UNSUPPORTED');
  else expectClose(actual.bf16.logits, (expected.bf16 as Outcome['fp32']).logits, 2 * BF16, 'logits in bf16');
}

interface Machine {
  name: string;
  env: Record<string, string>;
  isa: string;
}

const machines: Machine[] = [
  { name: 'kernels for any machine', env: { DUET_ISA: 'generic' }, isa: 'generic' },
  { name: 'kernels for AVX2', env: { DUET_ISA: 'avx2' }, isa: 'avx2' },
  {
    name: 'an AVX2 machine',
    env: { DUET_ISA: 'avx2', ONEDNN_MAX_CPU_ISA: 'AVX2' },
    isa: 'avx2',
  },
  {
    name: 'a machine without AVX',
    env: { DUET_ISA: 'generic', ONEDNN_MAX_CPU_ISA: 'SSE41' },
    isa: 'generic',
  },
];
const ranks = ['generic', 'avx2', 'avx512'];
const here = native.systemInfo().isa;

test('every op is compared', () => {
  const compared = new Set([...calls().map(([op]) => op), ...composedOps, 'gpu_check']);
  expect([...compared].sort()).toEqual(addon.opNames().sort());
});

describe('instruction sets', () => {
  let expected: Promise<Outcome> | undefined;
  const best = () => (expected ??= outcomeOf({}));

  for (const { name, env, isa } of machines) {
    const reason =
      ranks.indexOf(isa) > ranks.indexOf(here) ? `this machine has only ${here} kernels` : undefined;
    if (reason) console.log(`${name} not tried: ${reason}`);
    test.skipIf(reason)(name, async () => {
      const outcome = await outcomeOf(env);
      expect(outcome.isa).toBe(isa);
      if (!env.ONEDNN_MAX_CPU_ISA) expect('code' in outcome.bf16).toBe('code' in (await best()).bf16);
      expectSameOutcome(outcome, await best());
    });
  }

  test('a wish for more than the machine has is the best it has', async () => {
    expect((await best()).isa).toBe(here);
    expect(ranks).toContain((await outcomeOf({ DUET_ISA: 'avx512' })).isa);
  });

  test('an unknown wish is an error', () => {
    const body = 'try { addon.systemInfo() } catch (error) { console.log(error.code, error.message) }';
    const { stdout } = runScript(body, { shell: 'export DUET_ISA=sse9' });
    expect(stdout).toMatch(/INVALID_ARGUMENT .*avx512, avx2 or generic for DUET_ISA.*'sse9'/);
  });
});
