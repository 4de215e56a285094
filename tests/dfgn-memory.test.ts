// The memory of a training as it is planned, against what its first step takes.

import { describe, expect, test } from 'vitest';
import { Dfgn } from '../src/models/dfgn.js';
import { type DfgnConfigInput, dfgnConfig, dfgnPreset } from '../src/models/dfgn-config.js';
import type { DenoisingBatch, MemoryPlan, PlannedStep } from '../src/native/stickers.js';
import { type MemorySettings, memoryTable, requireMemory, totalBytes } from '../src/stickers/memory-plan.js';
import { captionNetwork, ENCODER, TRAINING, wave } from './dfgn-caption-support.js';
import { rejection } from './native-support.js';

const bf16 = hasBf16();
if (!bf16) console.log('skipped: plans in bf16, this processor has no products of that type');

function hasBf16(): boolean {
  try {
    captionNetwork({}, { compute: 'bf16' }).dispose();
    return true;
  } catch {
    return false;
  }
}

function batchOf({ config }: Dfgn, step: PlannedStep): DenoisingBatch {
  const { clips, height, width, textTokens, t5Tokens = 1 } = step;
  const { in_channels: channels, num_frames: frames, cross_attention_dim: textWidth, t5_dim: t5 } = config;
  const texts = clips * textTokens;
  return {
    clips,
    height,
    width,
    textTokens,
    latents: wave(clips * channels * frames * height * width),
    ...(config.caption_encoder
      ? { tokens: new Int32Array(texts).fill(1) }
      : { text: wave(texts * textWidth) }),
    ...(t5 !== null && { t5Tokens, t5: wave(clips * t5Tokens * t5) }),
    dropText: new Uint8Array(clips),
  };
}

/** Plans, then does one step. */
async function planAndStep(network: Dfgn, step: PlannedStep) {
  const plan = await network.memoryPlan(step);
  const before = network.memory();
  await network.startTraining({
    ...TRAINING,
    checkpoint: step.checkpoint ?? false,
    ...(step.ema && { emaDecay: 0.99 }),
  });
  const batch = batchOf(network, step);
  await network.step(step.accumulate ? [batch, batch] : batch);
  return { plan, before, measured: network.memory() };
}

const wide: DfgnConfigInput = {
  block_out_channels: [32, 64, 64],
  norm_num_groups: 8,
  cross_attention_dim: 48,
  t5_dim: 40,
  attention_head_dim: 16,
  num_frames: 5,
};
const picture = { clips: 2, height: 12, width: 9, textTokens: 7 };

describe('the plan of a step', () => {
  const cases: [string, DfgnConfigInput, PlannedStep, 'fp32' | 'bf16'][] = [];
  for (const compute of bf16 ? (['fp32', 'bf16'] as const) : (['fp32'] as const)) {
    for (const checkpoint of [false, true]) {
      const name = `${compute}${checkpoint ? ', checkpointing' : ''}`;
      cases.push([
        `${name}, preset tiny`,
        dfgnPreset('tiny'),
        { ...picture, t5Tokens: 0, checkpoint },
        compute,
      ]);
      const t5 = { ...picture, t5Tokens: 3, checkpoint, ema: true };
      cases.push([`${name}, three levels and two texts`, wide, t5, compute]);
      cases.push([`${name}, two micro-batches`, wide, { ...t5, accumulate: true }, compute]);
      const own: DfgnConfigInput = { ...wide, t5_dim: null, caption_encoder: ENCODER, mask_padding: true };
      cases.push([`${name}, own text encoder`, own, { ...picture, textTokens: 6, checkpoint }, compute]);
    }
  }

  test.each(cases)('%s', async (_, config, step, compute) => {
    const network = Dfgn.create(dfgnConfig(config), { compute, threads: 1 });
    try {
      const { plan, before, measured } = await planAndStep(network, step);
      expect(before.arenaPeakBytes).toBe(0); // planning ran nothing in this network
      expect(before.trainingBytes).toBe(0);
      expect(plan.activations + plan.gradients).toBe(measured.arenaPeakBytes); // the arena is the same code
      expect(plan.moments + plan.averages).toBe(measured.trainingBytes);
      expect(plan.averages > 0).toBe(step.ema === true);
      expect(plan.parameters).toBe(measured.parameterBytes);
    } finally {
      network.dispose();
    }
  });

  test('changes nothing: the step after it has the same bits', async () => {
    const [planned, plain] = [captionNetwork(), captionNetwork()];
    const step = { clips: 2, height: 5, width: 5, textTokens: 4 };
    for (const network of [planned, plain]) {
      await network.startTraining(TRAINING);
      await network.step(batchOf(network, step));
    }
    await planned.memoryPlan(step);
    for (const network of [planned, plain]) await network.step(batchOf(network, step));
    expect(await planned.read()).toEqual(await plain.read());
    planned.dispose();
    plain.dispose();
  });

  test('takes no memory of its own, also where training would take tens of gigabytes', async () => {
    const network = Dfgn.create(dfgnPreset('small'), { threads: 1 });
    const resident = process.memoryUsage().rss;
    const step = { clips: 16, height: 64, width: 64, textTokens: 8 };
    const plan = await network.memoryPlan(step);
    expect(totalBytes(plan)).toBeGreaterThan(20e9);
    expect(process.memoryUsage().rss - resident).toBeLessThan(400e6);
    const checkpointed = await network.memoryPlan({ ...step, checkpoint: true });
    expect(checkpointed.activations).toBeLessThan(plan.activations / 2);
    const settings = {
      space: 'pixels' as const,
      patch: 1,
      size: 64,
      batchSize: 16,
      gradientCheckpointing: false,
    };
    expect(() => requireMemory(plan, settings, totalBytes(plan))).not.toThrow();
    const refused = (changes: Partial<MemorySettings>) => () =>
      requireMemory(plan, { ...settings, ...changes }, totalBytes(plan) - 1);
    expect(refused({})).toThrow(
      /fits into the [\d.]+ GB of this machine but it needs [\d.]+ GB, .*; set patch \(--patch\) to 2, make batchSize \(--batch-size\) smaller .*, set gradientCheckpointing \(--checkpointing\), or take/,
    );
    expect(refused({ patch: 2 })).toThrow(/; set patch \(--patch\) to 4, make/);
    for (const changes of [{ patch: 4 }, { size: 61 }, { space: {} }])
      expect(refused(changes)).toThrow(/activations; make batchSize/);
    expect(refused({ patch: 4, batchSize: 1, gradientCheckpointing: true })).toThrow(
      /activations; take a smaller network or size$/,
    );
    network.dispose();
  });

  test('refuses pictures that are too small', async () => {
    const network = captionNetwork();
    const error = await rejection(network.memoryPlan({ clips: 1, height: 2, width: 9, textTokens: 4 }));
    expect(error.message).toMatch(/pictures of at least 3 x 3 .* received 2 x 9/);
    network.dispose();
  });
});

test('the table names every part and the sum', () => {
  const plan: MemoryPlan = {
    parameters: 4e6,
    gradients: 4e6,
    moments: 8e6,
    averages: 0,
    activations: 123.4e6,
  };
  expect(memoryTable(plan)).toBe(
    [
      'memory',
      'weights                          4.0 MB',
      'gradients                        4.0 MB',
      'moments of the optimizer         8.0 MB',
      'activations of the largest step  123 MB',
      'together                         139 MB',
    ].join('\n'),
  );
});
