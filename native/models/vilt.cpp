#include "models/vilt.h"

#include "core/cancel.h"
#include "nn/attention.h"
#include "nn/embedding.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace duet {

namespace {

constexpr float kHeadEpsilon = 1e-5f;

/// The first rows of all samples.
std::shared_ptr<std::vector<int32_t>> firstRows(const ViltPlan& plan) {
  auto rows = std::make_shared<std::vector<int32_t>>();
  for (int64_t first : plan.firstRow) rows->push_back(static_cast<int32_t>(first));
  return rows;
}

std::shared_ptr<AttentionLayout> layoutOf(const ViltPlan& plan, int64_t heads, bool pooledOnly) {
  auto layout = std::make_shared<AttentionLayout>();
  layout->heads = heads;
  for (int64_t s = 0; s < plan.batch; ++s) {
    const int64_t begin = plan.firstRow[static_cast<size_t>(s)], end = plan.endRow[static_cast<size_t>(s)];
    layout->spans.push_back(pooledOnly ? AttentionSpan{s, s + 1, begin, end}
                                       : AttentionSpan{begin, end, begin, end});
  }
  layout->keyMask = plan.keyMask;
  return layout;
}

}  // namespace

Var Vilt::embedBatch(Context& c, ViltPlan& plan) {
  const int64_t width = config_.hiddenSize;
  // Rows of pictures: patches + positions, all rows + modality.
  std::vector<EmbeddingInput> inputs{{&modality_, plan.modality, {}}, {&classToken_, plan.classToken, {}}};
  for (int corner = 0; corner < 4; ++corner)
    inputs.push_back({&positions_, plan.positionIndex[corner], plan.positionWeight[corner]});
  Var x = embed(c, std::move(inputs), plan.rows, width);
  {
    const Var pixels{std::move(plan.patches), -1};
    x = addRows(c, x, linear(c, pixels, patchUse_, &patchBias_), plan.patchRow);
  }
  // Text has its own norm; dropout acts on text and picture parts alike.
  const auto tokens = static_cast<int64_t>(plan.word.size());
  Var text = embed(
      c, {{&wordTable_, plan.word, {}}, {&textTypes_, plan.type, {}}, {&textPositions_, plan.position, {}}},
      tokens, width);
  text = layerNorm(c, text, textNorm_, textNormBias_, config_.layerNormEps);
  x = addRows(c, x, text, plan.textRow);
  return dropout(c, x, config_.hiddenDropout);
}

Var Vilt::block(Context& c, ViltLayer& layer, const Var& x, std::shared_ptr<const AttentionLayout> layout,
                const std::shared_ptr<std::vector<int32_t>>& only) {
  cancelPoint();
  const float epsilon = config_.layerNormEps;
  const float drop = config_.hiddenDropout, dropScores = config_.attentionDropout;
  const bool fused = !c.training || drop <= 0.0f;
  const LinearOptions wide{Activation::none, nullptr, c.compute};
  // `only` restricts queries and everything after them to some rows.
  const Var residual = only ? gatherRows(c, x, only) : x;
  Var h;
  {
    Var attended;
    if (only) {
      Var q = linear(c, layerNorm(c, residual, layer.normBefore, layer.normBeforeBias, epsilon, c.compute),
                     layer.qUse, config_.qkvBias ? &layer.qkvBias : nullptr, wide);
      Var kv = linear(c, layerNorm(c, x, layer.normBefore, layer.normBeforeBias, epsilon, c.compute),
                      layer.kvUse, config_.qkvBias ? &layer.qkvBias : nullptr, wide);
      attended = crossAttention(c, q, kv, std::move(layout), dropScores);
    } else {
      Var qkv = linear(c, layerNorm(c, x, layer.normBefore, layer.normBeforeBias, epsilon, c.compute),
                       layer.qkvUse, config_.qkvBias ? &layer.qkvBias : nullptr, wide);
      attended = selfAttention(c, qkv, std::move(layout), dropScores);
    }
    if (fused) {
      h = linear(c, attended, layer.outUse, &layer.outBias, {Activation::none, &residual, DType::f32});
    } else {
      h = add(c, dropout(c, linear(c, attended, layer.outUse, &layer.outBias), drop), residual);
    }
  }
  Var normed = layerNorm(c, h, layer.normAfter, layer.normAfterBias, epsilon, c.compute);
  if (fused)
    return feedForward(c, normed, layer.upUse, &layer.upBias, layer.downUse, &layer.downBias,
                       Activation::gelu, h);
  Var y = feedForward(c, normed, layer.upUse, &layer.upBias, layer.downUse, &layer.downBias, Activation::gelu,
                      Var{});
  return add(c, dropout(c, y, drop), h);
}

Var Vilt::adaptRows(Context& c, ViltLayer& layer, const Var& x, AdapterMode mode) {
  require(adapters_, "The model has no adapters; add them first");
  if (mode == AdapterMode::gated)
    return adapt(c, x, nullptr, {{&layer.adapters[0], 0.5f}, {&layer.adapters[2], 0.5f}});
  return adapt(c, x, nullptr, {{&layer.adapters[mode == AdapterMode::adapter0 ? 0 : 1], 1.0f}});
}

Var Vilt::untilAdapters(Context& c, ViltPlan& plan) {
  const Var x = embedBatch(c, plan);
  if (layers_.size() == 1) return x;
  return block(c, *layers_[0], x, layoutOf(plan, config_.heads, false), nullptr);
}

Var Vilt::pooled(Context& c, const ViltPlan& plan, Var x, AdapterMode mode) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const bool last = i + 1 == layers_.size();
    if (last) {
      x = block(c, *layers_[i], x, layoutOf(plan, config_.heads, true), firstRows(plan));
    } else if (i > 0) {
      x = block(c, *layers_[i], x, layoutOf(plan, config_.heads, false), nullptr);
    }
    if (mode != AdapterMode::none) x = adaptRows(c, *layers_[i], x, mode);
  }
  return pool(c, layerNorm(c, x, norm_, normBias_, config_.layerNormEps));
}

Var Vilt::pool(Context& c, const Var& normalised) {
  return linear(c, normalised, poolerUse_, &poolerBias_, {Activation::tanh, nullptr, DType::f32});
}

std::vector<Tensor> Vilt::hiddenStates(Context& c, ViltPlan& plan, AdapterMode mode) {
  std::vector<Tensor> states;
  Var x = embedBatch(c, plan);
  states.push_back(x.value);
  for (auto& layer : layers_) {
    x = block(c, *layer, x, layoutOf(plan, config_.heads, false), nullptr);
    if (mode != AdapterMode::none) x = adaptRows(c, *layer, x, mode);
    states.push_back(x.value);
  }
  states.push_back(layerNorm(c, x, norm_, normBias_, config_.layerNormEps).value);
  return states;
}

Var Vilt::classify(Context& c, const Var& pooled, ViltHead& head) {
  Var h = linear(c, pooled, head.firstUse, &head.firstBias);
  h = activate(c, layerNorm(c, h, head.norm, head.normBias, kHeadEpsilon), Activation::gelu);
  return linear(c, h, head.secondUse, &head.secondBias);
}

std::vector<ViltLayer*> Vilt::layers() {
  std::vector<ViltLayer*> result;
  for (auto& layer : layers_) result.push_back(layer.get());
  return result;
}

ViltHead& Vilt::head(const std::string& task) {
  const auto found = heads_.find(task);
  if (found == heads_.end()) {
    std::string known;
    for (const auto& [name, head] : heads_) known += (known.empty() ? "" : ", ") + name;
    fail(Code::NotFound, "Expected the name of a head but received '", task, "'; the model has ",
         known.empty() ? "none, add one with addHead" : known);
  }
  return *found->second;
}

}  // namespace duet
