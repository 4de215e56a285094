// softmax, log softmax and the losses: distillation (temperature KL), binary cross entropy times classes, cross entropy.

import { describe, expect, test } from 'vitest';
import type { TensorData } from '../../src/native/core.js';
import { native } from '../../src/native.js';
import {
  centralDifference,
  checkOp,
  EXACT_ARITHMETIC,
  expectClose,
  expectEachClose,
  floats,
} from '../support/reference/check.js';
import { binary, crossEntropy, distillation, type Loss, logSoftmax } from '../support/reference/loss.js';
import { f32, i32, type Numbers, normals, sizeOf, uniform } from '../support/reference/numbers.js';

// Losses are computed in double and rounded once: EXACT_ARITHMETIC element by element, with an absolute part for
// differences of probabilities (p - q) that nearly cancel.
const ABSOLUTE = 1e-9;

/** Soft scores as VQA gives them. */
function scores(count: number, seed: number): Float32Array {
  const draw = uniform(seed);
  return Float32Array.from({ length: count }, () =>
    draw() < 0.7 ? 0 : [0.3, 0.6, 0.9, 1][Math.floor(draw() * 4)]!,
  );
}

/** Rows of logits that are hard on exponentials. */
const extremes: Record<string, number[]> = {
  'plus and minus 50': [50, -50, 0, 49, -49, 1],
  'plus and minus 1e4': [1e4, -1e4, 0, 9999, -9999, 1],
  'all 1e4': [1e4, 1e4, 1e4, 1e4, 1e4, 1e4],
  'all -1e4': [-1e4, -1e4, -1e4, -1e4, -1e4, -1e4],
};

async function expectLoss(
  op: string,
  inputs: Record<string, TensorData>,
  attributes: object,
  wanted: Loss,
  of: string,
) {
  const results = await native.runOp(op, inputs, { ...attributes });
  expectEachClose(floats(results.loss), [wanted.loss], EXACT_ARITHMETIC, `${op} loss`, ABSOLUTE);
  expectEachClose(
    floats(results[`grad.${of}`]),
    wanted.gradient,
    EXACT_ARITHMETIC,
    `${op} gradient`,
    ABSOLUTE,
  );
}

/** The analytic gradient of a reference agrees with its own differences. */
function expectConsistent(logits: Numbers, of: (logits: Numbers) => Loss) {
  const values = Float64Array.from(logits);
  const expected = Array.from(values, (_, i) => centralDifference(values, i, () => of(values).loss));
  expectClose(of(values).gradient, expected, 1e-8, 'the gradient of the reference');
}

describe('softmax', () => {
  const reference = (log: boolean, columns: number) => (x: Float64Array) => {
    const y = Float64Array.from(x);
    for (let begin = 0; begin < x.length; begin += columns) {
      const line = logSoftmax([...x.subarray(begin, begin + columns)]);
      y.set(log ? line : line.map(Math.exp), begin);
    }
    return y;
  };

  for (const log of [false, true]) {
    describe(log ? 'log' : 'plain', () => {
      test.each([
        [1, 1],
        [3, 17],
        [40, 16],
        [7, 5000],
      ])('%i rows of %i', async (rows, columns) => {
        const x = f32([rows, columns], normals(rows * columns, 1, 3));
        const of = reference(log, columns);
        await checkOp({
          op: 'softmax',
          inputs: { x },
          attributes: { log },
          reference: (v) => of(v.x!),
          samples: 8,
        });
        const { out } = await native.runOp('softmax', { x }, { log });
        expectEachClose(floats(out), of(Float64Array.from(floats(x))), EXACT_ARITHMETIC, 'every element');
        if (log) return;
        for (let row = 0; row < rows; row++) {
          const sum = floats(out)
            .subarray(row * columns, (row + 1) * columns)
            .reduce((a, b) => a + b, 0);
          expect(Math.abs(sum - 1)).toBeLessThan(1e-5);
        }
      });

      test.each(Object.entries(extremes))('%s', async (_name, logits) => {
        const { out } = await native.runOp('softmax', { x: f32([1, 6], logits) }, { log });
        expectEachClose(floats(out), reference(log, 6)(Float64Array.from(logits)), EXACT_ARITHMETIC, 'out');
      });
    });
  }

  test('a NaN spoils its own row and no other', async () => {
    const { out } = await native.runOp('softmax', { x: f32([3, 2], [1, 2, 1, Number.NaN, 1, 2]) }, {});
    expect(Array.from(floats(out), Number.isNaN)).toEqual([false, false, true, true, false, false]);
  });
});

describe('distillation_loss', () => {
  const kl = (logits: Numbers, target: Numbers, shape: number[], axis: number, temperature: number) =>
    distillation(logits, target, shape, axis < 0 ? axis + shape.length : axis, temperature);

  test.each([
    { shape: [1, 1], axis: -1, temperature: 3 },
    { shape: [4, 17], axis: -1, temperature: 3 },
    { shape: [4, 17], axis: 1, temperature: 1 },
    { shape: [3, 5, 7], axis: -1, temperature: 3 },
    { shape: [3, 5, 7], axis: 1, temperature: 0.5 },
    { shape: [2, 3000], axis: -1, temperature: 10 },
  ])('kl of $shape along $axis at temperature $temperature', async ({ shape, axis, temperature }) => {
    const output = normals(sizeOf(shape), 1, 3);
    const target = normals(sizeOf(shape), 2, 3);
    const inputs = { output: f32(shape, output), target: f32(shape, target) };
    await expectLoss(
      'distillation_loss',
      inputs,
      { axis, temperature },
      kl(output, target, shape, axis, temperature),
      'output',
    );
    if (sizeOf(shape) < 200)
      expectConsistent(output, (logits) => kl(logits, target, shape, axis, temperature));
  });

  test.each([
    [1, 1],
    [5, 17],
    [3, 3000],
  ])('bce of %i samples and %i classes', async (rows, classes) => {
    const output = normals(rows * classes, 1, 4);
    const labels = scores(rows * classes, 2);
    const inputs = { output: f32([rows, classes], output), labels: f32([rows, classes], labels) };
    await expectLoss('distillation_loss', inputs, { part: 'bce' }, binary(output, labels, rows), 'output');
    if (classes < 200) expectConsistent(output, (logits) => binary(logits, labels, rows));
  });

  test('combined is the mean of both, by default at temperature 3', async () => {
    const [output, target, labels] = [normals(60, 1, 3), normals(60, 2, 3), scores(60, 3)];
    const inputs = {
      output: f32([4, 15], output),
      target: f32([4, 15], target),
      labels: f32([4, 15], labels),
    };
    const a = binary(output, labels, 4);
    const b = kl(output, target, [4, 15], 1, 3);
    const gradient = a.gradient.map((value, i) => (value + b.gradient[i]!) / 2);
    const wanted = { loss: (a.loss + b.loss) / 2, gradient };
    await expectLoss('distillation_loss', inputs, { part: 'combined' }, wanted, 'output');
  });

  describe.each(Object.entries(extremes))('%s', (_name, logits) => {
    test('kl against a teacher of the opposite opinion', async () => {
      const target = logits.map((x) => -x);
      const inputs = { output: f32([1, 6], logits), target: f32([1, 6], target) };
      await expectLoss('distillation_loss', inputs, {}, kl(logits, target, [1, 6], 1, 3), 'output');
    });
    test('bce', async () => {
      const labels = Float32Array.from([1, 0, 0.3, 0.6, 0.9, 1]);
      const inputs = { output: f32([1, 6], logits), labels: f32([1, 6], labels) };
      await expectLoss('distillation_loss', inputs, { part: 'bce' }, binary(logits, labels, 1), 'output');
    });
  });

  test('a teacher that agrees costs nothing', async () => {
    const output = f32([3, 9], 1);
    const results = await native.runOp('distillation_loss', { output, target: output }, {});
    expect(floats(results.loss)[0]).toBe(0);
    expect([...floats(results['grad.output'])]).toEqual(new Array(27).fill(0));
  });

  test.each(['output', 'target', 'labels'])('NaN in %s makes the loss NaN', async (spoiled) => {
    for (const part of spoiled === 'labels' ? ['bce', 'combined'] : ['kl', 'combined']) {
      const inputs = { output: f32([2, 4], 1), target: f32([2, 4], 2), labels: f32([2, 4], scores(8, 3)) };
      (inputs[spoiled as 'output'].data as Float32Array)[2] = Number.NaN;
      const { loss } = await native.runOp('distillation_loss', inputs, { part });
      expect(floats(loss)[0], part).toBeNaN();
    }
  });
});

describe('cross_entropy', () => {
  test.each([
    [1, 1],
    [6, 17],
    [3, 5000],
  ])('%i rows of %i', async (rows, classes) => {
    const logits = normals(rows * classes, 1, 3);
    const draw = uniform(4);
    const labels = Array.from({ length: rows }, (_, row) =>
      row === 2 ? -100 : Math.floor(draw() * classes),
    );
    const inputs = { logits: f32([rows, classes], logits), labels: i32(labels) };
    await expectLoss('cross_entropy', inputs, {}, crossEntropy(logits, labels), 'logits');
    if (classes < 200) expectConsistent(logits, (values) => crossEntropy(values, labels));
  });

  test.each(Object.entries(extremes))('%s', async (_name, logits) => {
    for (const label of [0, 1, 5]) {
      const inputs = { logits: f32([1, 6], logits), labels: i32([label]) };
      await expectLoss('cross_entropy', inputs, {}, crossEntropy(logits, [label]), 'logits');
    }
  });

  test('NaN makes the loss NaN', async () => {
    const inputs = { logits: f32([2, 2], [1, 2, Number.NaN, 1]), labels: i32([0, 1]) };
    expect(floats((await native.runOp('cross_entropy', inputs, {})).loss)[0]).toBeNaN();
  });
});
