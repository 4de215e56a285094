// AdamW over named parameters and the learning-rate schedule, as the published FedDAT program sets
// them up: decay except for names containing `bias` or `LayerNorm.weight`, one step count a parameter.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "federated/session.h"
#include "nn/parameter.h"

namespace duet {

/// Learning rate after `step` schedule steps: linear warm-up, then linear or cosine decay to 0 or constant.
double learningRateAt(const AdamWOptions& optimizer, const ScheduleOptions& schedule, int64_t step);

class AdamW {
 public:
  explicit AdamW(const AdamWOptions& options) : options_(options) {}

  /// Updates the parameters that hold a gradient, which is taken times `scale`, and forgets the gradients.
  /// With `zero` clearing a parameter that ever had one is stepped with a gradient of zeros.
  void update(const std::vector<Parameter*>& parameters, double learningRate, ClearGradients clear,
              float scale = 1.0f);

  struct Clipping {
    double norm;         // of all gradients held
    float scale = 1.0f;  // brings them down to the limit
  };
  static Clipping clip(const std::vector<Parameter*>& parameters, const std::optional<float>& limit);
  static void forget(const std::vector<Parameter*>& parameters);

  struct State {
    Tensor average, averageSquare;
    int64_t step = 0;
  };
  State& state(Parameter& parameter);
  const State* find(const Parameter& parameter) const;

 private:
  AdamWOptions options_;
  std::map<const Parameter*, State> states_;
};

}  // namespace duet
