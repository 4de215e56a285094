/** How a ViLT is opened or made. */

import { z } from 'zod';
import type { AnswerVocabulary } from '../data/answers.js';
import type { PictureSpec } from '../data/image-processor.js';
import type { Tokenizer } from '../data/tokenizer.js';
import { computeSchema, type DeviceName, deviceSchema } from '../device.js';
import type { ComputeType } from '../native/core.js';

/** What every way of opening a model takes, with all defaults. */
export const viltOptionsSchema = z.strictObject({
  seed: z.int().min(0).default(0),
  device: deviceSchema,
  compute: computeSchema,
  threads: z.int().min(0).default(0),
  adapters: z.strictObject({ reduction: z.int().min(1).default(16) }).optional(),
});

export type CheckedViltOptions = z.output<typeof viltOptionsSchema>;

/** How a model is opened. */
export interface ViltOptions {
  /** Where it computes. Default `cpu`. */
  device?: DeviceName;
  /**
   * Matrix products in fp32 (default), tf32 (GPUs alone) or bf16, which needs a processor with AVX-512; weights, norms, softmax and
   * losses are fp32 in all.
   */
  compute?: ComputeType;
  /** Threads of the native queue; 0 (default) takes one per physical processor. */
  threads?: number;
  /** Of everything that is drawn: fresh heads, adapters and, for `create`, the encoder. Default 0. */
  seed?: number;
  /** Adapters 0, 1 and 2 in every layer, of width hidden size / reduction (default 16). Absent: no adapters. */
  adapters?: { reduction?: number };
}

/** How a model folder is opened. */
export interface PretrainedOptions extends ViltOptions {
  /** The answers of the head `vqa`: a vocabulary, a list, or a number of classes. Default: those of the folder, if any. */
  answers?: AnswerVocabulary | readonly string[] | number;
  /** The folder's heads are used when the answers are the same (`saved`, default), or all are drawn anew (`fresh`). */
  heads?: 'saved' | 'fresh';
}

/** What a new model is made with. */
export interface CreateOptions extends ViltOptions {
  /** The answers of the head `vqa`: a vocabulary, a list, or a number of classes. Default: no head. */
  answers?: AnswerVocabulary | readonly string[] | number;
  /** Of the questions; at most vocab_size tokens. Default: none, batches bring their ids. */
  tokenizer?: Tokenizer;
  /** How pictures are prepared. Default: shortest edge image_size, sides multiples of 32 or the patch size. */
  pictures?: Partial<PictureSpec>;
}
