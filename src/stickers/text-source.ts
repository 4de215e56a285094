/** Where the network's text states come from: one or two frozen pretrained encoders (or see `CaptionText`). */

import { PretrainedTokenizer } from '../data/text-tokenizer.js';
import { DuetError } from '../errors.js';
import { FrozenTextEncoder, type TextEncoderOptions } from '../models/text-encoder.js';
import { readTextEncoderConfig } from '../models/text-encoder-config.js';

/** The texts of a batch as the network takes them. */
export interface CaptionInput {
  /** States or ids of one text. */
  textTokens: number;
  /** [B * textTokens * width] */
  text?: Float32Array;
  /** States of one text of the second encoder. */
  t5Tokens?: number;
  /** [B * t5Tokens * t5Width] */
  t5?: Float32Array;
  /** [B * textTokens] ids, for networks with a text encoder of their own. */
  tokens?: Int32Array;
}

/** How to open the same source again; plain data for a run folder. */
export interface TextSourceSettings {
  /** Folder of a CLIP, BERT or T5 encoder. */
  encoder: string;
  /** Folder of a second encoder, whose states the network projects. */
  second?: string | undefined;
  /** Tokens every text is cut or padded to. */
  length?: number | undefined;
}

/**
 * Where the network's text states come from: words for a text encoder that is trained with it, or one or two frozen
 * pretrained encoders.
 *
 * As published (RDTF, arXiv 2503.17735) the first encoder's states enter the network as they are and have the width
 * of its cross attention; those of a second one (T5) are projected by the network and stand before them.
 */
export interface TextSource {
  /** Tokens of every text, and of every second text (0: there is none). */
  readonly tokens: { text: number; t5: number };
  /** The states or ids of texts. */
  encode(captions: readonly string[], options?: { signal?: AbortSignal | undefined }): Promise<CaptionInput>;
  /** Names what decides the states; a resumed run must have the same. */
  fingerprint(): Promise<string>;
  /** Frees the native memory. */
  dispose(): void;
}

/** Frozen encoders; the states of a caption are computed once and kept. */
export class PretrainedText implements TextSource {
  readonly settings: TextSourceSettings;
  readonly tokens: { text: number; t5: number };
  readonly #first: FrozenTextEncoder;
  readonly #second: FrozenTextEncoder | undefined;

  private constructor(
    settings: TextSourceSettings,
    first: FrozenTextEncoder,
    second: FrozenTextEncoder | undefined,
  ) {
    this.settings = settings;
    this.tokens = { text: first.length, t5: second?.length ?? 0 };
    this.#first = first;
    this.#second = second;
  }

  /**
   * Opens the encoders and checks that their widths fit the network.
   * @throws DuetError INVALID_ARGUMENT for widths that do not fit, NOT_FOUND without a tokenizer; otherwise as `FrozenTextEncoder.fromPretrained`
   */
  static async open(
    settings: TextSourceSettings,
    widths: { text: number; t5: number | null },
    options: Pick<TextEncoderOptions, 'device' | 'compute' | 'threads'> = {},
  ): Promise<PretrainedText> {
    const { encoder, second, length } = settings;
    if ((second === undefined) !== (widths.t5 === null)) {
      const [expected, received] =
        widths.t5 === null ? ['no second text encoder', second] : ['a second text encoder', 'none'];
      throw new DuetError(
        'INVALID_ARGUMENT',
        `Expected ${expected} for a network with t5_dim ${widths.t5} but received ${received}`,
      );
    }
    const given = { ...options, ...(length !== undefined && { length }) };
    const opened: FrozenTextEncoder[] = [];
    try {
      for (const [folder, width, name] of [
        [encoder, widths.text, 'cross_attention_dim'],
        [second, widths.t5, 't5_dim'],
      ] as const) {
        if (folder === undefined) continue;
        const tokenizer = await PretrainedTokenizer.open(folder, (await readTextEncoderConfig(folder)).kind);
        const model = await FrozenTextEncoder.fromPretrained(folder, { ...given, tokenizer });
        opened.push(model);
        if (model.width !== width) {
          throw new DuetError(
            'INVALID_ARGUMENT',
            `Expected a text encoder of width ${width} (${name} of the network) but ${folder} has ${model.width}; choose another encoder or change ${name}`,
          );
        }
      }
      return new PretrainedText(settings, opened[0] as FrozenTextEncoder, opened[1]);
    } catch (error) {
      for (const model of opened) model.dispose();
      throw error;
    }
  }

  async encode(
    captions: readonly string[],
    { signal }: { signal?: AbortSignal | undefined } = {},
  ): Promise<CaptionInput> {
    const options = signal ? { signal } : {};
    const { states, length } = await this.#first.encode(captions, options);
    if (!this.#second) return { textTokens: length, text: states };
    const second = await this.#second.encode(captions, options);
    return { textTokens: length, text: states, t5Tokens: second.length, t5: second.states };
  }

  async fingerprint(): Promise<string> {
    const parts = [await this.#first.fingerprint(), await this.#second?.fingerprint()];
    return parts.filter((part) => part !== undefined).join('+');
  }

  dispose(): void {
    this.#first.dispose();
    this.#second?.dispose();
  }
}
