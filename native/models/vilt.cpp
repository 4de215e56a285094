#include "models/vilt.h"

#include "core/cancel.h"
#include "nn/attention.h"
#include "nn/embedding.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace duet {

namespace {

constexpr float kHeadEpsilon = 1e-5f;

std::shared_ptr<AttentionLayout> layoutOf(const ViltPlan& plan, int64_t heads, int64_t streams,
                                          bool pooledOnly) {
  auto layout = std::make_shared<AttentionLayout>();
  layout->heads = heads;
  for (int64_t stream = 0; stream < streams; ++stream) {
    const int64_t base = stream * plan.rows;
    for (int64_t s = 0; s < plan.batch; ++s) {
      const auto i = static_cast<size_t>(s);
      const int64_t begin = base + plan.firstRow[i], end = base + plan.endRow[i];
      const int64_t query = stream * plan.batch + s;
      layout->spans.push_back(pooledOnly ? AttentionSpan{query, query + 1, begin, end}
                                         : AttentionSpan{begin, end, begin, end});
    }
    layout->keyMask.insert(layout->keyMask.end(), plan.keyMask.begin(), plan.keyMask.end());
  }
  return layout;
}

/// The first rows of all samples of all streams.
std::shared_ptr<std::vector<int32_t>> firstRows(const ViltPlan& plan, int64_t streams) {
  auto rows = std::make_shared<std::vector<int32_t>>();
  for (int64_t stream = 0; stream < streams; ++stream)
    for (int64_t first : plan.firstRow) rows->push_back(static_cast<int32_t>(stream * plan.rows + first));
  return rows;
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

Var Vilt::adaptStreams(Context& c, ViltLayer& layer, const Var& x, const std::vector<AdapterMode>& streams,
                       bool fanOut) {
  const int64_t rows = x.value.rowCount() / (fanOut ? 1 : static_cast<int64_t>(streams.size()));
  std::vector<AdapterGroup> groups;
  for (size_t i = 0; i < streams.size(); ++i) {
    AdapterGroup group{fanOut ? 0 : static_cast<int64_t>(i) * rows, static_cast<int64_t>(i) * rows, rows, {}};
    if (streams[i] == AdapterMode::gated)
      group.branches = {{&layer.adapters[0], 0.5f}, {&layer.adapters[2], 0.5f}};
    else
      group.branches = {{&layer.adapters[streams[i] == AdapterMode::adapter0 ? 0 : 1], 1.0f}};
    groups.push_back(std::move(group));
  }
  return adapt(c, x, nullptr, groups, rows * static_cast<int64_t>(streams.size()));
}

Var Vilt::pooled(Context& c, ViltPlan& plan, const std::vector<AdapterMode>& streams) {
  const bool adapting = streams[0] != AdapterMode::none;
  require(!adapting || adapters_, "The model has no adapters; add them first");
  require(adapting || streams.size() == 1, "Several streams need adapters");
  int64_t copies = 1;
  Var x = embedBatch(c, plan);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const bool last = i + 1 == layers_.size();
    const auto only = last ? firstRows(plan, copies) : nullptr;
    x = block(c, *layers_[i], x, layoutOf(plan, config_.heads, copies, last), only);
    if (!adapting) continue;
    const auto wanted = static_cast<int64_t>(streams.size());
    x = adaptStreams(c, *layers_[i], x, streams, copies != wanted);
    copies = wanted;
  }
  return pool(c, layerNorm(c, x, norm_, normBias_, config_.layerNormEps));
}

Var Vilt::pool(Context& c, const Var& normalised) {
  return linear(c, normalised, poolerUse_, &poolerBias_, {Activation::tanh, nullptr, DType::f32});
}

std::vector<Tensor> Vilt::hiddenStates(Context& c, ViltPlan& plan, AdapterMode mode) {
  require(mode == AdapterMode::none || adapters_, "The model has no adapters; add them first");
  std::vector<Tensor> states;
  Var x = embedBatch(c, plan);
  states.push_back(x.value);
  for (auto& layer : layers_) {
    x = block(c, *layer, x, layoutOf(plan, config_.heads, 1, false), nullptr);
    if (mode != AdapterMode::none) x = adaptStreams(c, *layer, x, {mode}, false);
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
