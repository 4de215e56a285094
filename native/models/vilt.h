// ViLT (Kim et al., arXiv 2102.03334) exactly as Hugging Face's ViltModel, with FedDAT's bottleneck
// adapters after every feed-forward block and one classification head a task. Forward code only:
// gradients come from the tape.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "models/vilt_config.h"
#include "models/vilt_plan.h"
#include "nn/adapter.h"
#include "nn/context.h"
#include "nn/parameter.h"

namespace duet {

struct ViltLayer {
  Parameter normBefore, normBeforeBias, normAfter, normAfterBias;
  Parameter qkv, qkvBias;  // query, key and value stacked
  Parameter out, outBias, up, upBias, down, downBias;
  Weights qkvUse, qUse, kvUse, outUse, upUse, downUse;
  Adapter adapters[3];
};

struct ViltHead {
  Parameter first, firstBias, norm, normBias, second, secondBias;
  Weights firstUse, secondUse;
  int64_t classes() const { return second.value.dim(0); }
};

/// A parameter, or the rows of a stacked one, under its public name.
struct NamedParameter {
  std::string name;
  Parameter* parameter;
  int64_t firstRow;
  Shape shape;
  Tensor view() const { return parameter->stacked(firstRow, shape[0]); }
};

class Vilt {
 public:
  /// @param initialise false leaves zeros, for weights that are loaded next
  Vilt(const ViltConfig& config, uint64_t seed, bool initialise = true);
  Vilt(const Vilt&) = delete;
  Vilt& operator=(const Vilt&) = delete;

  const ViltConfig& config() const { return config_; }
  const std::vector<NamedParameter>& parameters() const { return names_; }
  const NamedParameter& find(const std::string& name) const;

  void load(const std::string& path);
  void addAdapters(int64_t reduction, uint64_t seed);
  void addHead(const std::string& task, int64_t classes, uint64_t seed);
  bool hasAdapters() const { return adapters_; }
  ViltHead& head(const std::string& task);
  std::vector<ViltLayer*> layers();

  /// What is the same for every adapter: embeddings and the layers before the first adapter, plan.rows x D.
  /// Uses the plan's pixels up: they are freed as soon as they are embedded.
  Var untilAdapters(Context& context, ViltPlan& plan);
  /// @param x rows of `untilAdapters` @returns tanh-pooled first text token of every sample, B x D, f32
  Var pooled(Context& context, const ViltPlan& plan, Var x, AdapterMode mode);
  Var pooled(Context& context, ViltPlan& plan, AdapterMode mode) {
    return pooled(context, plan, untilAdapters(context, plan), mode);
  }
  /// Embedding output and every layer's output, all tokens; the last entry is after the final norm.
  std::vector<Tensor> hiddenStates(Context& context, ViltPlan& plan, AdapterMode mode);
  /// @param pooled N x D @returns logits N x classes
  Var classify(Context& context, const Var& pooled, ViltHead& head);
  Var pool(Context& context, const Var& normalised);

  size_t packedBytes() const;

 private:
  Var embedBatch(Context& context, ViltPlan& plan);
  Var block(Context& context, ViltLayer& layer, const Var& x, std::shared_ptr<const AttentionLayout> layout,
            const std::shared_ptr<std::vector<int32_t>>& only);
  Var adaptRows(Context& context, ViltLayer& layer, const Var& x, AdapterMode mode);
  void name(const std::string& name, Parameter& parameter, const Shape& shape, int64_t firstRow = 0);
  void make(const std::string& name, Parameter& parameter, const Shape& shape, float deviation, uint64_t seed,
            float constant = 0.0f);

  ViltConfig config_;
  bool adapters_ = false;
  bool initialise_;
  uint64_t draws_ = 0;
  Parameter wordTable_, textPositions_, textTypes_, textNorm_, textNormBias_;
  Parameter classToken_, positions_, modality_, patch_, patchBias_;
  Parameter norm_, normBias_, pooler_, poolerBias_;
  Weights patchUse_, poolerUse_;
  std::vector<std::unique_ptr<ViltLayer>> layers_;
  std::map<std::string, std::unique_ptr<ViltHead>> heads_;
  std::vector<NamedParameter> names_;
  std::map<std::string, size_t> byName_;
};

}  // namespace duet
