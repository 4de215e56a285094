#include "models/clip_text.h"

#include <algorithm>

#include "core/cancel.h"
#include "nn/embedding.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace duet {

ClipText::ClipText(const ClipTextConfig& config, DType compute)
    : TextEncoder(compute), config_(config), layers_(static_cast<size_t>(config.layers)) {
  const int64_t d = config.hiddenSize;
  require(config.heads > 0 && d % config.heads == 0, "Expected hidden_size divisible by num_attention_heads ",
          "but received ", d, " and ", config.heads);
  vocabSize_ = config.vocabSize;
  longest_ = config.maxPositions;
  FrozenParameters& p = parameters_;
  p.table("embeddings.token_embedding", tokens_, config.vocabSize, d);
  p.table("embeddings.position_embedding", positions_, config.maxPositions, d);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const std::string name = "encoder.layers." + std::to_string(i) + ".", attention = name + "self_attn.";
    p.norm(name + "layer_norm1", layer.before, d);
    p.linear({attention + "q_proj", attention + "k_proj", attention + "v_proj"}, layer.qkv, d, d);
    p.linear({attention + "out_proj"}, layer.out, d, d);
    p.norm(name + "layer_norm2", layer.between, d);
    p.linear({name + "mlp.fc1"}, layer.up, config.intermediateSize, d);
    p.linear({name + "mlp.fc2"}, layer.down, d, config.intermediateSize);
  }
  p.norm("final_layer_norm", norm_, d);
}

std::optional<std::string> ClipText::nameOf(const std::string& inFile) const {
  const std::string name = withoutPrefix(inFile, "text_model.");
  // A whole CLIP has a picture tower and projections beside its text model.
  for (const char* other : {"vision_model.", "visual_projection.", "text_projection."})
    if (startsWith(name, other)) return "";
  if (name == "embeddings.position_ids" || name == "logit_scale") return "";
  return name;
}

TextStates ClipText::forward(Context& c, const TextBatch& batch, bool everything) {
  const float epsilon = config_.layerNormEps;
  const auto layout = textLayout(batch, config_.heads);
  layout->causal = true;
  const std::vector<int32_t> ids(batch.inputIds.begin(), batch.inputIds.end());
  TextStates states;
  Var x = embed(c, {{&tokens_, ids, {}}, {&positions_, textPositions(batch), {}}}, batch.batch * batch.length,
                config_.hiddenSize);
  for (Layer& layer : layers_) {
    cancelPoint();
    if (everything) states.hidden.push_back(x.value);
    const Var normed = layerNorm(c, x, layer.before.weight, layer.before.bias, epsilon, c.compute);
    const Var qkv = linear(c, normed, layer.qkv.use, &layer.qkv.bias, {Activation::none, nullptr, c.compute});
    const Var attended = selfAttention(c, qkv, layout, 0);
    x = linear(c, attended, layer.out.use, &layer.out.bias, {Activation::none, &x, DType::f32});
    x = feedForward(c, layerNorm(c, x, layer.between.weight, layer.between.bias, epsilon, c.compute),
                    layer.up.use, &layer.up.bias, layer.down.use, &layer.down.bias, config_.activation, x);
  }
  if (everything) states.hidden.push_back(x.value);
  const Var last = layerNorm(c, x, norm_.weight, norm_.bias, epsilon);
  states.last = last.value;

  auto ends = std::make_shared<std::vector<int32_t>>();
  for (int64_t i = 0; i < batch.batch; ++i) {
    const auto begin = ids.begin() + i * batch.length, end = begin + batch.length;
    auto found = std::max_element(begin, end);
    // As published a text without that token is pooled at its first one.
    if (config_.eosTokenId != 2) found = std::find(begin, end, static_cast<int32_t>(config_.eosTokenId));
    ends->push_back(static_cast<int32_t>((found == end ? begin : found) - ids.begin()));
  }
  states.pooled = gatherRows(c, last, ends).value;
  return states;
}

}  // namespace duet
