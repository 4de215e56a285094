// Transposing as many vectors as a vector has lanes.
#pragma once

#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {

/// Swaps the off-diagonal blocks of S x S lanes.
template <int S>
inline void exchangeBlocks(Vec (&v)[kLanes]) {
  VecInt low{}, high{};
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    low[i] = i & S ? kLanes + i - S : i;
    high[i] = i & S ? kLanes + i : i + S;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & S) continue;
    const Vec a = v[i], b = v[i + S];
    v[i] = __builtin_shuffle(a, b, low);
    v[i + S] = __builtin_shuffle(a, b, high);
  }
}

inline void transpose(Vec (&v)[kLanes]) {
  exchangeBlocks<1>(v);
  exchangeBlocks<2>(v);
  if constexpr (kLanes >= 8) exchangeBlocks<4>(v);
  if constexpr (kLanes >= 16) exchangeBlocks<8>(v);
}

}  // namespace duet::cpu::DUET_ISA
