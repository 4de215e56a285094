// Writing animated GIFs (GIF89a) with one palette for all frames.
//
// The palette is what the pixels hold (they are quantised before), made smaller if asked for. Transparency is
// on or off: alpha of 128 and more is opaque. When nothing that was opaque becomes transparent, each frame
// stores only what changed; otherwise each is drawn on an empty canvas.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace duet {

/// `rgba` is [frames, height, width, 4] with at most 255 different opaque colours; `delays` are hundredths of
/// a second, one a frame; `plays` is how often it is shown, 0 = for ever. `colors` is the
/// number of opaque colours of the palette. Throws InvalidArgument when sizes
/// do not fit or there are more colours.
std::vector<uint8_t> encodeGif(std::span<const uint8_t> rgba, int width, int height,
                               const std::vector<int>& delays, int plays, int colors = 255);

}  // namespace duet
