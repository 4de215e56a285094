// What the binding talks to: one frozen (or, for pretraining, fully trainable) ViLT with adapters
// and heads, and the local training of one client on it. Calls are coarse (a step, a forward) and
// run one after the other on the device's queue.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "models/vilt_config.h"

namespace duet {

enum class Compute { fp32, bf16 };

enum class Method { feddat, single, full };
enum class PassOrder { merged, published };
enum class ClearGradients { none, zero };

struct RuntimeOptions {
  uint64_t seed = 0;
  bool initialise = true;  // false leaves zeros, for weights that are loaded next
  Compute compute = Compute::fp32;
};

struct AdamWOptions {
  double learningRate = 1e-4;
  double beta1 = 0.9, beta2 = 0.98;
  double epsilon = 1e-8;
  double weightDecay = 0.01;
  bool decayAll = false;  // norms and biases too
};

struct ScheduleOptions {
  enum class Kind { linear, constant, cosine } kind = Kind::linear;
  int64_t warmupSteps = 0;
  int64_t maxSteps = 1;
};

struct TrainingOptions {
  Method method = Method::feddat;
  std::string task;
  AdapterMode adapter = AdapterMode::adapter1;  // for Method::single; `none` trains the head alone
  AdamWOptions optimizer;
  ScheduleOptions schedule;
  float temperature = 3.0f;
  PassOrder order = PassOrder::merged;
  ClearGradients clearGradients = ClearGradients::none;
  std::optional<float> maxGradNorm;
  uint64_t seed = 0;           // dropout
  bool keepGradients = false;  // gradients() returns those of the last step
  bool keepOutputs = false;    // StepResult carries logits and pooled vectors
};

struct FedDatLosses {
  double bce1 = 0, kl1 = 0, loss1 = 0, bce0 = 0, kl0 = 0, loss0 = 0;
};

struct StepResult {
  double loss = 0;  // what was minimised; for FedDAT the loss of adapter 1
  std::vector<double> learningRates;
  std::optional<FedDatLosses> feddat;
  std::optional<double> bce;
  std::optional<double> gradNorm;
  double correct = 0;  // sum over the batch of the target score at the highest logit, before the update
  // Only with keepOutputs: B x classes and B x hidden.
  std::vector<float> logitsAll, logits1, logits0, pooledAll, pooled1, pooled0;
};

struct HiddenStates {
  std::vector<Tensor> hiddenStates;  // embedding output and the output of every layer, B x T x D
  Tensor lastHiddenState;            // B x T x D
  Tensor poolerOutput;               // B x D
  Tensor attentionMask;              // B x T, i64
  Tensor patchIndex;                 // B x patches x 2, i64 (row, column)
};

struct ParameterInfo {
  std::string name;
  Shape shape;
};

class Session {
 public:
  Session(const ViltConfig& config, const RuntimeOptions& options);
  ~Session();

  std::vector<ParameterInfo> parameters() const;
  /// Hugging Face safetensors, memory-mapped. Names must match exactly (an optional `vilt.` prefix,
  /// the masked-language head `mlm_score.*` and position-id buffers of `vilt-b32-mlm` are known).
  void load(const std::string& path);
  void addAdapters(int64_t reduction, uint64_t seed);
  void addHead(const std::string& task, int64_t classes, uint64_t seed);
  std::map<std::string, std::vector<float>> read(const std::vector<std::string>& names) const;
  /// Lengths must match the parameters' sizes; nothing is written when one does not.
  void write(const std::map<std::string, std::span<const float>>& values);

  void startTraining(const TrainingOptions& options);
  StepResult step(const ViltBatch& batch);
  /// 'update_1.<param>' and 'update_0.<param>' (FedDAT) or 'update.<param>' of the last step.
  std::map<std::string, std::vector<float>> gradients() const;
  /// '<param>.exp_avg', '<param>.exp_avg_sq', '<param>.step' and 'schedule.step'.
  std::map<std::string, std::vector<float>> optimizerState() const;
  void setOptimizerState(const std::map<std::string, std::span<const float>>& state);

  std::vector<float> evaluate(const ViltBatch& batch, const std::string& task, AdapterMode mode);
  HiddenStates hiddenStates(const ViltBatch& batch, AdapterMode mode);

  size_t parameterBytes() const;
  size_t arenaPeakBytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duet
