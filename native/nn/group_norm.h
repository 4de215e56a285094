// Group norm of channels-last pictures, with the SiLU that follows it and the vector that a residual block
// adds before it (Wu and He 2018, eq. 1-3).
#pragma once

#include "nn/context.h"
#include "nn/parameter.h"
#include "nn/picture_grid.h"

namespace duet {

struct GroupNormOptions {
  int64_t groups = 1;
  float epsilon = 1e-5f;
  bool silu = false;
  bool acrossFrames = false;       // statistics over all frames of a clip instead of one picture
  const Var* clipShift = nullptr;  // f32 [clips, channels], added to x first (time embedding)
  DType outType = DType::f32;      // f32 or the compute type
};

/// @param x f32, rows x channels @returns the same shape
Var groupNorm(Context& context, const Var& x, const PictureGrid& grid, Parameter& gamma, Parameter& beta,
              const GroupNormOptions& options);

}  // namespace duet
