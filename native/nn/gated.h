// The gated feed-forward block of transformers in diffusion networks (GEGLU, Shazeer 2020, eq. 6).
#pragma once

#include "nn/context.h"
#include "nn/parameter.h"

namespace duet {

/// W2 (a * gelu(g)) + b2 + residual with [a | g] = W1 x + b1 (the first half is the value, the second the
/// gate). The hidden layer exists for one chunk of rows at a time; only [a | g] is kept for backward.
/// @param x rows x in, of the compute type @param first [2 n, in] @param second [out, n] @param residual f32
/// rows x out
/// @returns f32 rows x out
Var gatedFeedForward(Context& context, const Var& x, Weights& first, Parameter* firstBias, Weights& second,
                     Parameter* secondBias, const Var& residual);

/// [a | b] column-wise. Both of one type.
Var concatColumns(Context& context, const Var& a, const Var& b);

/// x in the compute type (itself where it already is).
Var cast(Context& context, const Var& x, DType type);

}  // namespace duet
