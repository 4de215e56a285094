// What turns a 2-D convolution of channels-last pictures into matrix products: rows of patches. A patch holds
// the pixels under the kernel, tap after tap (kh, then kw), each with all its channels; outside the picture
// it is zero. Forward and weight gradient take patches of x; the input gradient takes patches of dy and the
// kernel with its taps and channels exchanged.
#pragma once

#include "core/tensor.h"

namespace duet {

struct PatchGather {
  const void* x;  // pictures x height x width x channels
  DType dtype;
  void* patches;  // rows x (size * size * channels), the same type; not of an operand of a product
  int64_t height, width, channels;
  int64_t outHeight, outWidth;  // pixels of the pictures whose rows are wanted
  int64_t firstRow, rows;       // among pictures x outHeight x outWidth
  int64_t size, stride, padding;
  bool transposed;  // rows are pixels of the input of the convolution, x is the gradient of its output
};

struct PatchSum {
  const float* patches;  // rows of pictures x patchHeight x patchWidth, each size * size * channels
  void* y;               // pictures x height x width x channels
  DType yType;
  bool accumulate;  // y += instead of y =
  int64_t pictures, height, width, channels;
  int64_t patchHeight, patchWidth;
  int64_t size, stride, padding;
};

struct ConvolutionKernels {
  void (*gatherPatches)(const PatchGather&);
  /// Back: every pixel of y is the sum of its places in the patches. With a stride above 1 this costs less
  /// than patches of dy, most of which would be zero.
  void (*sumPatches)(const PatchSum&);
};

}  // namespace duet
