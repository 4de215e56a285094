// What goes wrong on a GPU leaves it usable: no memory left, cancelled and disposed work, several models at once. On the
// emulated GPU, whose work waits in a stream as that of a real one does.

import { spawnSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import type { Vilt } from '../src/models/vilt.js';
import { emulated, emulatedIsThere, trainedVilt } from './device-support.js';
import { denoisingBatch, smallNetwork, training } from './dfgn-support.js';
import { madeBatch } from './federation-support.js';

const there = emulatedIsThere();

/** Losses of three steps. */
async function losses(model: Vilt, seed: number): Promise<number[]> {
  const all = [];
  for (let step = 0; step < 3; step++) all.push((await model.step(madeBatch(seed + step))).loss);
  return all;
}

describe.skipIf(!there)('on the emulated GPU', () => {
  const alone = async (seed: number) => {
    using model = await trainedVilt(emulated);
    return await losses(model, seed);
  };

  test('two models at once compute what each computes alone', async () => {
    const [first, second] = [await alone(20), await alone(40)];
    using a = await trainedVilt(emulated);
    using b = await trainedVilt(emulated);
    expect(await Promise.all([losses(a, 20), losses(b, 40)])).toEqual([first, second]);
  });

  test('a model that is disposed of while its work waits, and work that is cancelled', async () => {
    const expected = await alone(20);
    const gone = await trainedVilt(emulated);
    const steps = [1, 2, 3].map((seed) => gone.step(madeBatch(seed)));
    gone.dispose();
    await Promise.allSettled(steps);
    using network = await smallNetwork({}, { device: emulated });
    await network.startTraining(training);
    const step = network.step([denoisingBatch(network.config as never, 1, 1)]);
    network.cancel();
    await expect(step).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(await alone(20)).toEqual(expected);
  });

  test('no memory left: the error has the plan, and smaller batches go on', () => {
    const script = `
      import { Dfgn, dfgnConfig } from ${JSON.stringify(new URL('../dist/index.js', import.meta.url).href)};
      const config = dfgnConfig({ block_out_channels: [8, 16], layers_per_block: 1, norm_num_groups: 4, num_frames: 4,
        cross_attention_dim: 12, t5_dim: null, attention_head_dim: 4 });
      using network = Dfgn.create(config, { device: 'emulated', threads: 1, seed: 1 });
      await network.startTraining(${JSON.stringify(training)});
      const batch = (clips) => ({ clips, height: 6, width: 5, textTokens: 3,
        text: new Float32Array(clips * 36).fill(0.1), latents: new Float32Array(clips * 4 * 4 * 30).fill(0.2) });
      const step = async (clips) => {
        try { return (await network.step([batch(clips)])).step; } catch (error) { return error; }
      };
      const [first, large, second] = [await step(1), await step(64), await step(1)];
      console.log(JSON.stringify({ first, second, code: large.code, message: large.message }));
    `.replaceAll(/\busing\b/g, 'const');
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      encoding: 'utf8',
      env: { ...process.env, DUET_EMULATED_BYTES: String(8 << 20) },
    });
    expect(stderr).toBe('');
    const { first, second, code, message } = JSON.parse(stdout);
    expect([first, second]).toEqual([1, 2]);
    expect(code).toBe('OUT_OF_MEMORY');
    expect(message).toMatch(
      /^Out of GPU memory: could not allocate \d+ bytes beside the \d+ in use of 8388608; use a smaller batch or bf16\. Training with such batches takes [\d.]+ GB: parameters .* activations [\d.]+ GB$/,
    );
  }, 240_000);
});
