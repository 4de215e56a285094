// The three products of a 3x3 convolution of stride 1 in f32 by Winograd's method (ops/winograd.h): less than
// half of the multiplications of the plain way.
#pragma once

#include "autograd/tape.h"
#include "nn/picture_grid.h"

namespace duet {

/// A kernel [out, 3 * 3 * in] in its transformed form; serves forward and input gradient.
class WinogradKernel {
 public:
  /// Whether the method pays: enough tiles to make up for transforming the kernel.
  static bool pays(const PictureGrid& grid, int64_t in, int64_t out);

  WinogradKernel(Tape& tape, const float* weight, int64_t out, int64_t in);

  /// y = convolution of x + bias + residual; the last two may be null.
  void forward(const PictureGrid& grid, const float* x, const float* bias, const float* residual, float* y);
  /// dx (+)= the gradient of the input.
  void inputGradient(const PictureGrid& grid, const float* dy, float* dx, bool accumulate);

 private:
  void run(const PictureGrid& grid, const float* from, bool back, const float* bias, const float* residual,
           float* to);

  Tape& tape_;
  int64_t out_, in_;
  Tensor planes_;  // 16 planes of out x in
};

/// dWeight (+)= the gradient of the kernel.
void winogradKernelGradient(Tape& tape, const PictureGrid& grid, const float* x, const float* dy, int64_t out,
                            int64_t in, float* dWeight, bool accumulate);

}  // namespace duet
