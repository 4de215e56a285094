// A small f32 matrix product for use inside other kernels: C (+)= A B, with tiles of C in registers. The sums
// run over k in order, so their bits do not depend on how the rows are shared out.
#pragma once

#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {

constexpr int kProductVectors = kLanes == 16 ? 4 : 2;
constexpr int64_t kProductColumns = kProductVectors * kLanes;

/// Rows of a tile of N vectors: as many as the registers hold.
template <int N>
constexpr int kProductRowsOf = kLanes == 16 ? (N == 4   ? 6
                                               : N == 3 ? 8
                                                        : 12)
                                            : (N == 2 ? 6 : 12);
constexpr int64_t kProductRows = kProductRowsOf<kProductVectors>;

struct TileProduct {
  int64_t rows, columns, count;  // columns are a multiple of the lanes
  const float* a;
  int64_t aRow, aStep;  // floats from one row, one k to the next
  const float* b;
  int64_t bStep, bTile;  // floats from one k, one tile of kProductColumns to the next
  float* c;
  int64_t cRow;
  bool accumulate;
};

template <int M, int N>
inline void productTile(const TileProduct& p, const float* a, const float* b, float* c) {
  Vec sum[M][N];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) sum[i][j] = Vec{};
  for (int64_t k = 0; k < p.count; ++k, a += p.aStep, b += p.bStep) {
    Vec right[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) right[j] = loadVec(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const Vec left = fillVec(a[i * p.aRow]);
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) sum[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      float* to = c + i * p.cRow + j * kLanes;
      storeVec(to, p.accumulate ? loadVec(to) + sum[i][j] : sum[i][j]);
    }
}

template <int N>
inline void productColumns(const TileProduct& p, const float* b, float* c) {
  int64_t i = 0;
  for (; i + kProductRowsOf<N> <= p.rows; i += kProductRowsOf<N>)
    productTile<kProductRowsOf<N>, N>(p, p.a + i * p.aRow, b, c + i * p.cRow);
  for (; i + 4 <= p.rows; i += 4) productTile<4, N>(p, p.a + i * p.aRow, b, c + i * p.cRow);
  for (; i + 2 <= p.rows; i += 2) productTile<2, N>(p, p.a + i * p.aRow, b, c + i * p.cRow);
  for (; i < p.rows; ++i) productTile<1, N>(p, p.a + i * p.aRow, b, c + i * p.cRow);
}

inline void tileProduct(const TileProduct& p) {
  int64_t j = 0;
  const float* b = p.b;
  for (; j + kProductColumns <= p.columns; j += kProductColumns, b += p.bTile)
    productColumns<kProductVectors>(p, b, p.c + j);
  const int64_t rest = (p.columns - j) / kLanes;
  if (rest == 1) productColumns<1>(p, b, p.c + j);
  if constexpr (kProductVectors == 4) {
    if (rest == 2) productColumns<2>(p, b, p.c + j);
    if (rest == 3) productColumns<3>(p, b, p.c + j);
  }
}

}  // namespace duet::cpu::DUET_ISA
