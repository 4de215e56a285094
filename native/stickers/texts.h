// The texts of a batch on their way into the network: states of encoders outside of it, or the token ids of
// its own caption encoder. A dropped text is zeros after its encoder.
#pragma once

#include <cstdint>
#include <span>

#include "models/dfgn.h"

namespace duet {

/// Exactly one of `text` and `tokens` is there.
struct TextBatch {
  int64_t textTokens = 0, t5Tokens = 0;
  std::span<const float> text;      // n * clips x textTokens x textWidth
  std::span<const int32_t> tokens;  // n * clips x textTokens; of networks with a caption encoder
  std::span<const float> t5;        // n * clips x t5Tokens x t5Width
  std::span<const uint8_t> drop;    // n * clips, or empty: no text is dropped
};

/// Fills in the texts of `inputs`, whose grid says how many clips there are.
/// @param several whether n may be more than 1: all first texts before all second ones
void takeTexts(DfgnInputs& inputs, const TextBatch& batch, const DfgnConfig& config, Arena& arena,
               bool several);

}  // namespace duet
