// What tests of models on the emulated GPU share.

import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { DeviceName } from '../src/device.js';
import { viltConfig, viltPreset } from '../src/models/config.js';
import { Vilt } from '../src/models/vilt.js';
import type { ComputeType } from '../src/native/core.js';
import { addonPath } from '../src/native.js';

export const emulated = 'emulated' as DeviceName;

/** Whether the emulated GPU was built; says so where it was not. */
export function emulatedIsThere(): boolean {
  const there = existsSync(join(dirname(addonPath()), 'duet-emulated.so'));
  if (!there) console.log('skipped: the emulated GPU was not built (apt-get install libboost-context-dev)');
  return there;
}

/** A model of two layers in FedDAT's training, for the batches of federation-support. */
export async function trainedVilt(device: DeviceName, compute: ComputeType = 'fp32'): Promise<Vilt> {
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
  const model = Vilt.create(config, { answers: 4, adapters: { reduction: 8 }, seed: 3, device, compute });
  await model.startTraining({
    method: 'feddat',
    task: 'vqa',
    optimizer: { learningRate: 1e-3, betas: [0.9, 0.98], epsilon: 1e-3, weightDecay: 0.01 },
    schedule: { kind: 'constant', warmupSteps: 0, maxSteps: 10 },
  });
  return model;
}
