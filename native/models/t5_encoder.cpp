#include "models/t5_encoder.h"

#include <cmath>

#include "core/cancel.h"
#include "core/host_access.h"
#include "nn/embedding.h"
#include "nn/linear.h"
#include "nn/norm.h"
#include "ops/kernels.h"

namespace duet {

T5Encoder::T5Encoder(const T5Config& config, DType compute)
    : TextEncoder(compute), config_(config), layers_(static_cast<size_t>(config.layers)) {
  const int64_t d = config.width, f = config.intermediateSize;
  require(config.buckets >= 4 && config.buckets % 2 == 0,
          "Expected an even number of at least 4 for relative_attention_num_buckets but received ",
          config.buckets);
  require(config.maxDistance > config.buckets / 4, "Expected relative_attention_max_distance above ",
          config.buckets / 4, " but received ", config.maxDistance);
  vocabSize_ = config.vocabSize;
  FrozenParameters& p = parameters_;
  p.table("shared", words_, config.vocabSize, d);
  p.table("encoder.block.0.layer.0.SelfAttention.relative_attention_bias", bias_, config.buckets,
          config.heads);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const std::string name = "encoder.block." + std::to_string(i) + ".layer.",
                      self = name + "0.SelfAttention.", feed = name + "1.DenseReluDense.";
    p.scale(name + "0.layer_norm", layer.before, d);
    p.linear({self + "q", self + "k", self + "v"}, layer.qkv, config.heads * config.headSize, d, false);
    p.linear({self + "o"}, layer.out, d, config.heads * config.headSize, false);
    p.scale(name + "1.layer_norm", layer.between, d);
    p.linear({feed + (config.gated ? "wi_0" : "wi")}, layer.up, f, d, false);
    if (config.gated) p.linear({feed + "wi_1"}, layer.gate, f, d, false);
    p.linear({feed + "wo"}, layer.down, d, f, false);
  }
  p.scale("encoder.final_layer_norm", norm_, d);
}

std::optional<std::string> T5Encoder::nameOf(const std::string& inFile) const {
  if (inFile == "encoder.embed_tokens.weight") return "shared.weight";  // tied
  // A whole T5 has a decoder beside its encoder.
  if (startsWith(inFile, "decoder.") || startsWith(inFile, "lm_head.")) return "";
  return inFile;
}

int64_t relativePositionBucket(int64_t relative, int64_t buckets, int64_t maxDistance) {
  const int64_t half = buckets / 2, exact = half / 2, distance = std::abs(relative);
  int64_t bucket = distance;
  if (distance >= exact) {  // in fp32, as published: exact powers fall on the border of two buckets
    const float share = std::log(static_cast<float>(distance) / static_cast<float>(exact)) /
                        static_cast<float>(std::log(static_cast<double>(maxDistance) / exact));
    bucket = std::min(exact + static_cast<int64_t>(share * static_cast<float>(half - exact)), half - 1);
  }
  return bucket + (relative > 0 ? half : 0);
}

Tensor T5Encoder::positionBias(Context& c, int64_t length) const {
  const int64_t heads = config_.heads;
  Tensor bias = c.tape.empty({heads, length, length});
  readOnHost(bias_.value, [&](const float* of) {
    fillOnHost(bias, [&](float* to) {
      for (int64_t query = 0; query < length; ++query)
        for (int64_t key = 0; key < length; ++key) {
          const int64_t bucket = relativePositionBucket(key - query, config_.buckets, config_.maxDistance);
          for (int64_t head = 0; head < heads; ++head)
            to[(head * length + query) * length + key] = of[bucket * heads + head];
        }
    });
  });
  return bias;
}

/// The second half of a layer: x plus its feed-forward block.
Var T5Encoder::feed(Context& c, Layer& layer, const Var& x) {
  const Var normed = rmsNorm(c, x, layer.between, config_.layerNormEps, c.compute);
  if (!config_.gated)
    return feedForward(c, normed, layer.up.use, nullptr, layer.down.use, nullptr, config_.activation, x);
  const LinearOptions hidden{Activation::none, nullptr, c.compute};
  const LinearOptions activated{config_.activation, nullptr, c.compute};
  const Var product = multiply(c, linear(c, normed, layer.up.use, nullptr, activated),
                               linear(c, normed, layer.gate.use, nullptr, hidden));
  return linear(c, product, layer.down.use, nullptr, {Activation::none, &x, DType::f32});
}

TextStates T5Encoder::forward(Context& c, const TextBatch& batch, bool everything) {
  const auto layout = textLayout(batch, config_.heads);
  layout->scale = 1.0f;
  layout->bias = positionBias(c, batch.length);
  TextStates states;
  Var x = embed(c, {{&words_, {batch.inputIds.begin(), batch.inputIds.end()}, {}}},
                batch.batch * batch.length, config_.width);
  for (Layer& layer : layers_) {
    cancelPoint();
    if (everything) states.hidden.push_back(x.value);
    const Var normed = rmsNorm(c, x, layer.before, config_.layerNormEps, c.compute);
    const Var qkv = linear(c, normed, layer.qkv.use, nullptr, {Activation::none, nullptr, c.compute});
    const Var attended = selfAttention(c, qkv, layout, 0);
    x = linear(c, attended, layer.out.use, nullptr, {Activation::none, &x, DType::f32});
    x = feed(c, layer, x);
  }
  if (everything) {
    states.hidden.push_back(x.value);
    states.positionBias = layout->bias;
  }
  states.last = rmsNorm(c, x, norm_, config_.layerNormEps).value;
  return states;
}

}  // namespace duet
