// Whatever a program hands to codecs and to protection, it gets a DuetError that says what was expected.

import { expect, test } from 'vitest';
import { CODEC_NAMES, updateCodec } from '../src/federated/compression.js';
import { Accountant } from '../src/federated/privacy/accountant.js';
import { Protection } from '../src/federated/privacy/protection.js';
import { type Call, unusualErrors } from './odd-arguments.js';

const tensors = () => ({ a: Float32Array.of(1, 2) });
const releases = () => ({ noiseMultiplier: 1, sampleRate: 1, releases: 2 });
const protection = () => new Protection({ clip: 1, noise: 1 });

const cases: [string, Call, () => unknown[]][] = [
  [
    'new Protection',
    (options) => new Protection(options),
    () => [{ clip: 1, noise: 1, delta: 1e-5, neighbours: 'remove', epsilon: 3, ledger: 'x', seed: 3 }],
  ],
  [
    'Protection.apply',
    (update, received) => protection().apply(update, received),
    () => [tensors(), tensors()],
  ],
  ['Protection.restore', (ledger) => protection().restore(ledger), () => [[releases()]]],
  ['new Accountant', (ledger) => new Accountant(ledger), () => [[releases()]]],
  ['Accountant.add', (entry) => new Accountant().add(entry), () => [releases()]],
  ['Accountant.spent', (delta) => new Accountant().spent(delta), () => [1e-5]],
  ['updateCodec', (name, draws) => updateCodec(name, draws), () => ['int8', { seed: 1, stream: 2 }]],
  ...CODEC_NAMES.flatMap((name): [string, Call, () => unknown[]][] => {
    const codec = updateCodec(name);
    return [
      [`${name} encode`, (values, received) => codec.encode(values, received), () => [tensors(), tensors()]],
      [
        `${name} decode`,
        (encoded, received) => codec.decode(encoded, received),
        () => [codec.encode(tensors(), tensors()), tensors()],
      ],
    ];
  }),
];

test.each(cases)('%s', async (_name, call, good) => {
  expect(await unusualErrors(call, good)).toEqual([]);
});
