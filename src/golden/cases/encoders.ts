/** encoders: the frozen text encoders and the autoencoder of the sticker half, one case a folder. */

import { join } from 'node:path';
import { AutoencoderKl } from '../../models/autoencoder.js';
import { FrozenTextEncoder } from '../../models/text-encoder.js';
import type { TensorData } from '../../native/core.js';
import type { TokenBatch } from '../../native/stickers.js';
import { native } from '../../native.js';
import { Comparison, floats, type GoldenCase, type GoldenContext } from '../case.js';
import { isThere, readTensors, type TensorMap } from '../files.js';
import { EXACT, toleranceFor } from '../tolerance.js';

/** As the reference suggests, absolute. */
const TOLERANCE = 1e-5;
const DECODER_TOLERANCE = 2e-5;

type Machine = Pick<GoldenContext, 'device' | 'threads'>;
type Run = (folder: string, comparison: Comparison, machine: Machine) => Promise<void>;

const RUNS: Record<string, Run> = { clip_text: clipText, bert, t5, vae };

export async function encoderCases(
  folder: string,
  { device, threads }: GoldenContext,
): Promise<GoldenCase[]> {
  const cases: GoldenCase[] = [];
  for (const [name, run] of Object.entries(RUNS)) {
    if (!(await isThere(folder, name, 'io.safetensors'))) continue;
    cases.push({
      name: `encoders/${name}`,
      async run() {
        const comparison = new Comparison(this.name);
        await run(join(folder, name), comparison, { device, threads });
        return comparison.outcome();
      },
    });
  }
  return cases;
}

async function clipText(folder: string, comparison: Comparison, machine: Machine): Promise<void> {
  const io = await readTensors(folder, 'io.safetensors');
  using encoder = await FrozenTextEncoder.fromPretrained(folder, machine);
  const actual = await encoder.encodeTokens(tokensOf(io), true);
  const hidden = actual.hiddenStates ?? [];
  compare(comparison, io, {
    embeddings: hidden[0],
    hidden_state_before_last_layer: hidden.at(-2),
    last_hidden_state: actual.lastHiddenState,
    pooler_output: actual.poolerOutput,
  });
}

async function bert(folder: string, comparison: Comparison, machine: Machine): Promise<void> {
  const io = await readTensors(folder, 'io.safetensors');
  using encoder = await FrozenTextEncoder.fromPretrained(folder, machine);
  const actual = await encoder.encodeTokens(tokensOf(io, 'attention_mask'));
  compare(comparison, io, { last_hidden_state: actual.lastHiddenState });
}

async function t5(folder: string, comparison: Comparison, machine: Machine): Promise<void> {
  const io = await readTensors(folder, 'io.safetensors');
  using encoder = await FrozenTextEncoder.fromPretrained(folder, machine);
  const seen = await encoder.encodeTokens(tokensOf(io), true);
  const masked = await encoder.encodeTokens(tokensOf(io, 'attention_mask'));
  compare(comparison, io, {
    last_hidden_state_no_mask: seen.lastHiddenState,
    last_hidden_state_with_mask: masked.lastHiddenState,
  });
  if (!(await isThere(folder, 'relative_position.safetensors'))) return;
  const expected = await readTensors(folder, 'relative_position.safetensors');
  compare(comparison, expected, { position_bias: seen.positionBias });
  await buckets(folder, comparison, encoder, expected);
}

/** A text as long as the largest distance shows the bucket of every relative position by its bias. */
async function buckets(
  folder: string,
  comparison: Comparison,
  encoder: FrozenTextEncoder,
  expected: TensorMap,
): Promise<void> {
  const relative = numbers(expected.relative_position);
  const length = 1 + Math.max(0, ...relative.map(Math.abs));
  const one = await encoder.encodeTokens({ batch: 1, length, inputIds: new Int32Array(length) }, true);
  const bias = floats(one.positionBias);
  const name = 'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight';
  const table = (await readTensors(folder, 'model.safetensors'))[name];
  const heads = table?.shape[1] ?? 0;
  const wanted: number[] = [];
  const received: number[] = [];
  for (const [place, bucket] of numbers(expected.bucket).entries()) {
    const distance = relative[place] as number;
    const [query, key] = distance < 0 ? [-distance, 0] : [0, distance];
    for (let head = 0; head < heads; head++) {
      wanted.push(floats(table)[bucket * heads + head] as number);
      received.push(bias[(head * length + query) * length + key] as number);
    }
  }
  comparison.tensor('bucket', received, wanted, EXACT);
}

async function vae(folder: string, comparison: Comparison, machine: Machine): Promise<void> {
  const io = await readTensors(folder, 'io.safetensors');
  using model = await AutoencoderKl.fromPretrained(folder, machine);
  const image = floats(io.image);
  const [clips = 0, , height = 0, width = 0] = io.image?.shape ?? [];
  const grid = { clips, frames: 1, height, width };
  const noise = floats(io.noise);
  const moments = await model.moments(image, grid);
  const { mean, deviation } = native.gaussianOfMoments(moments, clips);
  const sample = mean.map((value, i) => value + (deviation[i] as number) * (noise[i] as number));
  const mode = await model.encode(image, grid);
  const extreme = io['extreme.moments'];
  const clamped = extreme
    ? native.gaussianOfMoments(floats(extreme), extreme.shape[0] ?? 1)
    : { mean: undefined, deviation: undefined };
  const results: [string, Float32Array | undefined, number][] = [
    ['moments', moments, TOLERANCE],
    ['mode', mean, TOLERANCE],
    ['std', deviation, TOLERANCE],
    ['sample', sample, TOLERANCE],
    ['scaled_latents', await model.encode(image, grid, { noise }), TOLERANCE],
    ['decoded_from_mode', await model.decode(mode, grid), DECODER_TOLERANCE],
    ['extreme.mean', clamped.mean, EXACT],
    ['extreme.std', clamped.deviation, toleranceFor(undefined, floats(io['extreme.std']))],
  ];
  for (const [name, values, tolerance] of results) {
    if (io[name]) comparison.tensor(name, values, floats(io[name]), tolerance);
  }
}

function tokensOf(io: TensorMap, mask?: string): TokenBatch {
  const [batch = 0, length = 0] = io.input_ids?.shape ?? [];
  return {
    batch,
    length,
    inputIds: Int32Array.from(numbers(io.input_ids)),
    ...(mask ? { attentionMask: Uint8Array.from(numbers(io[mask])) } : {}),
  };
}

function numbers(tensor: TensorData | undefined): number[] {
  return Array.from((tensor?.data ?? []) as ArrayLike<number | bigint>, Number);
}

function compare(
  comparison: Comparison,
  expected: TensorMap,
  actual: Record<string, TensorData | undefined>,
  tolerance = TOLERANCE,
): void {
  for (const [name, tensor] of Object.entries(actual)) {
    if (expected[name]) comparison.tensor(name, floats(tensor), floats(expected[name]), tolerance);
  }
}
