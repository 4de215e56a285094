// Multi-head attention on the tape, over sequences of different lengths laid end to end.
#pragma once

#include <memory>
#include <vector>

#include "nn/context.h"
#include "ops/attention.h"

namespace duet {

struct AttentionLayout {
  std::vector<AttentionSpan> spans;
  std::vector<uint8_t> keyMask;  // empty, or one a key row
  int64_t heads = 1;
  bool causal = false;  // query i of a sequence sees its keys 0 .. i; as many queries as keys
  float scale = 0.0f;   // of the scores; 0 for 1 / sqrt(columns of a head)
  Tensor bias;          // undefined, or f32 [heads, L, L] added to the scaled scores (forward only)
};

/// Queries, keys and values side by side in one tensor of rows x 3D, as one stacked product makes them.
/// @returns rows x D in the type of `qkv`; rows that belong to no sequence are zero
Var selfAttention(Context& context, const Var& qkv, std::shared_ptr<const AttentionLayout> layout,
                  float dropout);

/// Queries (queryRows x D) against keys and values side by side (keyRows x 2D).
Var crossAttention(Context& context, const Var& q, const Var& kv,
                   std::shared_ptr<const AttentionLayout> layout, float dropout);

}  // namespace duet
