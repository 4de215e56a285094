// Writes what both sides of `feddat-step` load, so that they do the same work on the same numbers: a model folder with
// random weights, the adapters and the head, and one batch. Runs in a process of its own (see feddat-step.ts), so that the
// memory it needs is in nobody's measurement.
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { viltConfig } from '../dist/models/config.js';
import { Vilt } from '../dist/models/vilt.js';
import type { TensorData } from '../dist/native/core.js';
import { native } from '../dist/native.js';
import type { StepShape } from './work.js';

/** The files in a folder that `writeFiles` made. */
export function fileNames(folder: string): { model: string; state: string; batch: string } {
  return {
    model: path.join(folder, 'model'),
    state: path.join(folder, 'state.safetensors'),
    batch: path.join(folder, 'batch.safetensors'),
  };
}

/** Numbers in [0, 1), the same on every machine (a linear congruential generator is random enough here). */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

function makeBatch(s: StepShape, seed: number): Record<string, TensorData> {
  const random = generator(seed);
  const { batch: B, textTokens: L, imageSize: H, channels, answers } = s;
  const targets = new Float32Array(B * answers);
  for (let i = 0; i < B; i++) {
    targets[i * answers + Math.floor(random() * answers)] = 0.3;
    targets[i * answers + Math.floor(random() * answers)] = 1;
  }
  return {
    input_ids: {
      dtype: 'i32',
      shape: [B, L],
      data: Int32Array.from({ length: B * L }, () => 1 + Math.floor(random() * (s.vocabulary - 1))),
    },
    token_type_ids: { dtype: 'i32', shape: [B, L], data: new Int32Array(B * L) },
    attention_mask: { dtype: 'u8', shape: [B, L], data: new Uint8Array(B * L).fill(1) },
    pixel_values: {
      dtype: 'f32',
      shape: [B, channels, H, H],
      data: Float32Array.from({ length: B * channels * H * H }, () => 2 * random() - 1),
    },
    pixel_mask: { dtype: 'u8', shape: [B, H, H], data: new Uint8Array(B * H * H).fill(1) },
    targets: { dtype: 'f32', shape: [B, answers], data: targets },
  };
}

export async function writeFiles(folder: string, s: StepShape, seed: number): Promise<void> {
  const files = fileNames(folder);
  const config = viltConfig({
    vocab_size: s.vocabulary,
    max_position_embeddings: s.textTokens,
    hidden_size: s.width,
    num_hidden_layers: s.layers,
    num_attention_heads: s.heads,
    intermediate_size: s.intermediate,
    image_size: s.imageSize,
    patch_size: s.patchSize,
  });
  using model = Vilt.create(config, { seed, adapters: { reduction: s.reduction }, answers: s.answers });
  await model.save(files.model);
  await native.writeSafetensors(files.state, model.withShapes(await model.read(model.tunable)), {});
  await native.writeSafetensors(files.batch, makeBatch(s, seed), {});
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await writeFiles(process.argv[2]!, JSON.parse(process.argv[3]!) as StepShape, Number(process.argv[4]));
}
