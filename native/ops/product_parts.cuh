// Products whose K is taken in parts: each part's sums in memory of their own, added up afterwards.
#pragma once

#include "ops/product_finish.cuh"

namespace duet::gpu {

namespace {

/// Adds up the parts of K, always in the same order.
__global__ void addPartsKernel(const float* parts, int count, int64_t partStride, int64_t rowStride,
                               Finish ending) {
  const int column = static_cast<int>(blockIdx.y * kWarp + threadIdx.x) * 4;
  const int row = static_cast<int>(blockIdx.x * blockDim.y + threadIdx.y);
  if (row >= ending.m || column >= ending.n) return;
  const float* from = parts + row * rowStride + column;
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int part = 0; part < count; ++part) addFour(sums, from + part * partStride);
  finish(ending, row, column, sums);
}

class Parts {
 public:
  Parts(int m, int n, int count)
      : m_(m), n_(n), count_(count), rowStride_((int64_t{n} + 3) / 4 * 4), sums_(count * stride()) {}
  /// Values between parts.
  int64_t stride() const { return m_ * rowStride_; }
  /// Of the first part.
  Finish finish() const {
    return {sums_.data(), nullptr, nullptr, rowStride_, 0, m_, n_, false, false, true};
  }
  void add(const Finish& ending) const {
    launch(addPartsKernel, dim3(blocksFor(m_, 8, INT32_MAX), blocksFor(n_, 4 * kWarp)), dim3(kWarp, 8), 0,
           sums_.data(), count_, stride(), rowStride_, ending);
  }

 private:
  int m_, n_, count_;
  int64_t rowStride_;
  Scratch<float> sums_;
};

}  // namespace

}  // namespace duet::gpu
