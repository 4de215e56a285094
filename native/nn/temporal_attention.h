// Attention of every pixel over the few frames of its clip.
#pragma once

#include "nn/context.h"
#include "nn/picture_grid.h"

namespace duet {

/// Queries, keys and values side by side, rows x 3D in the order of `grid`; one sequence of `frames` rows for
/// each clip and pixel. @returns rows x D in the type of `qkv`
/// @param keep null, or one byte a clip and frame: 0 hides the frame as a key
Var temporalAttention(Context& context, const Var& qkv, const PictureGrid& grid, int64_t heads,
                      const uint8_t* keep = nullptr);

}  // namespace duet
