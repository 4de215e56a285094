// Layer norm and RMS norm with their affine parameters, f32 in, f32 or the compute type out.
#pragma once

#include "nn/context.h"
#include "nn/parameter.h"

namespace duet {

Var layerNorm(Context& context, const Var& x, Parameter& gamma, Parameter& beta, float epsilon,
              DType outType = DType::f32);

/// x / sqrt(mean(x^2) + epsilon) * gamma. Forward only, for frozen networks.
Var rmsNorm(Context& context, const Var& x, Parameter& gamma, float epsilon, DType outType = DType::f32);

}  // namespace duet
