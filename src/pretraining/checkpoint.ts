/** A checkpoint of a pretraining: `weights/<parameter>` and `optimizer/<key>`. */

import { DuetError } from '../errors.js';
import { isAdapter } from '../models/names.js';
import type { Vilt } from '../models/vilt.js';
import type { TensorData, Tensors } from '../native/core.js';
import type { Checkpoint } from '../run/run-folder.js';

export async function packPretraining(model: Vilt, epoch: number, optimizer: Tensors): Promise<Checkpoint> {
  const tensors: Record<string, TensorData> = {};
  const put = (prefix: string, values: Tensors) => {
    for (const [name, tensor] of Object.entries(model.withShapes(values))) tensors[prefix + name] = tensor;
  };
  put('weights/', await model.read(model.names((name) => !isAdapter(name))));
  put('optimizer/', optimizer);
  return { tensors, metadata: { duet: JSON.stringify({ format: 'duet-pretraining-1', epoch }) } };
}

/** @throws DuetError CORRUPT for a file of another kind */
export function unpackPretraining(checkpoint: Checkpoint & { path: string; round: number }): {
  epoch: number;
  weights: Tensors;
  optimizer: Tensors;
} {
  if (!checkpoint.metadata.duet?.includes('duet-pretraining-1')) {
    throw new DuetError(
      'CORRUPT',
      `Expected a checkpoint of a pretraining in ${checkpoint.path} but found another file`,
    );
  }
  const part = (prefix: string): Tensors => {
    const values: Tensors = {};
    for (const [key, { data }] of Object.entries(checkpoint.tensors)) {
      if (key.startsWith(prefix) && data instanceof Float32Array) values[key.slice(prefix.length)] = data;
    }
    return values;
  };
  return { epoch: checkpoint.round, weights: part('weights/'), optimizer: part('optimizer/') };
}
