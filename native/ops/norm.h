// Layer norm over the last dimension (Ba et al. 2016): y = (x - mean) / sqrt(var + eps) * gamma + beta,
// with the biased variance. Backward recomputes the normalised value from x and the two statistics.
// RMS norm (Zhang and Sennrich 2019) has neither mean nor bias: y = x / sqrt(mean(x^2) + eps) * gamma.
#pragma once

#include <memory>

#include "core/tensor.h"

namespace duet {

struct NormForward {
  const float* x;  // rows x columns
  const float* gamma;
  const float* beta;
  void* y;  // rows x columns, f32 or bf16
  DType yType;
  float* mean;  // rows, or null when nothing is kept
  float* rstd;  // rows, or null
  int64_t rows, columns;
  float epsilon;
};

struct NormBackward {
  const float* x;
  const float* gamma;
  const float* mean;
  const float* rstd;
  const void* dy;
  DType dyType;
  float* dx;        // or null
  bool accumulate;  // dx += instead of dx =
  float* dgamma;    // or null; columns
  float* dbeta;     // or null
  bool accumulateParameters;
  int64_t rows, columns;
};

struct RmsNormForward {
  const float* x;  // rows x columns
  const float* gamma;
  void* y;  // rows x columns, f32 or bf16
  DType yType;
  int64_t rows, columns;
  float epsilon;
};

struct NormKernels {
  void (*forward)(const NormForward&);
  void (*backward)(const NormBackward&);
  void (*rmsForward)(const RmsNormForward&);
};

}  // namespace duet
