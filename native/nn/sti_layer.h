// The spatio-temporal interaction layer (RDTF, arXiv 2503.17735, section 3.2). Two views of the same clip:
//   semantic(x) = x + up(attention(pool2(x)))   one sequence of all frames' 2x2-pooled pixels, no positions
//   detail(x)   = two residual 3x3 blocks over the frames as channels, the same weights for every feature
//   out         = groupNorm(w1 semantic + w2 detail)
// The result replaces x. Published start: w1 = 0, w2 = 1. The variants keep one branch alone; the closing
// norm makes its scalar superfluous, so they have neither w1 nor w2.
#pragma once

#include <string>

#include "nn/context.h"
#include "nn/detail_branch.h"
#include "nn/parameter_list.h"
#include "nn/picture_grid.h"

namespace duet {

enum class StiVariant { interaction, semantic, detail };

struct StiShape {
  int64_t channels = 0, frames = 8, groups = 1;
  int64_t heads = 8, headSize = 32;
  StiVariant variant = StiVariant::interaction;
};

/// What lies between, for comparisons with reference numbers.
struct StiTrace {
  Tensor attention, semantic, detail;
};

class StiLayer {
 public:
  StiLayer(ParameterList& list, const std::string& name, const StiShape& shape);

  /// @param x f32 rows x channels; pictures of at least 2x2 @param keep null, or one byte a clip and frame:
  /// hidden frames are no keys and enter the detail branch as zeros
  Var forward(Context& context, const Var& x, const PictureGrid& grid, const uint8_t* keep = nullptr,
              StiTrace* trace = nullptr);

 private:
  Var semantic(Context& context, const Var& x, const PictureGrid& grid, const uint8_t* keep, StiTrace* trace);

  StiShape shape_;
  Parameter w1_, w2_;
  LinearLayer qkv_, out_;
  DetailBranch detail_;
  NormLayer norm_;
};

}  // namespace duet
