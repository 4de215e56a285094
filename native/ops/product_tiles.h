// What the tiles of a product on tensor cores (product_tiles.cuh) are told.
#pragma once

#include <cstdint>

#include "gpu/rows.h"

namespace duet::gpu {

/// An f32 that products round to 11 bits.
struct tf32 {
  float value;
};

struct Operand {
  const void* data;
  int64_t stride;  // values between stored rows
  bool alongK;     // rows run along K
  bool aligned;    // rows begin at multiples of 16 bytes
};

/// Patches (ops/convolution.h) that nobody has written down, one a row. They run along K as A, across as B.
struct PatchOperand {
  const void* data;
  int firstRow;
  Pixels pixels;  // of the rows
  int height, width, channels, size;
  int stride, offset, step;  // tap t of the patch of a pixel at p is that at stride p + offset + step t
  Divisor ofChannels;
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

template <typename A, typename B>
struct TiledProduct {
  A a;
  B b;
  int m, n, k;
  Finish finish;
};

/// Operands of bf16, float or tf32, one of which may be patches.
template <typename T, typename A, typename B>
void multiplyTiles(const TiledProduct<A, B>& product);

}  // namespace duet::gpu
