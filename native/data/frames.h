// Frames of animated stickers: resizing with transparency, white behind them, and the way to and from the
// numbers of the network.
//
// A strip is `count` frames of one size below each other, interleaved bytes without padding, four channels
// (RGBA, colours not multiplied by alpha) or three. The network's values are planar float32 in [-1, 1],
// [channels, frames, height, width].
//
// Source: the data set of the published code of RDTF (arXiv 2503.17735), which uses Pillow; bit for bit.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace duet {

/// Resizes every RGBA frame of a strip as Pillow does: colours are multiplied by alpha, resized (bicubic) and
/// divided again. Frames that have the size already are not touched.
std::vector<uint8_t> resizeRgba(std::span<const uint8_t> strip, int count, int width, int height,
                                int outWidth, int outHeight);

/// Puts RGBA pixels on white. Gives RGB, or with `keepAlpha` RGB on white followed by alpha.
std::vector<uint8_t> compositeOnWhite(std::span<const uint8_t> rgba, bool keepAlpha);

/// One clip of a batch: `count` frames of the common size, at most as many as the batch has.
struct ClipView {
  std::span<const uint8_t> strip;
  int count = 0;
};

/// Clips to values: [B, channels, frames, height, width], byte b becomes 2 * (b / 255) - 1. Frames that a
/// clip does not have are 0 (mid grey).
std::vector<float> stackClips(const std::vector<ClipView>& clips, int frames, int height, int width,
                              int channels);

/// Values of one clip, [channels, frames, height, width], to a strip of RGBA frames. Three channels are
/// opaque; the fourth is alpha, and what of white shows through is taken off the colours again. Values beyond
/// [-1, 1] are clipped.
std::vector<uint8_t> framesFromValues(std::span<const float> values, int frames, int height, int width,
                                      int channels);

/// Resizes planes of values, [planes, height, width], bilinearly; positions are pixel centres and edges
/// repeat (align_corners=False of PyTorch's interpolate, without antialiasing).
std::vector<float> resizeValues(std::span<const float> values, int height, int width, int outHeight,
                                int outWidth);

}  // namespace duet
