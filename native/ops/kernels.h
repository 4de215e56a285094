// The backend contract: one table of kernels per op family. A device (a CPU instruction set today,
// a CUDA plugin beside the addon tomorrow) fills one Backend; the checked ops call only through it.
#pragma once

#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/loss.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/product.h"

namespace duet {

/// Sums over rows are taken in this many chunks whatever the number of threads.
constexpr int64_t kReductionChunks = 16;

struct Backend {
  const char* name;
  ProductKernels product;
  NormKernels norm;
  ActivationKernels activation;
  AttentionKernels attention;
  ElementwiseKernels elementwise;
  EmbeddingKernels embedding;
  LossKernels loss;
  OptimizerKernels optimizer;
};

/// The CPU backend for this machine (DUET_ISA in the environment may choose a lesser one).
const Backend& backend();

}  // namespace duet
