// 3x3 convolution of stride 1 by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016), f32,
// channels last. The output is cut into tiles of 2x2 pixels, each made from 4x4 pixels of input d; after
// linear transforms of input, kernel g and output a tile takes 16 products a pair of channels instead of 36:
//   y = A' [(G g G') * (B' d B)] A        B' = 1  0 -1  0    G = 1    0   0     A' = 1 1  1  0
// with * element by element, so that the       0  1  1  0        1/2  1/2 1/2        0 1 -1 -1
// sums over channels are matrix products,      0 -1  1  0        1/2 -1/2 1/2
// one for each of the 16 places (planes)       0  1  0 -1        0    0   1
// of a 4x4 tile. Pixels outside are zero.
// The gradient of the input is the same convolution with channels exchanged and taps reversed.
#pragma once

#include <cstdint>

namespace duet {

struct WinogradPictures {
  int64_t pictures, height, width;

  int64_t across() const { return (width + 1) / 2; }
  int64_t tilesOfPicture() const { return (height + 1) / 2 * across(); }
  int64_t tiles() const { return pictures * tilesOfPicture(); }
};

struct WinogradConvolution {
  WinogradPictures shape;
  int64_t in, out;
  const float* x;
  const float* kernel;    // transformed
  const float* bias;      // null, or out
  const float* residual;  // null, or of the shape of y; may be y
  float* y;
};

struct WinogradGradient {
  WinogradPictures shape;
  int64_t in, out;
  const float* x;
  const float* dy;
  float* scratch;
  float* dWeight;  // [out, 3, 3, in]
  bool accumulate;
};

/// All null where the backend does without.
struct WinogradKernels {
  /// Floats of a transformed kernel.
  int64_t (*kernelFloats)(int64_t in, int64_t out);
  /// Transforms a kernel [out, 3, 3, in]; `back` for the gradient of the input, a convolution from out to in.
  void (*transformKernel)(const float* weight, int64_t in, int64_t out, bool back, float* kernel);
  void (*convolve)(const WinogradConvolution&);
  /// Floats of scratch memory of `gradient`.
  int64_t (*gradientFloats)(const WinogradPictures&, int64_t in, int64_t out);
  /// dWeight (+)= the gradient of the kernel.
  void (*gradient)(const WinogradGradient&);
};

}  // namespace duet
