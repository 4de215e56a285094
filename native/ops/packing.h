// Packing of the right-hand side of products into blocks of 64 columns, as oneDNN's kernels for AVX-512 read
// it: block after block of columns, in each all rows of those 64 columns; bf16 has the values of two rows
// side by side, [K / 2, 64, 2]. Rows are filled up to a multiple of 16 (f32) or 32 (bf16), columns of 64,
// with zeros. Byte for byte what oneDNN's reorder gives, but for bf16 of numbers below 2^-126, which are kept
// here and may become 0 there.
#pragma once

#include "core/both.h"
#include "core/tensor.h"

namespace duet {

/// A K x N matrix of f32. Element (k, n) lies at data[n * stride + k] where `transposed`, otherwise at
/// data[k / blockRows * blockStride + k % blockRows * stride + n] (the taps of a kernel are such blocks).
struct PackSource {
  const float* data;
  int64_t k, n, stride;
  bool transposed = false;
  int64_t blockRows = 0, blockStride = 0;  // 0: all rows are one block

  DUET_BOTH int64_t row(int64_t index) const {
    return blockRows > 0 ? index / blockRows * blockStride + index % blockRows * stride : index * stride;
  }
};

constexpr int64_t kPackedColumns = 64;
constexpr int64_t packedRowUnit(DType dtype) { return dtype == DType::bf16 ? 32 : 16; }
constexpr int64_t packedRows(int64_t k, DType dtype) {
  return (k + packedRowUnit(dtype) - 1) / packedRowUnit(dtype) * packedRowUnit(dtype);
}
constexpr int64_t packedColumns(int64_t n) {
  return (n + kPackedColumns - 1) / kPackedColumns * kPackedColumns;
}

struct PackingKernels {
  void (*pack)(const PackSource&, DType dtype, void* to);
};

}  // namespace duet
