// What goes over all parameters of a model at once.
//
// AdamW with decoupled decay (Loshchilov & Hutter 2019), with the parameter's own step count t:
// of g = scale * gradient:
//   p *= 1 - lr wd;  m += (1 - b1)(g - m);  v = b2 v + (1 - b2) g^2;
//   p -= lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
#pragma once

#include <cmath>
#include <vector>

#include "core/tensor.h"

namespace duet {

struct AdamWTensor {
  float* parameter;
  const float* gradient;
  float* average;        // m
  float* averageSquare;  // v
  int64_t count;
  int64_t step;  // t, counting this one
  double weightDecay;
};

struct AdamWStep {
  double learningRate, beta1, beta2, epsilon;
  float scale = 1.0f;  // of the gradients, to clip them
};

/// The factors of one tensor's update.
struct AdamWFactors {
  float decay, rate, root;

  AdamWFactors(const AdamWStep& step, const AdamWTensor& tensor)
      : decay(static_cast<float>(1.0 - step.learningRate * tensor.weightDecay)),
        rate(static_cast<float>(step.learningRate /
                                (1.0 - std::pow(step.beta1, static_cast<double>(tensor.step))))),
        root(static_cast<float>(std::sqrt(1.0 - std::pow(step.beta2, static_cast<double>(tensor.step))))) {}
};

struct Numbers {
  const float* data;
  int64_t count;
};

struct MovingAverage {
  float* average;
  const float* value;
  int64_t count;
};

struct OptimizerKernels {
  void (*adamw)(const AdamWStep&, const std::vector<AdamWTensor>&);
  /// Sum of squares of all in double, in a fixed order.
  double (*squareSum)(const std::vector<Numbers>&);
  /// average[i] = decay * average[i] + (1 - decay) * value[i]
  void (*movingAverage)(const std::vector<MovingAverage>&, float decay);
};

}  // namespace duet
