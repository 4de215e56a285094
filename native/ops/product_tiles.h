// What the tiles of a product on tensor cores (product_tiles.cuh) are told.
#pragma once

#include <cstdint>

namespace duet::gpu {

struct Operand {
  const void* data;
  int64_t stride;  // values between stored rows
  bool alongK;     // rows run along K
  bool aligned;    // rows begin at multiples of 16 bytes
};

/// What sums go through on their way to C.
struct Finish {
  void* c;
  const float* bias;
  const float* residual;
  int64_t cStride, residualStride;
  int m, n;
  bool half, accumulate;
  bool inFours;  // four columns, from a multiple of four on, are aligned everywhere
};

struct TiledProduct {
  Operand a, b;
  int m, n, k;
  Finish finish;
};

/// Operands of bf16 or float.
template <typename T>
void multiplyTiles(const TiledProduct& product);

}  // namespace duet::gpu
