// The text model of CLIP (Radford et al., arXiv 2103.00020) as Hugging Face's CLIPTextModel: token and
// position embeddings, pre-norm layers with a causal mask, a final layer norm.
#pragma once

#include "models/text_encoder.h"

namespace duet {

struct ClipTextConfig {
  int64_t vocabSize = 49408;
  int64_t hiddenSize = 512;
  int64_t intermediateSize = 2048;
  int64_t layers = 12;
  int64_t heads = 8;
  int64_t maxPositions = 77;
  float layerNormEps = 1e-5f;
  Activation activation = Activation::quickGelu;
  /// The pooled vector is the state of the first such token; 2 means the largest id, as older files have it.
  int64_t eosTokenId = 2;
};

class ClipText final : public TextEncoder {
 public:
  ClipText(const ClipTextConfig& config, DType compute);

 private:
  struct Layer {
    FrozenNorm before, between;
    FrozenLinear qkv, out, up, down;
  };

  std::optional<std::string> nameOf(const std::string& inFile) const override;
  TextStates forward(Context& context, const TextBatch& batch, bool everything) override;

  ClipTextConfig config_;
  Parameter tokens_, positions_;
  std::vector<Layer> layers_;
  FrozenNorm norm_;
};

}  // namespace duet
