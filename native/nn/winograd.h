// The three products of a 3x3 convolution of stride 1 in f32 by Winograd's method (ops/winograd.h), with less
// than half of the multiplications of the plain way.
#pragma once

#include "nn/convolution.h"

namespace duet {

/// Whether the method pays: the backend has it, and enough tiles share the work of transforming the kernel.
bool winogradPays(const PictureGrid& grid, const ConvolutionKernel& kernel, const ConvolutionOptions& options,
                  DType compute);

/// to = convolution of `from` + bias + residual, the last two of which may be null; or (`back`) the gradient
/// of the input from that of the output.
void winogradConvolve(Tape& tape, const PictureGrid& grid, const ConvolutionKernel& kernel, bool back,
                      const Tensor& from, const Parameter* bias, const float* residual, const Tensor& to);

/// The gradient of the kernel is written or (`accumulate`) added to.
void winogradGradient(Tape& tape, const PictureGrid& grid, ConvolutionKernel& kernel, const Tensor& x,
                      const Tensor& dy, bool accumulate);

}  // namespace duet
