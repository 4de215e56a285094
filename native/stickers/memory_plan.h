// How much memory training a frame generation network will take, before its first step: one step of a second
// network of the same sizes whose memory is never touched, as a dry run.
#pragma once

#include <string>

#include "models/dfgn_config.h"
#include "ops/kernels.h"

namespace duet {

/// The largest batch (micro-batch, when several make a step) and what matters of the training's options.
struct PlannedStep {
  int64_t clips = 1, height = 0, width = 0, textTokens = 1, t5Tokens = 1;
  bool checkpoint = false, ema = false;
  bool accumulate = false;  // several micro-batches make a step
};

/// Bytes. Not in it: scratch of single kernels, a few megabytes a thread, and the data.
struct MemoryPlan {
  size_t parameters = 0;  // and packed copies that are kept
  size_t gradients = 0;
  size_t moments = 0;   // of AdamW
  size_t averages = 0;  // moving averages
  /// What a step takes beside the gradients of the weights, which lie where activations lay before.
  size_t activations = 0;
};

/// "1.5 GB: parameters 0.5 GB, ..."
std::string nameOf(const MemoryPlan& plan);

MemoryPlan planMemory(const DfgnConfig& config, DType compute, const PlannedStep& step);

}  // namespace duet
