// What a forward pass carries along: the tape, the compute type of the large products, and the
// source of dropout (each draw of a pass takes the next stream).
#pragma once

#include "autograd/tape.h"

namespace duet {

struct Context {
  Tape& tape;
  DType compute = DType::f32;
  bool training = false;
  uint64_t seed = 0;
  uint64_t stream = 0;
};

/// Rows of a large product handled at one time, so that what lies between two products stays in cache.
constexpr int64_t kRowChunk = 512;

/// The same for a given number of rows: at most kRowChunk, all chunks about equal.
inline int64_t rowChunk(int64_t rows) {
  constexpr int64_t unit = 16;
  const int64_t chunks = (rows + kRowChunk - 1) / kRowChunk;
  return chunks <= 1 ? rows : ((rows + chunks - 1) / chunks + unit - 1) / unit * unit;
}

}  // namespace duet
