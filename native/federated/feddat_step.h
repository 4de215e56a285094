// One batch of FedDAT's local training (arXiv 2308.12305, algorithm 1 and equations 3 to 6), and one
// batch of the plain training its baselines use.
#pragma once

#include <map>
#include <vector>

#include "federated/optimizer.h"
#include "federated/session.h"
#include "models/vilt.h"

namespace duet {

/// Everything a step works on; lives as long as one local training.
struct Training {
  Training(Vilt& model, std::shared_ptr<Arena> arena, Compute compute, const TrainingOptions& options);

  Vilt& model;
  std::shared_ptr<Arena> arena;
  DType compute;
  TrainingOptions options;
  ViltHead& head;
  AdamW optimizer;
  int64_t scheduleStep = 0;
  int64_t batches = 0;  // seeds dropout
  // The parts of the trained set.
  std::vector<Parameter*> headPart, adapter0Part, adapter1Part, backbonePart;
  std::vector<Parameter*> all;
  std::map<std::string, std::vector<float>> gradients;

  double takeLearningRate() { return learningRateAt(options.optimizer, options.schedule, scheduleStep++); }
  Context context(Tape& tape, int pass) const;
  void keepGradients(const std::string& prefix, const std::vector<Parameter*>& parameters);
  /// The values of what is trained, as they are now.
  void keepParameters(const std::string& prefix);
};

StepResult fedDatStep(Training& training, const ViltBatch& batch);
StepResult plainStep(Training& training, const ViltBatch& batch);

}  // namespace duet
