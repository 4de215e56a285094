// AdamW with decoupled decay (Loshchilov & Hutter 2019), with the parameter's own step count t:
// of g = scale * gradient:
//   p *= 1 - lr wd;  m += (1 - b1)(g - m);  v = b2 v + (1 - b2) g^2;
//   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
#pragma once

#include "core/tensor.h"

namespace duet {

struct AdamWStep {
  float* parameter;
  const float* gradient;
  float* average;        // m
  float* averageSquare;  // v
  int64_t count;
  int64_t step;  // t, counting this one
  double learningRate, beta1, beta2, epsilon, weightDecay;
  float scale = 1.0f;  // of the gradient, to clip it
};

struct OptimizerKernels {
  void (*adamw)(const AdamWStep&);
  /// Sum of squares in double, in fixed chunks.
  double (*squareSum)(const float* x, int64_t count);
};

}  // namespace duet
