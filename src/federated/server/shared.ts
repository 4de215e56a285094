/** The shared parameters as they are sent: one body that is served to everyone, and views into it. */

import { createHash } from 'node:crypto';
import { DuetError } from '../../errors.js';
import type { TensorData, Tensors } from '../../native/core.js';
import { decodeBody, encodeBody } from './safetensors.js';
import { valuesOf } from './uploads.js';

export class SharedParameters {
  readonly body: Uint8Array<ArrayBuffer>;
  /** SHA-256 of the body, hex. */
  readonly hash: string;
  /** Views into the body. */
  readonly tensors: Record<string, TensorData>;
  readonly values: Tensors;

  /** @throws DuetError INVALID_ARGUMENT for anything but f32 tensors */
  constructor(tensors: Record<string, TensorData>) {
    if (Object.keys(tensors).length === 0)
      throw new DuetError('INVALID_ARGUMENT', 'Expected shared parameters to begin with but received none');
    for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
      const size = shape.reduce((product, edge) => product * edge, 1);
      if (dtype === 'f32' && data instanceof Float32Array && data.length === size) continue;
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected f32 values for shared parameter ${name} but received ${dtype} of shape ${shape.join(' x ')} with ${data.length} values`,
      );
    }
    this.body = encodeBody(tensors);
    this.hash = createHash('sha256').update(this.body).digest('hex');
    this.tensors = decodeBody(this.body, 'the shared parameters').tensors;
    this.values = valuesOf(this.tensors);
  }

  /** The same parameters with other values. */
  with(values: Tensors): SharedParameters {
    const entries = Object.entries(this.tensors).map(([name, { shape }]): [string, TensorData] => {
      return [name, { dtype: 'f32', shape, data: values[name] as Float32Array }];
    });
    return new SharedParameters(Object.fromEntries(entries));
  }

  /** Those whose names are wanted. */
  pick(wanted: (name: string) => boolean): Record<string, TensorData> {
    return Object.fromEntries(Object.entries(this.tensors).filter(([name]) => wanted(name)));
  }
}
