/** image_processor and tokenizer: pictures and questions as Hugging Face's library prepares them. */

import { join } from 'node:path';
import { z } from 'zod';
import { ImageProcessor } from '../../data/image-processor.js';
import { Tokenizer } from '../../data/tokenizer.js';
import { Comparison, floats, type GoldenCase } from '../case.js';
import { readSettings, readTensors } from '../files.js';
import { EXACT, PICTURES } from '../tolerance.js';

const triple = z.tuple([z.number(), z.number(), z.number()]);
const pictureSchema = z.looseObject({
  cases: z.record(
    z.string(),
    z.looseObject({
      files: z.array(z.string()),
      shortest_edge: z.int(),
      longest_edge: z.int().optional(),
      size_divisor: z.int().optional(),
      image_mean: triple.optional(),
      image_std: triple.optional(),
      rescale_factor: z.number().optional(),
      resized_hw: z.array(z.tuple([z.int(), z.int()])).default([]),
    }),
  ),
});

export async function imageProcessorCases(folder: string): Promise<GoldenCase[]> {
  const info = await readSettings(pictureSchema, folder, 'info.json');
  return Object.entries(info.cases).map(([name, about]) => ({
    name: `image_processor/${name}`,
    async run() {
      const comparison = new Comparison(this.name);
      const expected = await readTensors(folder, `${name}.safetensors`);
      const given = {
        shortestEdge: about.shortest_edge,
        longestEdge: about.longest_edge,
        sizeDivisor: about.size_divisor,
        mean: about.image_mean,
        std: about.image_std,
        rescaleFactor: about.rescale_factor,
      };
      const spec = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
      const processor = new ImageProcessor(spec);
      const files = about.files.map((file) => join(folder, file));
      const prepared = await processor.prepare(files);
      comparison.tensor('pixel_values', prepared.pixelValues, floats(expected.pixel_values), PICTURES);
      if (expected.pixel_mask)
        comparison.tensor('pixel_mask', prepared.pixelMask, expected.pixel_mask.data, EXACT);
      for (const [index, [height, width]] of about.resized_hw.entries()) {
        const picture = await processor.resized(files[index] ?? '');
        comparison.tensor(
          `size of ${about.files[index]}`,
          [picture.height, picture.width],
          [height, width],
          EXACT,
        );
      }
      return comparison.outcome();
    },
  }));
}

const ids = z.array(z.array(z.int()));
const tokenizerSchema = z.looseObject({
  max_length: z.int(),
  do_lower_case: z.boolean().default(true),
  texts: z.array(z.string()),
  tokens: z.array(z.array(z.string())).default([]),
  input_ids: ids,
  attention_mask: ids.default([]),
  token_type_ids: ids.default([]),
});

export async function tokenizerCases(folder: string): Promise<GoldenCase[]> {
  return [
    {
      name: 'tokenizer/cases',
      async run() {
        const comparison = new Comparison(this.name);
        const cases = await readSettings(tokenizerSchema, folder, 'cases.json');
        const tokenizer = await Tokenizer.load(folder, { lowerCase: cases.do_lower_case });
        const encoded = tokenizer.encode(cases.texts, { maxLength: cases.max_length, padTo: 'max' });
        const row = (values: Int32Array | Uint8Array, index: number) =>
          values.subarray(index * encoded.length, (index + 1) * encoded.length);
        for (const [index, text] of cases.texts.entries()) {
          const what = JSON.stringify(text.slice(0, 30));
          comparison.tensor(
            `ids of ${what}`,
            row(encoded.inputIds, index),
            cases.input_ids[index] ?? [],
            EXACT,
          );
          const tokens = cases.tokens[index]?.map((token) => tokenizer.vocabulary.indexOf(token));
          if (tokens) comparison.tensor(`tokens of ${what}`, row(encoded.inputIds, index), tokens, EXACT);
          const mask = cases.attention_mask[index];
          if (mask) comparison.tensor(`mask of ${what}`, row(encoded.attentionMask, index), mask, EXACT);
          const types = cases.token_type_ids[index];
          if (types) comparison.tensor(`types of ${what}`, row(encoded.tokenTypeIds, index), types, EXACT);
        }
        return comparison.outcome();
      },
    },
  ];
}
