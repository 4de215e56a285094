// Parameter-free changes of the size of channels-last pictures.
#pragma once

#include "core/tensor.h"

namespace duet {

struct Resample {
  const void* x;
  DType xType;
  void* y;
  DType yType;
  int64_t pictures, channels;
  int64_t height, width;        // of x
  int64_t outHeight, outWidth;  // of y
  bool accumulate;              // y += (backward only)
};

struct ResampleKernels {
  /// y[i, j] = x[floor(i height / outHeight), floor(j width / outWidth)]; the types are the same.
  void (*upsample)(const Resample&);
  /// Back: y[i, j] = the sum of x over all places that upsampling from y's size takes from (i, j).
  void (*upsampleBackward)(const Resample&);
  /// y[i, j] = the mean of x[2i..2i+1, 2j..2j+1]
  void (*averagePool)(const Resample&);
  /// Back: y[i, j] = x[i / 2, j / 2] / 4, or 0 in an odd last row or column.
  void (*averagePoolBackward)(const Resample&);
};

}  // namespace duet
