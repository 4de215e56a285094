// Losses over logits, each with its gradient in the same pass. B rows (samples), C classes.
//
// bce:     mean over all elements of BCE-with-logits, times C: (1/B) sum [max(x,0) - x y + log(1+e^-|x|)]
//          gradient (sigmoid(x) - y) / B                                      (VQA heads, FedDAT)
// kl:      T^2 / N sum q (log q - log p), p = softmax(x/T), q = softmax(target/T), N = batch
//          gradient T / N (p - q); none to the target                         (FedDAT, eq. 4-5)
// cross entropy: mean over rows whose label is not negative of -log softmax(x)[label]
#pragma once

#include "core/tensor.h"

namespace duet {

/// A batch of softmax lines: line (outer, inner) has `classes` elements, `inner` elements apart.
struct DistillationLoss {
  const float* logits;
  const float* target;
  int64_t outer, classes, inner;
  int64_t batch;  // N
  float temperature;
  float scale;      // of the gradient
  float* gradient;  // or null
  bool accumulate;
};

struct BinaryLoss {
  const float* logits;
  const float* targets;
  int64_t rows, classes;
  int64_t batch;    // B
  float scale;      // of the gradient
  float* gradient;  // or null
  bool accumulate;
};

struct CrossEntropyLoss {
  const float* logits;
  const int32_t* labels;  // rows; negative ones are ignored
  int64_t rows, classes;
  float* gradient;  // or null
};

struct LossKernels {
  double (*distillation)(const DistillationLoss&);
  double (*binary)(const BinaryLoss&);
  double (*crossEntropy)(const CrossEntropyLoss&);
  /// y = softmax(x) or log softmax(x) along the last dimension
  void (*softmax)(const float* x, float* y, int64_t rows, int64_t columns, bool log);
  /// dx of the same, from y
  void (*softmaxBackward)(const float* y, const float* dy, float* dx, int64_t rows, int64_t columns,
                          bool log);
};

}  // namespace duet
