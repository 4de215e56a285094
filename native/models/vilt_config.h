// The sizes of a ViLT model (Hugging Face `ViltConfig`) and one encoded batch for it.
#pragma once

#include <cstdint>
#include <span>

namespace duet {

struct ViltConfig {
  int64_t vocabSize = 30522;
  int64_t typeVocabSize = 2;
  int64_t maxPositionEmbeddings = 40;
  int64_t hiddenSize = 768;
  int64_t layers = 12;
  int64_t heads = 12;
  int64_t intermediateSize = 3072;
  int64_t imageSize = 384;
  int64_t patchSize = 32;
  int64_t channels = 3;
  int64_t modalityTypes = 2;
  float layerNormEps = 1e-12f;
  float hiddenDropout = 0.0f;
  float attentionDropout = 0.0f;
  bool qkvBias = true;

  int64_t grid() const { return imageSize / patchSize; }
  /// Throws InvalidArgument naming the field, what was expected and what was received.
  void validate() const;
};

/// Which adapters a pass uses: none, one of them, or the mean of adapter 0 and the frozen copy of the
/// received shared one (adapter 2).
enum class AdapterMode { none, adapter0, adapter1, gated };

/// One encoded batch. Text is padded at the right to L, pictures at the right and bottom to H x W.
struct ViltBatch {
  int64_t batch = 0, textLength = 0, height = 0, width = 0;
  std::span<const int32_t> inputIds;       // B x L
  std::span<const int32_t> tokenTypeIds;   // B x L
  std::span<const uint8_t> attentionMask;  // B x L
  std::span<const float> pixelValues;      // B x channels x H x W
  std::span<const uint8_t> pixelMask;      // B x H x W
  std::span<const float> targets;          // B x classes, soft scores; empty when only evaluated
};

}  // namespace duet
