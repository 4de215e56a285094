// The backend contract: one table of kernels per op family. A device (a CPU instruction set today,
// a CUDA plugin beside the addon tomorrow) fills one Backend; the checked ops call only through it.
#pragma once

#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/convolution.h"
#include "ops/detail_branch.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/gated.h"
#include "ops/group_norm.h"
#include "ops/loss.h"
#include "ops/noise.h"
#include "ops/norm.h"
#include "ops/optimizer.h"
#include "ops/packing.h"
#include "ops/product.h"
#include "ops/resample.h"
#include "ops/temporal_attention.h"
#include "ops/winograd.h"

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
  ConvolutionKernels convolution;
  WinogradKernels winograd;
  GroupNormKernels groupNorm;
  ResampleKernels resample;
  TemporalAttentionKernels temporalAttention;
  DetailKernels detail;
  GatedKernels gated;
  NoiseKernels noise;
  PackingKernels packing;
};

/// The CPU backend for this machine (DUET_ISA in the environment may choose a lesser one).
const Backend& backend();

/// What backend() gives this thread from now on; null for this machine's. @returns what it was (see DryRun)
const Backend* replaceBackend(const Backend* other);

}  // namespace duet
