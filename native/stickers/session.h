// What the binding talks to: one frame generation network, its training and its passes for sampling. Calls
// are coarse and run one after the other on the device's queue.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "federated/session.h"
#include "models/dfgn_config.h"
#include "stickers/denoising_step.h"
#include "stickers/memory_plan.h"

namespace duet {

/// What a pass without training takes; published layouts.
struct PredictionBatch {
  int64_t clips = 0, height = 0, width = 0, textTokens = 0, t5Tokens = 0;
  std::span<const float> noisyLatents, imageLatents;  // B x C x F x H x W
  std::span<const float> timesteps;                   // B
  std::span<const float> text, t5;     // n * B texts; with n = 2 (guidance) all unconditional ones first
  std::span<const int32_t> tokens;     // n * B captions instead of text, for the network's caption encoder
  std::span<const uint8_t> dropText;   // n * B, 1 where zeros take the place of a text; or empty
  std::span<const uint8_t> frameMask;  // B x F, or empty; matters to networks that hide padding
};

struct Differentiated {
  double loss = 0;
  std::vector<double> clipLosses;
  std::vector<float> output;
  std::map<std::string, std::vector<float>> inputGradients;  // noisyLatents, imageLatents, text, t5
};

struct DfgnMemory {
  size_t parameterBytes = 0;  // weights and their packed copies
  size_t trainingBytes = 0;   // gradients, optimizer, moving average
  size_t arenaPeakBytes = 0;  // activations of the largest pass so far
};

class StickerSession {
 public:
  StickerSession(const DfgnConfig& config, const RuntimeOptions& options);
  ~StickerSession();

  std::vector<ParameterInfo> parameters() const;
  std::map<std::string, std::vector<float>> read(const std::vector<std::string>& names) const;
  /// Lengths must match the parameters' sizes; nothing is written when one does not.
  void write(const std::map<std::string, std::span<const float>>& values);
  /// Which of the values that belong to a parameter a file holds.
  enum class Part { weights, average, firstMoment, secondMoment };
  void load(const std::string& path, Part part);
  void save(const std::string& path, Part part) const;

  void startTraining(const DenoisingOptions& options);
  DenoisingResult step(std::span<const DenoisingBatch> batches);
  DenoisingResult evaluate(const DenoisingBatch& batch, int64_t drawStep);
  std::map<std::string, std::vector<float>> gradients() const;
  /// '<param>.exp_avg', '<param>.exp_avg_sq', '<param>.ema' and 'step'.
  std::map<std::string, std::vector<float>> optimizerState() const;
  void setOptimizerState(const std::map<std::string, std::span<const float>>& state);
  int64_t steps() const;
  void setSteps(int64_t steps);
  void swapAverages();

  /// The network's output for n * B clips, or with a guidance scale g (n = 2) e_0 + g (e_1 - e_0) for B
  /// clips.
  std::vector<float> predict(const PredictionBatch& batch, const float* guidance);
  std::vector<DfgnTrace::Entry> trace(const PredictionBatch& batch);
  /// Loss against a target, the gradients of all parameters (see gradients()) and inputs; nothing is updated.
  Differentiated differentiate(const PredictionBatch& batch, std::span<const float> target, bool checkpoint);

  DfgnMemory memory() const;
  MemoryPlan memoryPlan(const PlannedStep& step) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duet
