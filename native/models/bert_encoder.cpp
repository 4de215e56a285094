#include "models/bert_encoder.h"

#include "core/cancel.h"
#include "nn/embedding.h"
#include "nn/gated.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace duet {

BertEncoder::BertEncoder(const BertConfig& config, DType compute)
    : TextEncoder(compute), config_(config), layers_(static_cast<size_t>(config.layers)) {
  const int64_t d = config.hiddenSize;
  require(config.heads > 0 && d % config.heads == 0, "Expected hidden_size divisible by num_attention_heads ",
          "but received ", d, " and ", config.heads);
  vocabSize_ = config.vocabSize;
  longest_ = config.maxPositions;
  FrozenParameters& p = parameters_;
  p.table("embeddings.word_embeddings", words_, config.vocabSize, d);
  p.table("embeddings.position_embeddings", positions_, config.maxPositions, d);
  p.table("embeddings.token_type_embeddings", types_, config.typeVocabSize, d);
  p.norm("embeddings.LayerNorm", norm_, d);
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const std::string name = "encoder.layer." + std::to_string(i) + ".", self = name + "attention.self.";
    p.linear({self + "query", self + "key", self + "value"}, layer.qkv, d, d);
    p.linear({name + "attention.output.dense"}, layer.out, d, d);
    p.norm(name + "attention.output.LayerNorm", layer.between, d);
    p.linear({name + "intermediate.dense"}, layer.up, config.intermediateSize, d);
    p.linear({name + "output.dense"}, layer.down, d, config.intermediateSize);
    p.norm(name + "output.LayerNorm", layer.after, d);
  }
}

std::optional<std::string> BertEncoder::nameOf(const std::string& inFile) const {
  // `bert.` in BERT with a head and in Chinese-CLIP's own files, `text_model.` in Hugging Face's of the
  // latter.
  const std::string name = withoutPrefix(withoutPrefix(inFile, "bert."), "text_model.");
  for (const char* other :
       {"pooler.", "cls.", "visual.", "vision_model.", "visual_projection.", "text_projection"})
    if (startsWith(name, other)) return "";
  if (name == "embeddings.position_ids" || name == "embeddings.token_type_ids" || name == "logit_scale")
    return "";
  return name;
}

TextStates BertEncoder::forward(Context& c, const TextBatch& batch, bool everything) {
  const float epsilon = config_.layerNormEps;
  const int64_t rows = batch.batch * batch.length;
  const auto layout = textLayout(batch, config_.heads);
  TextStates states;
  Var x = embed(c,
                {{&words_, {batch.inputIds.begin(), batch.inputIds.end()}, {}},
                 {&positions_, textPositions(batch), {}},
                 {&types_, std::vector<int32_t>(static_cast<size_t>(rows), 0), {}}},
                rows, config_.hiddenSize);
  x = layerNorm(c, x, norm_.weight, norm_.bias, epsilon);
  for (Layer& layer : layers_) {
    cancelPoint();
    if (everything) states.hidden.push_back(x.value);
    const Var qkv = linear(c, cast(c, x, c.compute), layer.qkv.use, &layer.qkv.bias,
                           {Activation::none, nullptr, c.compute});
    const Var attended = selfAttention(c, qkv, layout, 0);
    x = linear(c, attended, layer.out.use, &layer.out.bias, {Activation::none, &x, DType::f32});
    x = layerNorm(c, x, layer.between.weight, layer.between.bias, epsilon);
    x = feedForward(c, cast(c, x, c.compute), layer.up.use, &layer.up.bias, layer.down.use, &layer.down.bias,
                    config_.activation, x);
    x = layerNorm(c, x, layer.after.weight, layer.after.bias, epsilon);
  }
  if (everything) states.hidden.push_back(x.value);
  states.last = x.value;
  return states;
}

}  // namespace duet
