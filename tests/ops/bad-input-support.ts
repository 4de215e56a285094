// What the lists of bad input share: a sound call of an op, and changes to it that must be refused.

import type { TensorData } from '../../src/native/core.js';
import type { Attributes } from '../support/reference/check.js';
import { f32, u8 } from '../support/reference/numbers.js';

type Inputs = Record<string, TensorData | undefined>;

export interface Change {
  what: string;
  inputs?: Inputs;
  attributes?: Attributes;
  gradOutput?: TensorData;
  /** Part of the message. */
  says: RegExp;
}

export interface Op {
  inputs: Record<string, TensorData>;
  attributes?: Attributes;
  changes: Change[];
}

export const of = (...shape: number[]) => f32(shape, 1);
export const bytes = (...shape: number[]): TensorData => ({
  ...u8(new Array(shape.reduce((a, b) => a * b, 1)).fill(1)),
  shape,
});

/** What goes wrong the same way wherever x is a matrix of values. */
export const matrixChanges: Change[] = [
  { what: 'no x', inputs: { x: undefined }, says: /'x'/ },
  { what: 'x of another type', inputs: { x: bytes(3, 4) }, says: /'x' as f32 but received u8/ },
  {
    what: 'x in bf16',
    inputs: { x: { dtype: 'bf16', shape: [3, 4], data: new Uint16Array(12) } },
    says: /'x' as f32/,
  },
  { what: 'x without columns', inputs: { x: of(3, 0) }, says: /column/ },
  { what: 'x without dimensions', inputs: { x: of() }, says: /column|\[\]/ },
  { what: 'a gradient of another size', gradOutput: of(1, 2), says: /gradient of \[/ },
  { what: 'a gradient of another type', gradOutput: bytes(3, 4), says: /grad/ },
];
