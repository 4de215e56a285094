// What the two CPU attention kernels share: blocks of query rows, dropout, masks and bias.
#pragma once

#include <limits>

#include "core/philox.h"
#include "ops/attention.h"

namespace duet::cpu::DUET_ISA {

/// Query rows whose scores exist at one time.
constexpr int64_t kQueryBlock = 48;

/// Keep factors of one row of probabilities: 0 or 1 / (1 - p).
inline void dropoutRow(const AttentionShape& s, int64_t head, int64_t queryRow, int64_t keys,
                       float* factors) {
  const Philox generator{s.seed, s.stream};
  const uint64_t line = static_cast<uint64_t>(queryRow * s.heads + head) << 20;  // up to 4M keys a row
  const float kept = 1.0f / (1.0f - s.dropout);
  for (int64_t j = 0; j < keys; j += 4) {
    const auto words = generator.words(line + static_cast<uint64_t>(j / 4));
    for (int64_t i = 0; i < 4 && j + i < keys; ++i)
      factors[j + i] = Philox::uniform(words[static_cast<size_t>(i)]) >= s.dropout ? kept : 0.0f;
  }
}

/// Scores of the keys that a query row may not see become -infinity, as do the places behind the keys.
inline void hideKeys(const AttentionShape& s, const AttentionSpan& span, int64_t queryRow, float* row,
                     int64_t keys, int64_t width) {
  constexpr float hidden = -std::numeric_limits<float>::infinity();
  for (int64_t j = keys; j < width; ++j) row[j] = hidden;
  if (s.keyMask) {
    const uint8_t* mask = s.keyMask + span.keyBegin;
    for (int64_t j = 0; j < keys; ++j)
      if (!mask[j]) row[j] = hidden;
  }
  if (s.causal)
    for (int64_t j = queryRow - span.queryBegin + 1; j < keys; ++j) row[j] = hidden;
}

/// Scores become scaled scores plus the bias of their head and places.
inline void addBias(const AttentionShape& s, int64_t head, int64_t query, float* row, int64_t keys) {
  const float* bias = s.bias + (head * s.biasLength + query) * s.biasLength;
#pragma omp simd
  for (int64_t j = 0; j < keys; ++j) row[j] = row[j] * s.scale + bias[j];
}

inline int64_t longest(const AttentionShape& s) {
  int64_t keys = 0;
  for (int64_t i = 0; i < s.sequences; ++i) {
    const int64_t n = s.spans[i].keyEnd - s.spans[i].keyBegin;
    keys = n > keys ? n : keys;
  }
  return keys;
}

}  // namespace duet::cpu::DUET_ISA
