// y = activation(x W^T + b) (+ residual), and the feed-forward block of two such layers.
#pragma once

#include "nn/context.h"
#include "nn/parameter.h"
#include "ops/activation.h"

namespace duet {

struct LinearOptions {
  Activation activation = Activation::none;
  const Var* residual = nullptr;  // f32, shape of y; only without activation
  DType outType = DType::f32;     // f32 or the compute type
};

/// @param x rows x in, of the context's compute type @returns rows x out
Var linear(Context& context, const Var& x, Weights& weight, Parameter* bias,
           const LinearOptions& options = {});

/// W2 act(W1 x + b1) + b2 + residual. The hidden layer exists for one chunk of rows at a time; only
/// its value before the activation is kept for backward.
/// @param x rows x in, of the compute type @param residual f32 rows x out @returns f32 rows x out
Var feedForward(Context& context, const Var& x, Weights& first, Parameter* firstBias, Weights& second,
                Parameter* secondBias, Activation activation, const Var& residual);

/// Element-wise activation on its own.
Var activate(Context& context, const Var& x, Activation activation);

/// Dropout (inverted); the identity when not training or `probability` is 0.
Var dropout(Context& context, const Var& x, float probability);

/// a + b, both f32.
Var add(Context& context, const Var& a, const Var& b);

/// a * b element by element, of one type. Forward only, for frozen networks.
Var multiply(Context& context, const Var& a, const Var& b);

}  // namespace duet
