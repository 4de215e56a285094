// Hiding padded frames: for networks in which the content of a padded frame may influence nothing.
#pragma once

#include "nn/context.h"
#include "nn/picture_grid.h"

namespace duet {

/// x with the rows of hidden frames set to 0; nothing flows back into them. x itself without a mask.
/// @param x f32 rows x C @param keep null, or one byte a clip and frame that outlives the backward pass
Var zeroHiddenFrames(Context& context, const Var& x, const PictureGrid& grid, const uint8_t* keep);

}  // namespace duet
