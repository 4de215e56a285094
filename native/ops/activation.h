// Element-wise activations and what they share: exact gelu x * Phi(x), relu, tanh, silu x / (1 + exp(-x)),
// and the two approximations of gelu that published text encoders use: x / (1 + exp(-1.702 x)) (CLIP) and x/2
// (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (T5 v1.1). Backward takes the value after the activation for relu
// and tanh, the value before it for the others.
#pragma once

#include "core/tensor.h"

namespace duet {

enum class Activation { none, gelu, relu, tanh, silu, quickGelu, geluTanh };

/// Whether backward takes the value before the activation.
inline bool keepsInput(Activation kind) {
  return kind == Activation::gelu || kind == Activation::silu || kind == Activation::quickGelu ||
         kind == Activation::geluTanh;
}

struct ActivationForward {
  const void* x;
  void* y;  // may be x
  DType dtype;
  int64_t count;
  Activation kind;
};

struct ActivationBackward {
  const void* kept;  // x where keepsInput(kind), else y
  DType keptType;
  const void* dy;
  void* dx;  // may be dy
  DType dtype;
  int64_t count;
  Activation kind;
};

struct ActivationKernels {
  void (*forward)(const ActivationForward&);
  void (*backward)(const ActivationBackward&);
};

}  // namespace duet
