// 3x3 convolution of stride 1 by Winograd's minimal filtering F(m x m, 3x3), m = 2 or 4 (Lavin and Gray
// 2016), f32, channels last. The output is cut into tiles of m x m pixels, each made from (m + 2)^2 pixels of
// input d; after linear transforms of input, kernel g and output a tile takes (m + 2)^2 products a pair of
// channels instead of 9 m^2: 16 of 36, or 36 of 144.
//   y = A' [(G g G') * (B' d B)] A,   * element by element, so that the sums over channels are matrix
//   products,
// one for each of the (m + 2)^2 places (planes) of a tile. Pixels outside are zero. Along a side they are,
// for m = 2,
//   B' = 1  0 -1  0    G = 1    0   0     A' = 1 1  1  0
//        0  1  1  0        1/2  1/2 1/2        0 1 -1 -1
//        0 -1  1  0        1/2 -1/2 1/2
//        0  1  0 -1        0    0   1
// and for m = 4, with the polynomials' points 0, a, -a, b, -b and infinity, a = 2/3 = 1 / b,
//   B' = 1  0 -s  0 1 0    G = 1  0    0          A' = 1 1   1   1   1   0    s  = a^2 + b^2
//        0 -b -b2 a 1 0        c  ca   ca2             0 a  -a   b  -b   0    c  = 1 / (2 a^2 (a^2 - b^2))
//        0  b -b2 -a 1 0       c -ca   ca2             0 a2  a2  b2  b2  0    e  = 1 / (2 b^2 (b^2 - a^2))
//        0 -a -a2 b 1 0        e  eb   eb2             0 a3 -a3  b3 -b3  1
//        0  a -a2 -b 1 0       e -eb   eb2
//        0  1  0 -s 0 1        0  0    1
// The customary a = 1, b = 2 round twice as badly: 2.3e-6 of the result instead of 1.0e-6 with 128 normal
// channels; m = 2 gives 0.4e-6 and sums one by one 0.2e-6.
// The gradient of the input is the same convolution with channels exchanged and taps reversed.
#pragma once

#include <cstdint>

namespace duet {

struct WinogradPictures {
  int64_t pictures, height, width;
  int64_t side;  // m: pixels of a tile of the output along an edge

  int64_t across() const { return (width + side - 1) / side; }
  int64_t tilesOfPicture() const { return (height + side - 1) / side * across(); }
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
  /// Floats of a kernel transformed for tiles of `side`.
  int64_t (*kernelFloats)(int64_t side, int64_t in, int64_t out);
  /// Transforms a kernel [out, 3, 3, in]; `back` for the gradient of the input, a convolution from out to in.
  void (*transformKernel)(int64_t side, const float* weight, int64_t in, int64_t out, bool back,
                          float* kernel);
  void (*convolve)(const WinogradConvolution&);
  /// Floats of scratch memory of `gradient`.
  int64_t (*gradientFloats)(const WinogradPictures&, int64_t in, int64_t out);
  /// dWeight (+)= the gradient of the kernel.
  void (*gradient)(const WinogradGradient&);
};

}  // namespace duet
