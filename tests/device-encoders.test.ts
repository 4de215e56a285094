// Frozen encoders and sampling on the emulated GPU: what the CPU computes, up to rounding.

import { describe, test } from 'vitest';
import type { DeviceName } from '../src/device.js';
import { AutoencoderKl } from '../src/models/autoencoder.js';
import { FrozenTextEncoder } from '../src/models/text-encoder.js';
import type { PredictionBatch } from '../src/native/stickers.js';
import { Ddim } from '../src/stickers/samplers/ddim.js';
import { DpmSolver } from '../src/stickers/samplers/dpm-solver.js';
import { sample } from '../src/stickers/samplers/sampler.js';
import { NoiseSchedule } from '../src/stickers/samplers/schedule.js';
import { emulated, emulatedIsThere } from './device-support.js';
import { predictionBatch, smallNetwork } from './dfgn-support.js';
import { autoencoderFolder, encoderFolder } from './support/encoder-folders.js';
import { expectClose, floats } from './support/reference/check.js';
import { normals } from './support/reference/numbers.js';

const there = emulatedIsThere();

describe.skipIf(!there)('on the emulated GPU', () => {
  test.each(['clip', 'bert', 't5'] as const)('texts through %s', async (kind) => {
    const folder = await encoderFolder(kind);
    using cpu = await FrozenTextEncoder.fromPretrained(folder);
    using gpu = await FrozenTextEncoder.fromPretrained(folder, { device: emulated });
    const tokens = { batch: 2, length: 5, inputIds: Int32Array.from([1, 4, 9, 7, 7, 2, 12, 7, 7, 7]) };
    const [expected, actual] = [await cpu.encodeTokens(tokens), await gpu.encodeTokens(tokens)];
    expectClose(floats(actual.lastHiddenState), floats(expected.lastHiddenState), 1e-5, 'states');
  });

  test('pictures through the autoencoder, there and back', async () => {
    const folder = await autoencoderFolder();
    using cpu = await AutoencoderKl.fromPretrained(folder);
    using gpu = await AutoencoderKl.fromPretrained(folder, { device: emulated });
    const grid = { clips: 1, frames: 2, height: 12, width: 8 };
    const pictures = normals(2 * 3 * 96, 5, 0.5);
    const latents = await cpu.encode(pictures, grid);
    expectClose(await gpu.encode(pictures, grid), latents, 1e-5, 'latents');
    expectClose(await gpu.decode(latents, grid), await cpu.decode(latents, grid), 1e-5, 'pictures');
  });

  test.each([
    ['DDIM', () => new Ddim(new NoiseSchedule(), { steps: 3 })],
    ['DPM-Solver', () => new DpmSolver(new NoiseSchedule(), { steps: 3 })],
  ])(
    'three steps of %s with guidance',
    async (_, samplerOf) => {
      const sampled = async (device: DeviceName) => {
        using network = await smallNetwork({}, { device });
        const { text, t5, ...batch } = predictionBatch(network.config as never, 1) as PredictionBatch & {
          t5: Float32Array;
          text: Float32Array;
        };
        const twice = (values: Float32Array) => Float32Array.from([...values, ...values.map((v) => -v)]);
        const predict = (noisyLatents: Float32Array, timestep: number) =>
          network.predict(
            {
              ...batch,

              text: twice(text),
              t5: twice(t5),
              noisyLatents,
              timesteps: Float32Array.of(timestep),
            },
            2.5,
          );
        return await sample(samplerOf(), batch.noisyLatents, predict);
      };
      expectClose(await sampled(emulated), await sampled('cpu'), 1e-4, 'latents');
    },
    240_000,
  );
});
