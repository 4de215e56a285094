// The gate of gated feed-forward blocks (GEGLU, Shazeer 2020): a * gelu(g) with the exact gelu, where a row
// holds the values a and then the gates g. Also the joining and splitting of columns.
#pragma once

#include "core/tensor.h"

namespace duet {

struct Gate {
  const void* before;  // rows x 2 width: [a | g]
  void* after;         // rows x width; backward: made again, null where not wanted, may be dAfter
  const void* dAfter;  // backward: rows x width
  void* dBefore;       // backward: rows x 2 width
  DType dtype;         // of all of them
  int64_t rows, width;
};

struct ColumnCopy {
  const void* from;
  int64_t fromBytes;  // of a row
  void* to;
  int64_t toBytes;
  int64_t rows, bytes;  // bytes of each row to copy
};

struct GatedKernels {
  void (*forward)(const Gate&);
  void (*backward)(const Gate&);
  void (*copyColumns)(const ColumnCopy&);
};

}  // namespace duet
