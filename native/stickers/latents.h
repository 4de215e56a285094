// Latents (or pixels) between the layout JavaScript speaks, [B, C, F, H, W], and the rows of the network.
#pragma once

#include <span>

#include "core/arena.h"
#include "nn/picture_grid.h"

namespace duet {

/// f32 rows x channels from [clips, channels, frames, height, width].
Tensor rowsOf(Arena& arena, std::span<const float> values, const PictureGrid& grid, int64_t channels);

/// The way back, into clips * channels * frames * height * width floats.
void publishedFrom(const Tensor& rows, const PictureGrid& grid, float* values);

}  // namespace duet
