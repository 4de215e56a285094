// The encoder of T5 (Raffel et al., arXiv 1910.10683) as Hugging Face's T5EncoderModel: no absolute positions
// but a learned bias of the attention scores by relative position, shared by all layers; RMS norms before the
// sub-layers and at the end; no biases; scores are not divided by the root of the head's width.
#pragma once

#include "models/text_encoder.h"

namespace duet {

struct T5Config {
  int64_t vocabSize = 32128;
  int64_t width = 512;              // d_model
  int64_t headSize = 64;            // d_kv; heads * headSize need not be the width
  int64_t intermediateSize = 2048;  // d_ff
  int64_t layers = 6;
  int64_t heads = 8;
  int64_t buckets = 32;
  int64_t maxDistance = 128;
  float layerNormEps = 1e-6f;
  Activation activation = Activation::relu;
  bool gated = false;  // v1.1: act(W0 x) * W1 x in place of act(W x)
};

/// Bucket of a relative position (key minus query), both directions (section 2.1 of the paper).
int64_t relativePositionBucket(int64_t relative, int64_t buckets, int64_t maxDistance);

class T5Encoder final : public TextEncoder {
 public:
  T5Encoder(const T5Config& config, DType compute);

 private:
  struct Layer {
    Parameter before, between;
    FrozenLinear qkv, out, up, gate, down;
  };

  std::optional<std::string> nameOf(const std::string& inFile) const override;
  TextStates forward(Context& context, const TextBatch& batch, bool everything) override;
  Tensor positionBias(Context& context, int64_t length) const;
  Var feed(Context& context, Layer& layer, const Var& x);

  T5Config config_;
  Parameter words_, bias_, norm_;
  std::vector<Layer> layers_;
};

}  // namespace duet
