// Whole models on the emulated GPU: the same training steps as on the CPU, up to rounding.

import { describe, expect, test } from 'vitest';
import type { DeviceName } from '../src/device.js';
import type { Tensors } from '../src/native/core.js';
import { emulated, emulatedIsThere, trainedVilt } from './device-support.js';
import { predictionBatch, smallNetwork } from './dfgn-support.js';
import { madeBatch } from './federation-support.js';

const there = emulatedIsThere();

/** Relative L2 distance over all tensors. */
function distance(actual: Tensors, expected: Tensors): number {
  let [difference, size] = [0, 0];
  for (const [name, values] of Object.entries(expected))
    for (const [i, value] of values.entries()) {
      difference += (actual[name]![i]! - value) ** 2;
      size += value ** 2;
    }
  return Math.sqrt(difference / size);
}

describe.skipIf(!there)('on the emulated GPU', () => {
  test.each([
    ['fp32', 1e-5],
    ['tf32', 1e-3],
    ['bf16', 2e-2],
  ] as const)('two steps of FedDAT in %s change what they change on the CPU', async (type, tolerance) => {
    const trained = async (device: DeviceName) => {
      const compute = type === 'tf32' && device === 'cpu' ? 'fp32' : type;
      using model = await trainedVilt(device, compute);
      const before = await model.read(model.tunable);
      const { loss } = await model.step(madeBatch(1));
      await model.step(madeBatch(2));
      const after = await model.read(model.tunable);
      const changes = Object.fromEntries(
        Object.entries(after).map(([name, values]) => [
          name,
          values.map((value, i) => value - before[name]![i]!),
        ]),
      );
      return { loss, changes, logits: await model.evaluate(madeBatch(3), 'vqa', 'gated') };
    };
    const [cpu, gpu] = [await trained('cpu'), await trained(emulated)];
    expect(Math.abs(gpu.loss - cpu.loss)).toBeLessThan(tolerance * cpu.loss);
    expect(distance({ logits: gpu.logits }, { logits: cpu.logits })).toBeLessThan(tolerance);
    // Differences of weights carry the rounding of the weights, some 1e-4 of them at this rate.
    expect(distance(gpu.changes, cpu.changes)).toBeLessThan(Math.max(1e-3, 5 * tolerance));
  });

  test.each([
    ['fp32', 1e-5],
    ['tf32', 2e-3], // of some forty products, one after another
  ] as const)(
    'a frame generation network in %s: output and gradients',
    async (compute, tolerance) => {
      using cpu = await smallNetwork();
      using gpu = await smallNetwork({}, { device: emulated, compute });
      const inputs = predictionBatch(cpu.config as never, 1);
      const target = new Float32Array(inputs.noisyLatents.length).fill(0.5);
      const [expected, actual] = [
        await cpu.differentiate(inputs, target),
        await gpu.differentiate(inputs, target),
      ];
      expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(tolerance * expected.loss);
      expect(distance({ output: actual.output }, { output: expected.output })).toBeLessThan(tolerance);
      expect(distance(await gpu.gradients(), await cpu.gradients())).toBeLessThan(Math.max(1e-4, tolerance));
    },
    300_000,
  );
});
