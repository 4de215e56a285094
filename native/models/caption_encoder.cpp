#include "models/caption_encoder.h"

#include <algorithm>

#include "nn/attention.h"
#include "nn/embedding.h"
#include "nn/frame_mask.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace duet {

namespace {

constexpr float kEpsilon = 1e-5f;
constexpr float kDeviation = 0.02f;  // of the initial embeddings

Var normed(Context& c, const Var& x, NormLayer& norm, DType type) {
  return layerNorm(c, x, norm.gamma, norm.beta, kEpsilon, type);
}

}  // namespace

void CaptionEncoderConfig::validate(int64_t width) const {
  const auto atLeast = [](const char* field, int64_t value, int64_t least) {
    require(value >= least, "Expected an integer of at least ", least, " for ", field,
            " of captionEncoder but received ", value);
  };
  atLeast("vocabSize", vocabSize, 2);
  atLeast("maxLength", maxLength, 1);
  atLeast("layers", layers, 1);
  atLeast("heads", heads, 1);
  require(width % heads == 0, "Expected heads of captionEncoder that divide the width of the text (", width,
          ") but received ", heads);
}

std::vector<uint8_t> CaptionTokens::visible(int64_t before) const {
  std::vector<uint8_t> result;
  for (int64_t caption = 0; caption < captions; ++caption) {
    result.insert(result.end(), static_cast<size_t>(before), 1);
    for (int64_t token = 0; token < length; ++token)
      result.push_back(dropped(caption) ||
                       ids[static_cast<size_t>(caption * length + token)] != CaptionEncoder::kPadding);
  }
  return result;
}

CaptionEncoder::CaptionEncoder(ParameterList& list, const CaptionEncoderConfig& config, int64_t width)
    : config_(config), width_(width) {
  const std::string name = "caption_encoder.";
  list.normal(name + "token_embedding.weight", tokenTable_, {config.vocabSize, width}, kDeviation);
  list.normal(name + "position_embedding.weight", positionTable_, {config.maxLength, width}, kDeviation);
  for (int64_t i = 0; i < config.layers; ++i) {
    const std::string at = name + "layers." + std::to_string(i) + ".";
    Layer& layer = *layers_.emplace_back(std::make_unique<Layer>());
    list.norm(at + "layer_norm1", layer.norm1, width);
    list.stacked(at + "self_attn.", {"q_proj", "k_proj", "v_proj"}, layer.qkv, width, width);
    list.linear(at + "self_attn.out_proj", layer.out, width, width);
    list.norm(at + "layer_norm2", layer.norm2, width);
    list.linear(at + "mlp.fc1", layer.first, 4 * width, width);
    list.linear(at + "mlp.fc2", layer.second, width, 4 * width);
  }
  list.norm(name + "final_layer_norm", norm_, width);
}

void CaptionEncoder::check(const CaptionTokens& tokens) const {
  require(tokens.length <= config_.maxLength, "Expected captions of at most ", config_.maxLength,
          " tokens (max_length of caption_encoder) but received ", tokens.length);
  for (int64_t caption = 0; caption < tokens.captions; ++caption) {
    const auto begin = tokens.ids.begin() + caption * tokens.length, end = begin + tokens.length;
    for (auto id = begin; id != end; ++id)
      require(*id >= 0 && *id < config_.vocabSize, "Expected token ids from 0 to ", config_.vocabSize - 1,
              " (vocab_size of caption_encoder) but token ", id - begin, " of caption ", caption, " is ",
              *id);
    require(tokens.dropped(caption) || std::any_of(begin, end, [](int32_t id) { return id != kPadding; }),
            "Expected at least one token in every caption but caption ", caption,
            " is padding (0) only; set dropText for clips without a text");
  }
}

Var CaptionEncoder::forward(Context& c, const CaptionTokens& tokens) {
  check(tokens);
  const int64_t rows = tokens.captions * tokens.length;
  EmbeddingInput words{&tokenTable_, tokens.ids, {}}, places{&positionTable_, {}, {}};
  auto layout = std::make_shared<AttentionLayout>();
  layout->heads = config_.heads;
  layout->keyMask = tokens.visible();
  for (int64_t begin = 0; begin < rows; begin += tokens.length) {
    layout->spans.push_back({begin, begin + tokens.length, begin, begin + tokens.length});
    for (int64_t token = 0; token < tokens.length; ++token)
      places.index.push_back(static_cast<int32_t>(token));
  }
  Var x = embed(c, {std::move(words), std::move(places)}, rows, width_);
  for (const auto& layer : layers_) {
    Layer& l = *layer;
    const Var qkv = linear(c, normed(c, x, l.norm1, c.compute), l.qkv.use, nullptr,
                           {Activation::none, nullptr, c.compute});
    x = linear(c, selfAttention(c, qkv, layout, 0.0f), l.out.use, &l.out.bias,
               {Activation::none, &x, DType::f32});
    x = feedForward(c, normed(c, x, l.norm2, c.compute), l.first.use, &l.first.bias, l.second.use,
                    &l.second.bias, Activation::gelu, x);
  }
  const Var states = normed(c, x, norm_, DType::f32);
  return zeroHiddenFrames(c, states, {tokens.captions, 1, tokens.length, 1},
                          tokens.keep.empty() ? nullptr : tokens.keep.data());
}

}  // namespace duet
