// Writes what both sides of `dfgn-step` and `dfgn-sample` load, so that they do the same work on the same numbers: a network
// folder with random weights and one batch with its noise, times, masks and texts. Runs in a process of its own (see
// dfgn-step.ts), so that the memory it needs is in nobody's measurement.
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { Dfgn } from '../dist/models/dfgn.js';
import type { TensorData } from '../dist/native/core.js';
import { native } from '../dist/native.js';
import type { ClipShape } from './work-dfgn.js';

/** The files in a folder that `writeFiles` made. */
export function fileNames(folder: string): { model: string; batch: string } {
  return { model: path.join(folder, 'model'), batch: path.join(folder, 'batch.safetensors') };
}

/** Normal numbers, the same on every machine: Box and Muller on a linear congruential generator. */
function generator(seed: number): () => number {
  let state = seed >>> 0;
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

function makeBatch(s: ClipShape, seed: number): Record<string, TensorData> {
  const normal = generator(seed);
  const clips = s.clips;
  const frames = s.num_frames;
  const numbers = (...shape: number[]): TensorData => ({
    dtype: 'f32',
    shape,
    data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, normal),
  });
  const space = [clips, s.in_channels, frames, s.height, s.width];
  const times = Int32Array.from({ length: clips }, (_, i) => Math.round((1000 * (i + 0.5)) / clips));
  return {
    latents: numbers(...space),
    noise: numbers(...space),
    text: numbers(clips, s.textTokens, s.cross_attention_dim),
    t5: numbers(clips, s.t5Tokens, s.t5_dim),
    negative_text: numbers(clips, s.textTokens, s.cross_attention_dim),
    negative_t5: numbers(clips, s.t5Tokens, s.t5_dim),
    timesteps: { dtype: 'i32', shape: [clips], data: times },
    // The first frame is given, and all are real.
    info_mask: {
      dtype: 'u8',
      shape: [clips, frames],
      data: Uint8Array.from({ length: clips * frames }, (_, i) => (i % frames === 0 ? 1 : 0)),
    },
    frame_mask: { dtype: 'u8', shape: [clips, frames], data: new Uint8Array(clips * frames).fill(1) },
  };
}

export async function writeFiles(folder: string, s: ClipShape, seed: number): Promise<void> {
  const files = fileNames(folder);
  const { clips, height, width, textTokens, t5Tokens, ...config } = s;
  using network = Dfgn.create(config, { seed });
  // A fresh network's interaction layers ignore their attention (w1 = 0): with other weights its numbers count too.
  const fusion = [...network.shapes.keys()].filter((name) => name.endsWith('.w1'));
  await network.write(Object.fromEntries(fusion.map((name) => [name, Float32Array.of(0.5)])));
  await network.save(files.model);
  await native.writeSafetensors(files.batch, makeBatch(s, seed), {});
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await writeFiles(process.argv[2]!, JSON.parse(process.argv[3]!) as ClipShape, Number(process.argv[4]));
}
