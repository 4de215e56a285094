// Group norm (Wu and He 2018, eq. 1-3) of channels-last feature maps, with a vector per clip added before it
// and SiLU after it. A unit is what shares statistics: one picture, or all frames of a clip.
//   z = (x + shift - mean) * rstd * gamma + beta,   y = z or z logistic(z)
// with mean and biased variance over the rows of the unit and the channels of the group. Backward recomputes
// z from x and the statistics. Sums are taken over fixed chunks of rows and joined in their order.
#pragma once

#include "core/tensor.h"

namespace duet {

struct GroupNormShape {
  int64_t units, unitRows, channels, groups;
  int64_t unitsPerClip;  // units that share a row of `shift`
  float epsilon;
  bool silu;
};

struct GroupNormForward {
  GroupNormShape shape;
  const float* x;      // units * unitRows x channels
  const float* shift;  // null, or units / unitsPerClip x channels
  const float* gamma;
  const float* beta;
  void* y;  // f32 or bf16
  DType yType;
  float* mean;  // units x groups
  float* rstd;
};

struct GroupNormBackward {
  GroupNormShape shape;
  const float* x;
  const float* shift;
  const float* gamma;
  const float* beta;
  const float* mean;
  const float* rstd;
  const void* dy;
  DType dyType;
  float* dx;        // or null
  bool accumulate;  // dx += instead of dx =
  float* dshift;    // or null
  bool accumulateShift;
  float* dgamma;  // or null
  bool accumulateGamma;
  float* dbeta;  // or null
  bool accumulateBeta;
};

struct GroupNormKernels {
  void (*forward)(const GroupNormForward&);
  void (*backward)(const GroupNormBackward&);
};

}  // namespace duet
