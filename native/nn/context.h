// What a forward pass carries along: the tape, the compute type of the large products, and the
// source of dropout (each draw of a pass takes the next stream).
#pragma once

#include "autograd/tape.h"
#include "ops/kernels.h"

namespace duet {

struct Context {
  Tape& tape;
  DType compute = DType::f32;
  bool training = false;
  uint64_t seed = 0;
  uint64_t stream = 0;
};

/// Rows of a large product handled at one time: at most as many as the backend likes, all chunks about equal.
inline int64_t rowChunk(int64_t rows) {
  constexpr int64_t unit = 16;
  const int64_t most = backend().product.rowsTogether(), chunks = (rows + most - 1) / most;
  return chunks <= 1 ? rows : ((rows + chunks - 1) / chunks + unit - 1) / unit * unit;
}

}  // namespace duet
