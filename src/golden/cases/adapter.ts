/** adapter: the bottleneck adapter forward and backward, one case a mode (single or gated) and call (how it is wired). */

import { z } from 'zod';
import { resolveDevice } from '../../device.js';
import type { TensorData } from '../../native/core.js';
import { native } from '../../native.js';
import { Comparison, floats, type GoldenCase, type GoldenContext } from '../case.js';
import { readSettings, readTensors, type TensorMap, under } from '../files.js';

const schema = z.looseObject({
  layer_norm_eps: z.number().default(1e-12),
  max_abs_diff_to_float64: z.number().optional(),
});

/** `single` uses the adapter `adapter`, `single_adapter_1` the one named, `gated_0_2` the mean of two. */
function adaptersOf(mode: string): { mode: 'single' | 'gated'; first: string; second?: string } | undefined {
  const gated = /^gated_(\d+)_(\d+)$/.exec(mode);
  if (gated) return { mode: 'gated', first: `adapter_${gated[1]}`, second: `adapter_${gated[2]}` };
  if (mode === 'single') return { mode: 'single', first: 'adapter' };
  const single = /^single_(adapter_\d+)$/.exec(mode);
  return single?.[1] ? { mode: 'single', first: single[1] } : undefined;
}

export async function adapterCases(folder: string, context: GoldenContext): Promise<GoldenCase[]> {
  const info = await readSettings(schema, folder, 'info.json');
  const inputs = await readTensors(folder, 'inputs.safetensors');
  const outputs = await readTensors(folder, 'outputs.safetensors');
  const kinds = new Set(Object.keys(outputs).map((name) => name.split('.').slice(0, 2).join('.')));
  return [...kinds].sort().map((kind) => ({
    name: `adapter/${kind}`,
    async run() {
      const [mode = '', call = ''] = kind.split('.');
      const adapters = adaptersOf(mode);
      if (!adapters || !['vilt', 'separate', 'bert'].includes(call)) {
        return { name: this.name, status: 'skipped', compared: 0, reason: 'not a case this version knows' };
      }
      const comparison = new Comparison(this.name);
      const attributes: Record<string, string | number> = { ...adapters, call, epsilon: info.layer_norm_eps };
      const actual = await native.runOp(
        'adapter',
        inputsOf(inputs, adapters, call),
        attributes,
        inputs.grad_out,
        resolveDevice(context.device),
      );
      for (const [what, expected] of Object.entries(under(outputs, `${kind}.`))) {
        comparison.close(what, floats(actual[ourName(what)]), floats(expected), info.max_abs_diff_to_float64);
      }
      return comparison.outcome();
    },
  }));
}

function inputsOf(inputs: TensorMap, used: { first: string; second?: string }, call: string): TensorMap {
  const chosen: Record<string, TensorData | undefined> = {};
  for (const [name, tensor] of Object.entries(inputs)) {
    if (
      [used.first, used.second].some(
        (adapter) => adapter && new RegExp(`^${adapter}_(down|up)\\.`).test(name),
      )
    ) {
      chosen[name] = tensor;
    }
  }
  if (call === 'bert') {
    chosen.x = inputs['bert.dense_out'];
    chosen.residual = inputs['bert.input_tensor'];
    chosen['layerNorm.weight'] = inputs['bert.LayerNorm.weight'];
    chosen['layerNorm.bias'] = inputs['bert.LayerNorm.bias'];
  } else {
    chosen.x = inputs.x;
    if (call === 'separate') chosen.residual = inputs.residual;
  }
  return Object.fromEntries(
    Object.entries(chosen).filter((entry): entry is [string, TensorData] => entry[1] !== undefined),
  );
}

function ourName(what: string): string {
  return what
    .replace('grad.dense_out', 'grad.x')
    .replace('grad.input_tensor', 'grad.residual')
    .replace('grad.LayerNorm.', 'grad.layerNorm.');
}
