// Reference numbers of the published frame generation network: layers, blocks, the whole network, three training steps.

import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { findCases } from '../src/golden/run.js';
import { native } from '../src/native.js';
import { type Config, predictionBatch, smallNetwork, valuesOf } from './dfgn-support.js';
import { normals } from './support/reference/numbers.js';

const shared = process.env.DUET_SHARED ?? fileURLToPath(new URL('../../shared', import.meta.url));
const folders = ['sti_layer', 'blocks', 'dfgn_tiny', 'train_steps'].map(
  (name) => `${shared}/golden/rdtf/${name}`,
);
const missing = folders.filter((folder) => !existsSync(folder));
if (missing.length > 0) console.log(`skipped: ${missing.join(', ')} not found (set DUET_SHARED)`);

describe.skipIf(missing.length > 0)('reference numbers', async () => {
  const cases = (
    await Promise.all(
      folders.map((folder) =>
        existsSync(folder) ? findCases({ folder, device: 'cpu', threads: 1 }) : Promise.resolve([]),
      ),
    )
  ).flat();

  test.each(cases.map((one) => [one.name, one] as const))('%s', async (_name, one) => {
    const outcome = await one.run();
    expect(outcome).toMatchObject({ status: 'pass' });
    expect(outcome.compared).toBeGreaterThan(10);
  });
});

test('a folder of the same layout with other sizes: 3 channels, 5 frames, 2 levels, no T5', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'duet-golden-'));
  try {
    using network = await smallNetwork({ in_channels: 3, num_frames: 5, t5_dim: null });
    const config = network.config as Config;
    const inputs = predictionBatch(config, 2);
    const target = normals(2 * valuesOf(config), 50);
    const { loss, output, inputGradients } = await network.differentiate(inputs, target);
    const { height, width, textTokens } = inputs;
    const f32 = (shape: number[], data: Float32Array | undefined) => ({
      dtype: 'f32' as const,
      shape,
      data: data ?? new Float32Array(),
    });
    const latents = [2, 3, 5, height, width];
    const times = BigInt64Array.from(inputs.timesteps, BigInt);
    await network.save(join(folder, 'dfgn_tiny'));
    const write = (wrong: number) =>
      native.writeSafetensors(
        join(folder, 'dfgn_tiny', 'main_io.safetensors'),
        {
          'input.noisy_latents': f32(latents, inputs.noisyLatents),
          'input.image_latents': f32(latents, inputs.imageLatents),
          'input.target': f32(latents, target),
          'input.clip_hidden_states': f32([2, textTokens, config.cross_attention_dim], inputs.text),
          'input.timesteps': { dtype: 'i64', shape: [2], data: times },
          'grad_input.noisy_latents': f32(latents, inputGradients.noisyLatents),
          output: f32(
            latents,
            output.map((x) => x + wrong),
          ),
          loss: f32([1], Float32Array.of(loss)),
        },
        {},
      );
    await writeFile(join(folder, 'dfgn_tiny', 'summary.json'), JSON.stringify({ cases: {} }));
    const outcome = async () => {
      const cases = await findCases({ folder, device: 'cpu', threads: 1 });
      expect(cases.map(({ name }) => name)).toEqual(['dfgn_tiny/main']);
      return cases[0]?.run();
    };
    await write(0);
    expect(await outcome()).toMatchObject({ status: 'pass' });
    await write(1e-4);
    expect(await outcome()).toMatchObject({ status: 'fail', worst: { what: 'output' } });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
