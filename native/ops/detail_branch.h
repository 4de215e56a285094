// The detail branch of a spatio-temporal interaction layer (RDTF, section 3.2): every channel of every clip
// is a picture whose channels are the frames, and goes through two residual blocks
//   d + conv2(SiLU(norm2(conv1(SiLU(norm1(d))))))
// with 3x3 convolutions from frames to frames and norms of one group over all frames and pixels. The
// channels, which lie side by side, share the weights: a vector of channels is one value of the computation,
// and nothing is rearranged. Only x is kept; backward computes the rest again.
#pragma once

#include "core/tensor.h"

namespace duet {

struct DetailShape {
  int64_t clips, frames, height, width, channels;
  float epsilon;
};

/// The parameters of one block, or their gradients (any of which may be null).
template <typename T>
struct DetailBlockOf {
  T *norm1, *norm1Bias, *conv1, *conv1Bias;  // frames, frames, frames x frames x 3 x 3, frames
  T *norm2, *norm2Bias, *conv2, *conv2Bias;
};

struct DetailForward {
  DetailShape shape;
  DetailBlockOf<const float> blocks[2];
  const float* x;  // clips x frames x height x width x channels
  float* y;
};

struct DetailBackward {
  DetailShape shape;
  DetailBlockOf<const float> blocks[2];
  const float* x;
  const float* dy;
  float* dx;                          // or null
  bool accumulate;                    // dx += instead of dx =
  bool parameters;                    // whether gradients of parameters are wanted
  DetailBlockOf<float> gradients[2];  // += : zeroed by the caller where nothing is there yet
};

struct WeightedSumBackward {
  const float *a, *b, *dy;
  const float *w1, *w2;  // one value each
  float *da, *db;        // or null
  float *dw1, *dw2;      // or null; sum dy a, sum dy b
  bool accumulateA, accumulateB, accumulateW1, accumulateW2;
  int64_t count;
};

struct DetailKernels {
  void (*forward)(const DetailForward&);
  void (*backward)(const DetailBackward&);
  /// y = w1 a + w2 b; the weights are one value each
  void (*weightedSum)(const float* a, const float* w1, const float* b, const float* w2, float* y,
                      int64_t count);
  void (*weightedSumBackward)(const WeightedSumBackward&);
};

}  // namespace duet
