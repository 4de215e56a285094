/** Frozen text encoders from Hugging Face's model folders. */

import { dirname } from 'node:path';
import { z } from 'zod';
import { requireFunction, requireList, requireObject, requireText } from '../arguments.js';
import {
  noTokenizer,
  PretrainedTokenizer,
  type TextEncoderKind,
  type TextTokenizer,
} from '../data/text-tokenizer.js';
import { computeSchema, type DeviceName, deviceSchema, resolveDevice } from '../device.js';
import { DuetError, throwIfAborted } from '../errors.js';
import type { ComputeType } from '../native/core.js';
import type { NativeTextEncoder, TextStates, TokenBatch } from '../native/stickers.js';
import { guarded, native } from '../native.js';
import { validated } from '../validation.js';
import { fileFingerprints, settingsFingerprint } from './folder.js';
import { readTextEncoderConfig, type TextEncoderConfig } from './text-encoder-config.js';
import { weightFiles } from './weight-files.js';

const optionsSchema = z.strictObject({
  device: deviceSchema,
  compute: computeSchema,
  threads: z.int().min(0).default(0),
  length: z.int().min(2).optional(),
  maskPadding: z.boolean().optional(),
  cacheBytes: z
    .int()
    .min(0)
    .default(256 * 2 ** 20),
});

/** How a text encoder is opened. */
export interface TextEncoderOptions {
  /** Where it computes. Default `cpu`. */
  device?: DeviceName;
  /** Products in fp32 (default), tf32 (GPUs alone) or bf16, which on the CPU needs AVX-512. */
  compute?: ComputeType;
  /** 0 (default) takes one per physical processor. */
  threads?: number;
  /** Tokens every text is cut or padded to. Default: all positions of CLIP (77), otherwise 77 or as many as there are. */
  length?: number;
  /** Whether padding is hidden from attention. Default: for BERT, as published. */
  maskPadding?: boolean;
  /** States kept for captions seen before. Default 256 MiB; 0 keeps none. */
  cacheBytes?: number;
  /** Instead of the folder's own (or that of a `tokenizer` folder beside it, as diffusers has it). */
  tokenizer?: TextTokenizer;
}

/** States of B texts. */
export interface EncodedCaptions {
  /** Texts. */
  batch: number;
  /** Tokens of each text. */
  length: number;
  /** Of one state. */
  width: number;
  /** [B, length, width] */
  states: Float32Array;
  /** [B, length], 0 on padding */
  attentionMask: Uint8Array;
}

interface CachedCaption {
  states: Float32Array;
  mask: Uint8Array;
}

/** Tokens of one native call; between calls an AbortSignal is looked at. */
const TOKENS_AT_ONCE = 2048;

/**
 * A frozen text encoder: CLIP's text model (arXiv 2103.00020), BERT (arXiv 1810.04805; also the text tower of
 * Chinese-CLIP) or the encoder of T5 (arXiv 1910.10683), from Hugging Face's model folders. It owns native memory:
 * call `dispose()`, or declare it with `using`.
 *
 * A caption is encoded once: its states are kept until `cacheBytes` are full (the least recently used go first). As
 * in the published training texts are padded to one length and the states of padding are part of the result; BERT's
 * attention does not look at padding, CLIP's and T5's does.
 */
export class FrozenTextEncoder {
  /** Architecture. */
  readonly kind: TextEncoderKind;
  /** Of one state. */
  readonly width: number;
  /** Tokens every text is cut or padded to. */
  readonly length: number;
  /** Whether padding is hidden from attention. */
  readonly maskPadding: boolean;
  /** The folder's own or the one given; undefined where there is none. */
  readonly tokenizer: TextTokenizer | undefined;
  /** Sizes. */
  readonly config: TextEncoderConfig;
  #native: NativeTextEncoder | undefined;
  readonly #files: readonly string[];
  readonly #cacheBytes: number;
  readonly #cache = new Map<string, CachedCaption>();
  #cachedBytes = 0;

  private constructor(
    config: TextEncoderConfig,
    options: z.output<typeof optionsSchema>,
    files: readonly string[],
    tokenizer: TextTokenizer | undefined,
  ) {
    const most = config.maxLength ?? Number.MAX_SAFE_INTEGER;
    const length = options.length ?? (config.kind === 'clip' ? most : Math.min(77, most));
    if (length > most) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected length of at most ${most} (the positions of this encoder) but received ${length}`,
      );
    }
    this.config = config;
    this.kind = config.kind;
    this.width = config.shape.width;
    this.length = length;
    this.maskPadding = options.maskPadding ?? config.kind === 'bert';
    this.tokenizer = tokenizer;
    this.#files = files;
    this.#cacheBytes = options.cacheBytes;
    const { compute, threads } = options;
    const device = resolveDevice(options.device);
    this.#native = guarded(
      () => new native.TextEncoder(config.kind, config.shape, { compute, threads, device }),
    );
  }

  /**
   * Opens a model folder: config.json, model.safetensors (or parts with an index) and, for `encode`, its tokenizer:
   * tokenizer.json, for BERT vocab.txt as well, for CLIP vocab.json and merges.txt as well.
   * @throws DuetError NOT_FOUND, CORRUPT, UNSUPPORTED (another architecture), INVALID_ARGUMENT (tensors that do not fit the
   *   config; their names are listed)
   */
  static async fromPretrained(folder: string, options: TextEncoderOptions = {}): Promise<FrozenTextEncoder> {
    const { tokenizer, ...rest } = requireObject(options, 'options');
    requireText(folder, 'folder');
    if (tokenizer !== undefined)
      requireFunction(requireObject(tokenizer, 'tokenizer').encode, 'encode of tokenizer');
    const settings = validated(optionsSchema, rest, 'FrozenTextEncoder.fromPretrained');
    const config = await readTextEncoderConfig(folder);
    const files = await weightFiles(folder);
    const found = tokenizer ?? (await PretrainedTokenizer.find(folder, config.kind));
    const encoder = new FrozenTextEncoder(config, settings, files, found);
    try {
      await encoder.#call((model) => model.load(files));
      return encoder;
    } catch (error) {
      encoder.dispose();
      throw error;
    }
  }

  /**
   * The states of texts, each computed once.
   * @throws DuetError NOT_FOUND without a tokenizer, CANCELLED
   */
  async encode(texts: readonly string[], options: { signal?: AbortSignal } = {}): Promise<EncodedCaptions> {
    const { length, width } = this;
    requireList(texts, 'texts', requireText);
    const { signal } = requireObject(options, 'options');
    throwIfAborted(signal, 'Encoding of captions');
    const captions = new Map<string, CachedCaption>();
    const fresh: string[] = [];
    for (const text of new Set(texts)) {
      const known = this.#cached(text);
      if (known) captions.set(text, known);
      else fresh.push(text);
    }
    const atOnce = Math.max(1, Math.floor(TOKENS_AT_ONCE / length));
    for (let begin = 0; begin < fresh.length; begin += atOnce) {
      throwIfAborted(signal, 'Encoding of captions');
      const part = fresh.slice(begin, begin + atOnce);
      for (const [index, caption] of (await this.#encodeFresh(part)).entries()) {
        captions.set(part[index] as string, caption);
        this.#keep(part[index] as string, caption);
      }
    }
    const states = new Float32Array(texts.length * length * width);
    const attentionMask = new Uint8Array(texts.length * length);
    for (const [index, text] of texts.entries()) {
      const caption = captions.get(text) as CachedCaption;
      states.set(caption.states, index * length * width);
      attentionMask.set(caption.mask, index * length);
    }
    return { batch: texts.length, length, width, states, attentionMask };
  }

  /**
   * Token ids to states, without tokenizer and cache.
   * @param everything hidden states of every layer too
   * @throws DuetError INVALID_ARGUMENT for ids or sizes that do not fit
   */
  encodeTokens(tokens: TokenBatch, everything = false): Promise<TextStates> {
    return this.#call((model) => model.encode(tokens, everything));
  }

  /** Names sizes, weights and vocabulary: SHA-256 of the settings that matter and of the files. */
  async fingerprint(): Promise<string> {
    const { kind, maskPadding } = this;
    const settings = settingsFingerprint({ kind, maskPadding, shape: this.config.shape });
    const vocabulary = this.tokenizer instanceof PretrainedTokenizer ? this.tokenizer.files : [];
    return [settings, ...(await fileFingerprints([...this.#files, ...vocabulary]))].join('+');
  }

  /** Bytes of weights with their packed copies, the most that activations have taken, and of kept states. */
  memory(): { parameterBytes: number; arenaPeakBytes: number; cachedBytes: number } {
    return { ...this.#call((model) => model.memory()), cachedBytes: this.#cachedBytes };
  }

  /** Calls that have not settled reject with CANCELLED. */
  cancel(): void {
    this.#native?.cancel();
  }

  /** Frees the native memory and the kept states. Calls afterwards throw; a second dispose does nothing. */
  dispose(): void {
    this.#native?.dispose();
    this.#native = undefined;
    this.#cache.clear();
    this.#cachedBytes = 0;
  }

  /** True once `dispose` was called. */
  get disposed(): boolean {
    return this.#native === undefined;
  }

  /** As `dispose`, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  async #encodeFresh(texts: readonly string[]): Promise<CachedCaption[]> {
    if (!this.tokenizer) throw noTokenizer(dirname(this.#files[0] as string));
    const tokens = this.tokenizer.encode(texts, this.length);
    const { attentionMask, ...seen } = tokens;
    const { lastHiddenState } = await this.encodeTokens(this.maskPadding ? tokens : seen);
    const states = lastHiddenState.data as Float32Array;
    const size = this.length * this.width;
    return texts.map((_, index) => ({
      states: states.slice(index * size, (index + 1) * size),
      mask: attentionMask.slice(index * this.length, (index + 1) * this.length),
    }));
  }

  #cached(text: string): CachedCaption | undefined {
    const known = this.#cache.get(text);
    if (known) {
      this.#cache.delete(text); // the newest place
      this.#cache.set(text, known);
    }
    return known;
  }

  #keep(text: string, caption: CachedCaption): void {
    const bytes = caption.states.byteLength + caption.mask.byteLength;
    if (bytes > this.#cacheBytes || this.disposed || this.#cache.has(text)) return;
    this.#cache.set(text, caption);
    this.#cachedBytes += bytes;
    for (const oldest of this.#cache.keys()) {
      if (this.#cachedBytes <= this.#cacheBytes) break;
      this.#cache.delete(oldest);
      this.#cachedBytes -= bytes; // all have one size
    }
  }

  #call<T>(work: (model: NativeTextEncoder) => T): T {
    const model = this.#native;
    if (!model) {
      throw new DuetError(
        'INVALID_ARGUMENT',
        'Expected a live text encoder but this one has been disposed of',
      );
    }
    return guarded(() => work(model));
  }
}
