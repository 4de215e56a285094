/** How an update's values are written for the way to the server. */

import type { TensorData, Tensors } from '../../native/core.js';

/** One encoding of updates, known to both sides by its name. */
export interface UpdateCodec {
  readonly name: string;
  /** @param received the shared parameters this update began from */
  encode(values: Tensors, received: Tensors): Record<string, TensorData>;
  decode(encoded: Record<string, TensorData>, received: Tensors): Tensors;
}

/** Values as they are. */
export const fp32: UpdateCodec = {
  name: 'fp32',
  encode: (values) => {
    const entries = Object.entries(values).map(([name, data]): [string, TensorData] => [
      name,
      { dtype: 'f32', shape: [data.length], data },
    ]);
    return Object.fromEntries(entries);
  },
  decode: (encoded) => {
    const floats = Object.entries(encoded).filter(([, { dtype }]) => dtype === 'f32');
    return Object.fromEntries(floats.map(([name, { data }]) => [name, data as Float32Array]));
  },
};
