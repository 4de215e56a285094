// A small product of bf16 pairs with f32 sums (AVX-512 BF16) for use inside other kernels: C (+)= A B, with
// tiles of C in registers. The depth runs in pairs, one 32-bit word each: the left side is read as words, the
// right side has the two values of a pair side by side for every column. The sums run over the pairs in
// order, so their bits do not depend on how the rows are shared out.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "ops/simd.h"

// GCC 12 takes the undefined upper halves inside these intrinsics for a mistake of ours (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"

#define DUET_BF16 __attribute__((target("avx512bf16")))

namespace duet::cpu::DUET_ISA {

using Word = uint32_t;

/// Rows of memory to fetch before their use, a few with every tile of a product. For rows that lie too far
/// apart for the processor to foresee them.
class Ahead {
 public:
  void clear() { count_ = current_ = 0; }
  /// `rows` rows of `bytes` bytes, `stride` bytes apart; eight calls at most after clear().
  void add(const void* data, int64_t stride, int64_t bytes, int64_t rows) {
    if (rows > 0)
      list_[count_++] = {reinterpret_cast<uintptr_t>(data), static_cast<uintptr_t>(stride),
                         static_cast<uintptr_t>(bytes), rows};
  }
  void fetchSome() {
    for (int i = 0; i < 6 && current_ < count_; ++i) {
      Rows& rows = list_[current_];
      const uintptr_t end = rows.next + rows.bytes;
      for (uintptr_t line = rows.next & ~uintptr_t{63}; line < end; line += 64)
        __builtin_prefetch(reinterpret_cast<const void*>(line));
      rows.next += rows.stride;
      if (--rows.left == 0) ++current_;
    }
  }

 private:
  struct Rows {
    uintptr_t next, stride, bytes;
    int64_t left;
  };
  Rows list_[8];
  int count_ = 0, current_ = 0;
};

struct PairProduct {
  int64_t rows, columns, pairs;  // columns are a multiple of 16
  const Word* a;
  int64_t aRow, aPair;  // words from one row, one pair to the next
  const Word* b;
  int64_t bPair;
  float* c;
  int64_t cRow;
  bool accumulate;
  Ahead& ahead;
};

template <int R, int V>
DUET_BF16 inline void pairTile(const PairProduct& p, const Word* a, const Word* b, float* c) {
  __m512 sum[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[r][v] = _mm512_setzero_ps();
  for (int64_t k = 0; k < p.pairs; ++k, a += p.aPair, b += p.bPair) {
    __m512bh right[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) right[v] = (__m512bh)_mm512_loadu_si512(b + v * 16);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512bh left = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * p.aRow]));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], left, right[v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r, c += p.cRow)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      if (p.accumulate) sum[r][v] = _mm512_add_ps(sum[r][v], _mm512_loadu_ps(c + v * 16));
      _mm512_storeu_ps(c + v * 16, sum[r][v]);
    }
}

/// The same for `rows` <= R rows.
template <int R, int V>
DUET_BF16 inline void lastPairRows(const PairProduct& p, int64_t rows, const Word* a, const Word* b,
                                   float* c) {
  if (rows == R) return pairTile<R, V>(p, a, b, c);
  if constexpr (R > 1) lastPairRows<R - 1, V>(p, rows, a, b, c);
}

/// Columns [j, j + 16 V) of all rows.
template <int V>
DUET_BF16 inline void pairColumns(const PairProduct& p, int64_t j) {
  constexpr int kRows = V == 4 ? 6 : 8;
  const Word* b = p.b + j;
  float* c = p.c + j;
  int64_t i = 0;
  for (; i + kRows <= p.rows; i += kRows) {
    pairTile<kRows, V>(p, p.a + i * p.aRow, b, c + i * p.cRow);
    p.ahead.fetchSome();
  }
  if (i < p.rows) lastPairRows<kRows - 1, V>(p, p.rows - i, p.a + i * p.aRow, b, c + i * p.cRow);
}

DUET_BF16 inline void pairProduct(const PairProduct& p) {
  int64_t j = 0;
  for (; j + 64 <= p.columns; j += 64) pairColumns<4>(p, j);
  const int64_t rest = (p.columns - j) / 16;
  if (rest == 1) pairColumns<1>(p, j);
  if (rest == 2) pairColumns<2>(p, j);
  if (rest == 3) pairColumns<3>(p, j);
}

}  // namespace duet::cpu::DUET_ISA
