// Whole models on the emulated GPU: the same training steps as on the CPU, up to rounding.

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { DeviceName } from '../src/device.js';
import { viltConfig, viltPreset } from '../src/models/config.js';
import { Vilt } from '../src/models/vilt.js';
import type { Tensors } from '../src/native/core.js';
import { addonPath } from '../src/native.js';
import { predictionBatch, smallNetwork } from './dfgn-support.js';
import { madeBatch } from './federation-support.js';

const there = existsSync(join(dirname(addonPath()), 'duet-emulated.so'));
if (!there) console.log('skipped: the emulated GPU was not built (apt-get install libboost-context-dev)');
const emulated = 'emulated' as DeviceName;

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
    ['bf16', 2e-2],
  ] as const)('two steps of FedDAT in %s change what they change on the CPU', async (compute, tolerance) => {
    const trained = async (device: DeviceName) => {
      const config = viltConfig({
        ...viltPreset('tiny'),
        vocab_size: 50,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 64,
        image_size: 32,
        patch_size: 16,
        hidden_dropout_prob: 0,
      });
      using model = Vilt.create(config, { answers: 4, adapters: { reduction: 8 }, seed: 3, device, compute });
      const before = await model.read(model.tunable);
      await model.startTraining({
        method: 'feddat',
        task: 'vqa',
        optimizer: { learningRate: 1e-3, betas: [0.9, 0.98], epsilon: 1e-3, weightDecay: 0.01 },
        schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 10 },
      });
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

  test('a frame generation network: output and gradients', async () => {
    using cpu = await smallNetwork();
    using gpu = await smallNetwork({}, { device: emulated });
    const inputs = predictionBatch(cpu.config as never, 1);
    const target = new Float32Array(inputs.noisyLatents.length).fill(0.5);
    const [expected, actual] = [
      await cpu.differentiate(inputs, target),
      await gpu.differentiate(inputs, target),
    ];
    expect(Math.abs(actual.loss - expected.loss)).toBeLessThan(1e-5 * expected.loss);
    expect(distance({ output: actual.output }, { output: expected.output })).toBeLessThan(1e-5);
    expect(distance(await gpu.gradients(), await cpu.gradients())).toBeLessThan(1e-4);
  }, 300_000);
});
