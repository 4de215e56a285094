// Layer norm with its affine parameters, f32 in, f32 or the compute type out.
#pragma once

#include "nn/context.h"
#include "nn/parameter.h"

namespace duet {

Var layerNorm(Context& context, const Var& x, Parameter& gamma, Parameter& beta, float epsilon,
              DType outType = DType::f32);

}  // namespace duet
