// Element-wise activations and what they share: exact gelu x * Phi(x), relu, tanh, silu x / (1 + exp(-x)).
// Backward takes the value before the activation for gelu and silu, the value after it for relu and tanh.
#pragma once

#include "core/tensor.h"

namespace duet {

enum class Activation { none, gelu, relu, tanh, silu };

/// Whether backward takes the value before the activation.
inline bool keepsInput(Activation kind) { return kind == Activation::gelu || kind == Activation::silu; }

struct ActivationForward {
  const void* x;
  void* y;  // may be x
  DType dtype;
  int64_t count;
  Activation kind;
};

struct ActivationBackward {
  const void* kept;  // x for gelu and silu, y for relu and tanh
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
