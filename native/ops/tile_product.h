// A small f32 matrix product for use inside other kernels: C (+)= A B, with tiles of C in registers. The sums
// run over k in order, so their bits do not depend on how the rows are shared out.
#pragma once

#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {

constexpr int kProductRows = 6;
constexpr int kProductVectors = kLanes == 16 ? 4 : 2;
constexpr int64_t kProductColumns = kProductVectors * kLanes;

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
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) sum[i][j] = p.accumulate ? loadVec(c + i * p.cRow + j * kLanes) : Vec{};
  for (int64_t k = 0; k < p.count; ++k, a += p.aStep, b += p.bStep) {
    Vec right[N];
    for (int j = 0; j < N; ++j) right[j] = loadVec(b + j * kLanes);
    for (int i = 0; i < M; ++i) {
      const Vec left = fillVec(a[i * p.aRow]);
      for (int j = 0; j < N; ++j) sum[i][j] += left * right[j];
    }
  }
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) storeVec(c + i * p.cRow + j * kLanes, sum[i][j]);
}

template <int N>
inline void productColumns(const TileProduct& p, const float* b, float* c) {
  int64_t i = 0;
  for (; i + kProductRows <= p.rows; i += kProductRows)
    productTile<kProductRows, N>(p, p.a + i * p.aRow, b, c + i * p.cRow);
  for (; i + 2 <= p.rows; i += 2) productTile<2, N>(p, p.a + i * p.aRow, b, c + i * p.cRow);
  for (; i < p.rows; ++i) productTile<1, N>(p, p.a + i * p.aRow, b, c + i * p.cRow);
}

inline void tileProduct(const TileProduct& p) {
  int64_t j = 0;
  const float* b = p.b;
  for (; j + kProductColumns <= p.columns; j += kProductColumns, b += p.bTile)
    productColumns<kProductVectors>(p, b, p.c + j);
  for (; j < p.columns; j += kLanes, b += kLanes) productColumns<1>(p, b, p.c + j);
}

}  // namespace duet::cpu::DUET_ISA
