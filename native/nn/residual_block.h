// The residual block of a frame-wise U-Net (Ho et al. 2020, appendix B): two 3x3 convolutions with group norm
// and SiLU before each, the time embedding added between them.
#pragma once

#include <string>

#include "nn/context.h"
#include "nn/parameter_list.h"
#include "nn/picture_grid.h"

namespace duet {

struct ResidualBlockShape {
  int64_t in = 0, out = 0;
  int64_t time = 0;  // width of the time embedding; 0: none
  int64_t groups = 1;
  float epsilon = 1e-5f;
};

class ResidualBlock {
 public:
  ResidualBlock(ParameterList& list, const std::string& name, const ResidualBlockShape& shape);

  /// x' + conv2(SiLU(norm2(conv1(SiLU(norm1(x))) + W t))), x' = x or its 1x1 convolution where widths differ.
  /// @param x f32 rows x in @param time f32 clips x time, SiLU already applied; undefined without one
  Var forward(Context& context, const Var& x, const PictureGrid& grid, const Var& time);

 private:
  ResidualBlockShape shape_;
  NormLayer norm1_, norm2_;
  ConvolutionLayer conv1_, conv2_, shortcut_;
  LinearLayer time_;
};

}  // namespace duet
