/** vilt_tiny: the encoder without adapters, every hidden state and the pooled vector, one case a pair of files. */

import { z } from 'zod';
import { Vilt } from '../../models/vilt.js';
import { Comparison, floats, type GoldenCase, type GoldenContext } from '../case.js';
import { batchOf, filesEnding, readSettings, readTensors } from '../files.js';
import { EXACT } from '../tolerance.js';

const distances = z.record(z.string(), z.number()).optional();
const schema = z.looseObject({
  cases: z.record(z.string(), z.looseObject({ max_abs_diff_to_float64: distances })),
});

export async function viltCases(folder: string, { device, threads }: GoldenContext): Promise<GoldenCase[]> {
  const info = await readSettings(schema, folder, 'info.json');
  const names = await filesEnding(folder, '.inputs.safetensors');
  return names.map((name) => ({
    name: `vilt_tiny/${name}`,
    async run() {
      const comparison = new Comparison(this.name);
      const distance = info.cases[name]?.max_abs_diff_to_float64 ?? {};
      const batch = batchOf(await readTensors(folder, `${name}.inputs.safetensors`));
      const expected = await readTensors(folder, `${name}.outputs.safetensors`);
      using model = await Vilt.fromPretrained(folder, { device, threads });
      const actual = await model.hiddenStates(batch, 'none');
      for (const [what, tensor] of Object.entries(expected)) {
        const layer = /^hidden_states\.(\d+)$/.exec(what)?.[1];
        if (layer !== undefined) {
          comparison.close(what, floats(actual.hiddenStates[Number(layer)]), floats(tensor), distance[what]);
        } else if (what === 'last_hidden_state') {
          comparison.close(what, floats(actual.lastHiddenState), floats(tensor), distance[what]);
        } else if (what === 'pooler_output') {
          comparison.close(what, floats(actual.poolerOutput), floats(tensor), distance[what]);
        } else if (what === 'attention_mask_full') {
          comparison.tensor(what, actual.attentionMask.data, tensor.data, EXACT);
        } else if (what === 'patch_index') {
          comparison.tensor(what, actual.patchIndex.data, tensor.data, EXACT);
        } else if (what === 'image_mask') {
          // The mask of the sequence after the text.
          const [rows = 0, length = 0] = tensor.shape;
          const full = actual.attentionMask;
          const text = (full.shape[1] ?? 0) - length;
          const image = Array.from({ length: rows }, (_, row) =>
            Array.from(full.data.subarray(row * (text + length) + text, (row + 1) * (text + length)), Number),
          );
          comparison.tensor(what, image.flat(), tensor.data, EXACT);
        }
      }
      return comparison.outcome();
    },
  }));
}
