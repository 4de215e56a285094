#include "nn/winograd.h"

#include <algorithm>

#include "ops/kernels.h"

namespace duet {

namespace {

/// Tiles that share the work of transforming the kernel.
constexpr int64_t kFewestTiles = 64;

/// Pictures in tiles of 4x4 pixels where that saves products, otherwise of 2x2.
WinogradPictures picturesOf(const PictureGrid& grid) {
  const WinogradPictures small{grid.pictures(), grid.height, grid.width, 2};
  const WinogradPictures large{grid.pictures(), grid.height, grid.width, 4};
  const bool saves = 4 * 36 * large.tiles() < 3 * 16 * small.tiles();
  return saves && large.tiles() >= kFewestTiles ? large : small;
}

}  // namespace

bool winogradPays(const PictureGrid& grid, const ConvolutionKernel& kernel, const ConvolutionOptions& options,
                  DType compute) {
  return backend().winograd.convolve && compute == DType::f32 && options.stride == 1 &&
         std::min(kernel.in(), kernel.out()) >= 16 && picturesOf(grid).tiles() >= kFewestTiles &&
         grid.height >= 2 && grid.width >= 2;
}

void winogradConvolve(Tape& tape, const PictureGrid& grid, const ConvolutionKernel& kernel, bool back,
                      const Tensor& from, const Parameter* bias, const float* residual, const Tensor& to) {
  const WinogradKernels& ops = backend().winograd;
  const Weights& weights = kernel.weights;
  const int64_t in = kernel.in(), out = kernel.out();
  const WinogradPictures pictures = picturesOf(grid);
  const Tensor transformed = tape.empty({ops.kernelFloats(pictures.side, in, out)});
  ops.transformKernel(pictures.side, weights.parameter->f32() + weights.firstRow * weights.in(), in, out,
                      back, transformed.f32());
  ops.convolve({pictures, back ? out : in, back ? in : out, from.f32(), transformed.f32(),
                bias ? bias->f32() : nullptr, residual, to.f32()});
}

void winogradGradient(Tape& tape, const PictureGrid& grid, ConvolutionKernel& kernel, const Tensor& x,
                      const Tensor& dy, bool accumulate) {
  const WinogradKernels& ops = backend().winograd;
  const Weights& weights = kernel.weights;
  const int64_t in = kernel.in(), out = kernel.out();
  const Tensor scratch = tape.empty({ops.gradientFloats(picturesOf(grid), in, out)});
  float* gradient = weights.parameter->gradient.f32() + weights.firstRow * weights.in();
  ops.gradient({picturesOf(grid), in, out, x.f32(), dy.f32(), scratch.f32(), gradient, accumulate});
}

}  // namespace duet
