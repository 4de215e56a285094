// Bad input to the ops on feature maps; run by bad-input.test.ts.

import { u8 } from '../support/reference/numbers.js';
import { bytes, type Change, type Op, of } from './bad-input-support.js';

const grid = { clips: 1, frames: 2, height: 3, width: 2 }; // 12 rows

const gridChanges: Change[] = [
  { what: 'more frames than rows', attributes: { frames: 3 }, says: /18 rows/ },
  { what: 'no clips', attributes: { clips: 0 }, says: /whole number from 1.*'clips'.*0/ },
  { what: 'half a pixel', attributes: { height: 1.5 }, says: /whole number.*'height'.*1\.5/ },
  { what: 'a text for the width', attributes: { width: '2' }, says: /number for attribute 'width'/ },
];
const xChanges: Change[] = [
  ...gridChanges,
  { what: 'no x', inputs: { x: undefined }, says: /'x'/ },
  { what: 'x of another type', inputs: { x: bytes(12, 4) }, says: /'x' as f32 but received u8/ },
  { what: 'x without columns', inputs: { x: of(12, 0) }, says: /column/ },
  { what: 'a gradient of another size', gradOutput: of(1, 3), says: /gradient of \[/ },
];

const detail = Object.fromEntries(
  ['conv_layers.0', 'conv_layers.1'].flatMap((block) =>
    ['1', '2'].flatMap((layer) => [
      [`${block}.norm${layer}.weight`, of(2)],
      [`${block}.norm${layer}.bias`, of(2)],
      [`${block}.conv${layer}.weight`, of(2, 2, 3, 3)],
      [`${block}.conv${layer}.bias`, of(2)],
    ]),
  ),
);

export const pictureOps: Record<string, Op> = {
  convolution: {
    inputs: { x: of(12, 4), weight: of(3, 36), bias: of(3), residual: of(12, 3) },
    attributes: grid,
    changes: [
      ...xChanges,
      { what: 'x of other channels', inputs: { x: of(12, 5) }, says: /4 channels for weight.*\[12, 5\]/ },
      { what: 'a weight without whole taps', inputs: { weight: of(3, 35) }, says: /taps for weight/ },
      {
        what: 'a published kernel of four dimensions',
        inputs: { weight: of(3, 4, 3, 3) },
        says: /two dimens/,
      },
      { what: 'a short bias', inputs: { bias: of(2) }, says: /bias of 3.*\[2\]/ },
      { what: 'a small residual', inputs: { residual: of(3, 3) }, says: /residual.*\[12, 3\].*\[3, 3\]/ },
      { what: 'a kernel of 5', attributes: { size: 5 }, says: /kernel of 1 or 3.*5/ },
      { what: 'stride 0', attributes: { stride: 0 }, says: /'stride'.*0/ },
      {
        what: 'an unknown padding',
        attributes: { padding: 'valid' },
        says: /'same' or 'rightBottom'.*'valid'/,
      },
      {
        what: 'padding that needs stride 2',
        attributes: { padding: 'rightBottom' },
        says: /stride 2.*stride 1/,
      },
      { what: 'a 1x1 kernel of stride 2', attributes: { size: 1, stride: 2 }, says: /stride 1|channels/ },
    ],
  },
  groupNorm: {
    inputs: { x: of(12, 4), weight: of(4), bias: of(4), shift: of(1, 4) },
    attributes: { ...grid, groups: 2 },
    changes: [
      ...xChanges,
      { what: 'a short weight', inputs: { weight: of(3) }, says: /4 channels for weight.*\[3\]/ },
      { what: 'a short bias', inputs: { bias: of(3) }, says: /4 channels for weight.*bias of \[3\]/ },
      { what: 'groups that do not divide', attributes: { groups: 3 }, says: /divides the 4 channels.*3/ },
      { what: 'epsilon 0', attributes: { epsilon: 0 }, says: /positive epsilon.*0/ },
      {
        what: 'a shift for each frame',
        inputs: { shift: of(2, 4) },
        says: /shift of f32 \[1, 4\].*\[2, 4\]/,
      },
    ],
  },
  upsampleNearest: {
    inputs: { x: of(12, 4) },
    attributes: { ...grid, toHeight: 5, toWidth: 4 },
    changes: [...xChanges, { what: 'no width', attributes: { toWidth: 0 }, says: /'toWidth'.*0/ }],
  },
  averagePool: {
    inputs: { x: of(12, 4) },
    attributes: grid,
    changes: [
      ...xChanges,
      { what: 'one row', attributes: { height: 1, frames: 6 }, says: /at least 2x2.*1x2/ },
    ],
  },
  temporalAttention: {
    inputs: { qkv: of(12, 12), keep: u8([1, 0]) },
    attributes: { ...grid, heads: 2 },
    changes: [
      ...gridChanges.slice(1),
      {
        what: 'more frames than rows',
        inputs: { keep: u8([1, 1, 1]) },
        attributes: { frames: 3 },
        says: /18 rows/,
      },
      { what: 'no qkv', inputs: { qkv: undefined }, says: /'qkv'/ },
      { what: 'heads that do not divide', attributes: { heads: 3 }, says: /3 heads.*12 columns/ },
      { what: 'a mask of other frames', inputs: { keep: u8([1, 1, 1]) }, says: /mask of 2 frames.*\[3\]/ },
      {
        what: 'a mask that hides every frame',
        inputs: { keep: u8([0, 0]) },
        says: /visible frame in clip 0/,
      },
    ],
  },
  detailBranch: {
    inputs: { x: of(12, 4), ...detail },
    attributes: grid,
    changes: [
      ...xChanges,
      { what: 'no kernel', inputs: { 'conv_layers.1.conv2.weight': undefined }, says: /conv2\.weight'/ },
      {
        what: 'a norm of other frames',
        inputs: { 'conv_layers.0.norm2.bias': of(3) },
        says: /2 values of conv_layers\.0\.norm2\.bias for clips of 2 frames.*\[3\]/,
      },
      {
        what: 'a 1x1 kernel',
        inputs: { 'conv_layers.0.conv1.weight': of(2, 2) },
        says: /36 values.*\[2, 2\]/,
      },
      { what: 'epsilon 0', attributes: { epsilon: 0 }, says: /positive epsilon/ },
    ],
  },
  weightedSum: {
    inputs: { a: of(3, 4), b: of(3, 4), w1: of(1), w2: of(1) },
    changes: [
      { what: 'values of another size', inputs: { b: of(3, 3) }, says: /Cannot add.*\[3, 4\].*\[3, 3\]/ },
      { what: 'two weights', inputs: { w1: of(2) }, says: /one value of w1.*\[2\]/ },
    ],
  },
  gatedFeedForward: {
    inputs: { x: of(3, 4), 'first.weight': of(12, 4), 'second.weight': of(4, 6), residual: of(3, 4) },
    changes: [
      { what: 'no x', inputs: { x: undefined }, says: /'x'/ },
      { what: 'a first layer of odd width', inputs: { 'first.weight': of(11, 4) }, says: /do not fit/ },
      { what: 'a short first bias', inputs: { 'first.bias': of(6) }, says: /bias of 12.*\[6\]/ },
      { what: 'a small residual', inputs: { residual: of(3, 3) }, says: /residual/ },
      { what: 'a gradient of another size', gradOutput: of(3, 6), says: /grad/ },
    ],
  },
  concatColumns: {
    inputs: { a: of(3, 4), b: of(3, 2) },
    changes: [{ what: 'other rows', inputs: { b: of(2, 2) }, says: /join.*\[3, 4\].*\[2, 2\]/ }],
  },
  timeEmbedding: {
    inputs: { times: of(3) },
    attributes: { width: 8 },
    changes: [
      { what: 'an odd width', attributes: { width: 7 }, says: /even width.*7/ },
      { what: 'a width of 0', attributes: { width: 0 }, says: /'width'.*0/ },
      { what: 'no times', inputs: { times: undefined }, says: /'times'/ },
    ],
  },
  maskedSquaredError: {
    inputs: { output: of(2, 3, 4), target: of(2, 3, 4), keep: bytes(6) },
    attributes: { clips: 2, frames: 3 },
    changes: [
      { what: 'a target of another size', inputs: { target: of(2, 3, 5) }, says: /\[2, 3, 4\].*\[2, 3, 5\]/ },
      { what: 'frames that do not divide', attributes: { frames: 5 }, says: /10 equal frames/ },
      { what: 'a short mask', inputs: { keep: bytes(5) }, says: /mask of 6 frames.*\[5\]/ },
    ],
  },
  movingAverage: {
    inputs: { average: of(5), value: of(5) },
    changes: [{ what: 'values of another size', inputs: { value: of(4) }, says: /\[5\].*\[4\]/ }],
  },
};
