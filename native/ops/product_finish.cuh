// What the sums of a product go through on their way to C: bias, residual, C itself, conversion.
#pragma once

#include "gpu/kernel.h"
#include "ops/product_tiles.h"

namespace duet::gpu {

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T values[4];
};

template <typename T>
DUET_DEVICE void addFour(float (&sums)[4], const T* from) {
  const Four<T> four = *reinterpret_cast<const Four<T>*>(from);
  for (int i = 0; i < 4; ++i) sums[i] += loadAs(four.values, i);
}

template <typename T>
DUET_DEVICE void storeFour(T* to, const float (&sums)[4]) {
  Four<T> four;
  for (int i = 0; i < 4; ++i) storeAs(four.values, i, sums[i]);
  *reinterpret_cast<Four<T>*>(to) = four;
}

template <typename T>
DUET_DEVICE void finishAs(const Finish& f, int row, int column, float (&sums)[4]) {
  T* c = static_cast<T*>(f.c) + row * f.cStride + column;
  const float* residual = f.residual ? f.residual + row * f.residualStride + column : nullptr;
  if (f.inFours && column + 4 <= f.n) {
    if (f.bias) addFour(sums, f.bias + column);
    if (residual) addFour(sums, residual);
    if (f.accumulate) addFour(sums, c);
    storeFour(c, sums);
    return;
  }
  for (int i = 0; i < 4; ++i) {
    if (column + i >= f.n) return;
    if (f.bias) sums[i] += f.bias[column + i];
    if (residual) sums[i] += residual[i];
    if (f.accumulate) sums[i] += loadAs(c, i);
    storeAs(c, i, sums[i]);
  }
}

/// Four sums side by side, the first in a column that is a multiple of four.
DUET_DEVICE void finish(const Finish& f, int row, int column, float (&sums)[4]) {
  if (row >= f.m || column >= f.n) return;
  f.half ? finishAs<bf16>(f, row, column, sums) : finishAs<float>(f, row, column, sums);
}

/// A warp's sums of 8 rows and 16 columns, from `row` and `column` on. Of both fragments of 8 columns a lane
/// has two values side by side, in row lane / 4; with the next lane's it has four of one of them.
DUET_DEVICE void finishPair(const Finish& f, int row, int column, const float* first, const float* second) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, odd = lane % 2;
  float four[4];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float kept = odd ? second[i] : first[i];
    const float got = __shfl_xor_sync(kAllLanes, odd ? first[i] : second[i], 1);
    four[i] = odd ? got : kept;
    four[2 + i] = odd ? kept : got;
  }
  finish(f, row + lane / 4, column + 8 * odd + lane % 4 / 2 * 4, four);
}

}  // namespace duet::gpu
