/** Captions as token ids, for the small text encoder that is a part of the network and is trained with it. */

import type { CaptionVocabulary } from './caption-vocabulary.js';
import type { CaptionInput, TextSource } from './text-source.js';

/** Most tokens of a caption; longer ones are cut. */
const MOST_TOKENS = 48;
const FEWEST_TOKENS = 8;

export class CaptionText implements TextSource {
  readonly tokens: { text: number; t5: number };

  /** @param length tokens every caption is cut or padded to */
  constructor(
    readonly vocabulary: CaptionVocabulary,
    readonly length: number,
  ) {
    this.tokens = { text: length, t5: 0 };
  }

  /** Enough tokens for the longest of these captions, within limits. */
  static lengthFor(vocabulary: CaptionVocabulary, captions: readonly string[]): number {
    const { attentionMask } = vocabulary.encode(captions, MOST_TOKENS);
    let longest = FEWEST_TOKENS;
    for (let row = 0; row < captions.length; row++) {
      const used = attentionMask
        .subarray(row * MOST_TOKENS, (row + 1) * MOST_TOKENS)
        .reduce((sum, one) => sum + one, 0);
      longest = Math.max(longest, used);
    }
    return longest;
  }

  async encode(captions: readonly string[]): Promise<CaptionInput> {
    const { inputIds } = this.vocabulary.encode(captions, this.length);
    return { textTokens: this.length, tokens: Int32Array.from(inputIds) };
  }

  async fingerprint(): Promise<string> {
    return `captions of ${this.length} tokens: ${this.vocabulary.tokens.join(' ')}`;
  }

  dispose(): void {}
}
