// Where the rows of a feature map lie: clips of frames of pixels, row by row, channels last.
#pragma once

#include <cstdint>

namespace duet {

/// Row ((clip * frames + frame) * height + y) * width + x of a tensor holds the channels of one pixel.
struct PictureGrid {
  int64_t clips = 1, frames = 1, height = 1, width = 1;

  int64_t pixels() const { return height * width; }
  int64_t pictures() const { return clips * frames; }
  int64_t rows() const { return pictures() * pixels(); }
};

}  // namespace duet
