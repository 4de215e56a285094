// BERT (Devlin et al., arXiv 1810.04805) as Hugging Face's BertModel without its pooler: word, position and
// type embeddings with a norm, post-norm layers, a mask on the keys. The text tower of Chinese-CLIP is one.
#pragma once

#include "models/text_encoder.h"

namespace duet {

struct BertConfig {
  int64_t vocabSize = 30522;
  int64_t typeVocabSize = 2;
  int64_t maxPositions = 512;
  int64_t hiddenSize = 768;
  int64_t intermediateSize = 3072;
  int64_t layers = 12;
  int64_t heads = 12;
  float layerNormEps = 1e-12f;
  Activation activation = Activation::gelu;
};

class BertEncoder final : public TextEncoder {
 public:
  BertEncoder(const BertConfig& config, DType compute);

 private:
  struct Layer {
    FrozenLinear qkv, out, up, down;
    FrozenNorm between, after;
  };

  std::optional<std::string> nameOf(const std::string& inFile) const override;
  TextStates forward(Context& context, const TextBatch& batch, bool everything) override;

  BertConfig config_;
  Parameter words_, positions_, types_;
  FrozenNorm norm_;
  std::vector<Layer> layers_;
};

}  // namespace duet
