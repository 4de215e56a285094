// The native classes of frozen networks called with arguments of the wrong kind: an error with a sentence, never a crash.

import { describe, expect, test } from 'vitest';
import { autoencoderShape } from '../src/models/autoencoder.js';
import { addon, rejection } from './native-support.js';
import { bertKind, t5Kind } from './support/encoder-folders.js';

type Method = 'load' | 'encode' | 'decode' | 'moments';
type Loose = Record<Method, (...values: unknown[]) => Promise<unknown>> & {
  memory(): unknown;
  dispose(): void;
};
const construct = (name: 'TextEncoder' | 'AutoencoderKl', ...values: unknown[]): Loose => {
  const Class = addon[name] as unknown as new (...given: unknown[]) => Loose;
  return new Class(...values);
};

const bert = bertKind().shape;
const vae = { ...autoencoderShape({ block_out_channels: [4], norm_num_groups: 2 }) };
const odd = [undefined, null, 3, 'text', {}, [], new Float64Array(2), () => 1];

describe('construction', () => {
  test.each([
    [['gpt', bert, {}], /'clip', 'bert' or 't5' for kind .*'gpt'/],
    [['bert', { ...bert, layers: 0 }, {}], /layers/],
    [['bert', { ...bert, width: 1.5 }, {}], /width/],
    [['bert', { ...bert, heads: 5 }, {}], /divisible by num_attention_heads/],
    [['bert', { ...bert, activation: 'selu' }, {}], /activation/],
    [['bert', { ...bert, layerNormEps: Number.NaN }, {}], /layerNormEps/],
    [['bert', bert, { compute: 'fp8' }], /compute/],
    [['bert', bert, { threads: -1 }], /threads/],
    [['t5', { ...t5Kind().shape, buckets: 7 }, {}], /even number .* 7/],
    [['t5', { ...t5Kind().shape, maxDistance: 2 }, {}], /max_distance above 2/],
  ])('TextEncoder %#', (given, says) => {
    expect(() => construct('TextEncoder', ...given)).toThrow(says);
  });

  test.each([
    [{ channels: [] }, /1 to 8 levels/],
    [{ channels: [4, 'x'] }, /channels/],
    [{ groups: 3 }, /divisible by norm_num_groups 3/],
    [{ scalingFactor: -1 }, /scalingFactor/],
  ])('AutoencoderKl %j', (changes, says) => {
    expect(() => construct('AutoencoderKl', { ...vae, ...changes }, {})).toThrow(says);
  });

  test.each(odd.slice(0, 4))('%s for the sizes', (value) => {
    expect(() => construct('TextEncoder', 'bert', value, {})).toThrow(/Expected/);
    expect(() => construct('AutoencoderKl', value, {})).toThrow(/Expected/);
  });
});

test('calls with odd arguments reject', async () => {
  const encoder = construct('TextEncoder', 'bert', bert, {});
  const model = construct('AutoencoderKl', vae, {});
  const grid = { clips: 1, frames: 1, height: 4, width: 4 };
  for (const value of odd) {
    const calls: (() => Promise<unknown>)[] = [
      () => encoder.encode(value),
      () => encoder.encode({ batch: 1, length: 2, inputIds: value }),
      () => encoder.load(value === undefined ? value : [value]),
      () => model.encode(value, grid),
      () => model.encode(new Float32Array(48), value),
      () => model.decode(value, grid),
      () => model.moments(value, grid),
    ];
    for (const call of calls) {
      const error = await rejection(call());
      expect(['INVALID_ARGUMENT', 'NOT_FOUND']).toContain(error.code);
    }
  }
  encoder.dispose();
  model.dispose();
  expect(() => encoder.memory()).toThrow(/disposed/);
  expect((await rejection(model.load(['x']))).message).toMatch(/disposed/);
});
