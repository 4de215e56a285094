/** kl_loss: distillation and classification loss with their gradients, one case a shape and kind of logits. */

import { z } from 'zod';
import { resolveDevice } from '../../device.js';
import { native } from '../../native.js';
import { Comparison, floats, type GoldenCase, type GoldenContext } from '../case.js';
import { readSettings, readTensors, type TensorMap } from '../files.js';
import { FACTOR, HALF_BIT, RELATIVE, relativeTolerance } from '../tolerance.js';

const schema = z.looseObject({
  temperature: z.number(),
  softmax_dim: z.record(z.string(), z.int()).default({}),
  scalars: z.record(z.string(), z.object({ value: z.number(), float64: z.number() })).default({}),
  max_abs_grad_diff_to_float64: z.number().optional(),
});

const PARTS = ['kl', 'bce', 'combined'] as const;

export async function klLossCases(folder: string, context: GoldenContext): Promise<GoldenCase[]> {
  const info = await readSettings(schema, folder, 'info.json');
  const inputs = await readTensors(folder, 'inputs.safetensors');
  const outputs = await readTensors(folder, 'outputs.safetensors');
  // A divergence near zero is a difference of terms of the size of the squared temperature.
  const smallest = FACTOR * HALF_BIT * info.temperature ** 2;
  const names = Object.keys(inputs)
    .filter((name) => name.endsWith('.output'))
    .map((name) => name.slice(0, -'.output'.length));
  return names.sort().map((name) => ({
    name: `kl_loss/${name}`,
    async run() {
      const comparison = new Comparison(this.name);
      const [output, target, labels] = ['output', 'target', 'labels'].map(
        (part) => inputs[`${name}.${part}`],
      );
      if (!output || !target)
        return { name: this.name, status: 'fail', compared: 0, reason: 'its inputs are not there' };
      // A single one may be near float64 by luck: each is held to the largest distance of the three.
      const own = PARTS.map((part) => info.scalars[`${name}.${part}`]).filter(
        (scalar) => scalar !== undefined,
      );
      const relative = own.length > 0 ? relativeTolerance(own) : RELATIVE;
      const axis = info.softmax_dim[name.split('.')[0] ?? ''] ?? publishedAxis(output.shape);
      for (const part of PARTS) {
        const loss = outputs[`${name}.${part}`];
        const gradient = outputs[`${name}.${part}_grad`];
        if (!loss) continue;
        const attributes = { temperature: info.temperature, axis, part };
        const given: TensorMap = labels ? { output, target, labels } : { output, target };
        const actual = await native.runOp(
          'distillation_loss',
          given,
          attributes,
          undefined,
          resolveDevice(context.device),
        );
        const expected = floats(loss)[0] ?? Number.NaN;
        comparison.scalar(
          part,
          floats(actual.loss)[0],
          expected,
          Math.max(relative * Math.abs(expected), smallest),
        );
        if (gradient) {
          const distance = info.max_abs_grad_diff_to_float64;
          comparison.close(`${part}_grad`, floats(actual['grad.output']), floats(gradient), distance);
        }
      }
      return comparison.outcome();
    },
  }));
}

/** The last axis if it is longer than 3000, otherwise axis 1. */
function publishedAxis(shape: number[]): number {
  return (shape.at(-1) ?? 0) > 3000 ? -1 : 1;
}
