// 3x3 convolution by Winograd's minimal filtering F(2x2, 3x3) (Lavin and Gray 2016): the output is cut into
// tiles of 2x2 pixels, each from 4x4 pixels of input; after linear transforms of input d, kernel g and
// output, a tile takes 16 products a pair of channels instead of 36:
//   y = A' [(G g G') * (B' d B)] A
// with * element by element, so that the sums over channels are 16 matrix products, one for each of the
// places (planes) of a 4x4 tile. Sums of f32 only; pixels outside the picture are zero.
//   B' = 1  0 -1  0    G = 1   0   0    A' = 1 1  1  0
//        0  1  1  0        1/2 1/2 1/2       0 1 -1 -1
//        0 -1  1  0        1/2 -1/2 1/2
//        0  1  0 -1        0   0   1
#pragma once

#include <cstdint>

namespace duet {

constexpr int64_t kWinogradPlanes = 16;

/// A run of the tiles of channels-last pictures. A plane holds one row of channels for each tile of the run.
struct WinogradTiles {
  int64_t height, width, channels;  // of a picture
  int64_t first, count;
  int64_t plane;  // floats from one plane to the next

  int64_t across() const { return (width + 1) / 2; }
  int64_t each() const { return (height + 1) / 2 * across(); }  // tiles of a picture
};

struct WinogradKernels {
  /// planes = B' d B
  void (*input)(const WinogradTiles&, const float* x, float* planes);
  /// y = A' planes A + bias + residual; the last two may be null, residual may be y
  void (*output)(const WinogradTiles&, const float* planes, const float* bias, const float* residual,
                 float* y);
  /// planes = A dy A': the way back through the output transform
  void (*upstream)(const WinogradTiles&, const float* dy, float* planes);
  /// planes of [out, in] = G g G' for a kernel that lies as [out, 3, 3, in]
  void (*kernel)(const float* weight, int64_t out, int64_t in, float* planes, int64_t plane);
  /// dWeight (+)= G' planes G: the way back through it
  void (*kernelGradient)(const float* planes, int64_t plane, int64_t out, int64_t in, float* dWeight,
                         bool accumulate);
};

}  // namespace duet
