// 2-D convolution of channels-last pictures with 3x3 or 1x1 kernels.
#pragma once

#include "nn/context.h"
#include "nn/parameter.h"
#include "nn/picture_grid.h"

namespace duet {

enum class ConvolutionPadding {
  same,         // one pixel of zeros on all sides (3x3) or none (1x1); output ceil(size / stride)
  rightBottom,  // one pixel of zeros at the right and at the bottom only (3x3, stride 2)
};

/// The kernel lies as [out, kh, kw, in] in its parameter (published files have [out, in, kh, kw]).
struct ConvolutionKernel {
  Weights weights;  // of a parameter of two dimensions, [out, size * size * in]
  int64_t size = 3;

  int64_t out() const { return weights.out(); }
  int64_t in() const { return weights.in() / (size * size); }
};

struct ConvolutionOptions {
  int64_t stride = 1;
  ConvolutionPadding padding = ConvolutionPadding::same;
  const Var* residual = nullptr;  // f32, shape of y
  DType outType = DType::f32;     // f32 or the compute type
};

/// The grid of the output.
PictureGrid convolved(const PictureGrid& grid, int64_t kernelSize, const ConvolutionOptions& options);

/// @param x rows x in, of the compute type @returns rows' x out (cross-correlation, zero padding)
Var convolution(Context& context, const Var& x, const PictureGrid& grid, ConvolutionKernel& kernel,
                Parameter* bias, const ConvolutionOptions& options = {});

}  // namespace duet
