// Parameter-free changes of picture size.
#pragma once

#include "nn/context.h"
#include "nn/picture_grid.h"

namespace duet {

/// Nearest neighbour: source index floor(i * in / out). @param x rows x C, f32 or the compute type
Var upsampleNearest(Context& context, const Var& x, const PictureGrid& grid, int64_t height, int64_t width);

/// Mean of 2x2 pixels with stride 2; an odd last row or column is dropped. @param x f32 @returns `outType`
Var averagePool(Context& context, const Var& x, const PictureGrid& grid, DType outType = DType::f32);

}  // namespace duet
