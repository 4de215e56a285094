// Plain element-wise helpers: conversion, sums, gathers of rows, dropout.
#pragma once

#include "core/tensor.h"

namespace duet {

struct ElementwiseKernels {
  /// to[i] = from[i] between f32 and bf16.
  void (*convert)(const void* from, DType fromType, void* to, DType toType, int64_t count);
  /// y[i] = a[i] + b[i]
  void (*add)(const float* a, const float* b, float* y, int64_t count);
  /// y[i] = a[i] * b[i], f32 or bf16
  void (*multiply)(const void* a, const void* b, void* y, DType dtype, int64_t count);
  /// y[i] = (accumulate ? y[i] : 0) + scale * x[i]
  void (*scale)(const float* x, float scale, float* y, int64_t count, bool accumulate);
  /// out[j] (+)= sum over rows of x[row, j], in fixed chunks
  void (*columnSum)(const void* x, DType dtype, int64_t rows, int64_t columns, int64_t stride, float* out,
                    bool accumulate);
  /// y[r] = x[index[r]], rows of `rowBytes` bytes
  void (*gatherRows)(const void* x, const int32_t* index, void* y, int64_t rows, int64_t rowBytes);
  /// y[index[r]] += x[r]; indices are distinct
  void (*addRows)(const float* x, const int32_t* index, float* y, int64_t rows, int64_t columns);
  /// y = x kept with probability 1 - p and divided by it; element i is drawn from (seed, stream, i)
  void (*dropout)(const float* x, float* y, int64_t count, float probability, uint64_t seed, uint64_t stream);
};

}  // namespace duet
