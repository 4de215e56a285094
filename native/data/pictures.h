// Picture preparation for ViLT: Pillow's bicubic resize on 8-bit RGB and the image processor around it.
//
// Everything here is single-threaded plain C++ so that it can run on a worker thread beside training.
// Pictures are interleaved RGB, one byte a channel, rows from top to bottom without padding
// (`rgb.size() == width * height * 3`). Prepared batches are planar float32 [B, 3, H, W].
//
// Sources: Pillow's src/libImaging/Resample.c (the resize, bit for bit) and the ViltImageProcessor of
// Hugging Face transformers (the rule of sizes, rescaling, normalisation, padding, pixel mask).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace duet {

/// A picture that somebody else owns: interleaved 8-bit RGB of `width * height * 3` bytes.
struct PictureView {
  std::span<const uint8_t> rgb;
  int width = 0;
  int height = 0;
};

/// What the image processor does; the defaults are those of `vilt-b32`.
struct PictureSpec {
  /// Length in pixels to which the shorter side is scaled.
  int shortestEdge = 384;
  /// Cap in pixels for the longer side; 0 means int(1333 / 800 * shortestEdge), the published ratio.
  int longestEdge = 0;
  /// Both sides are floored to a multiple of this, and kept at one multiple at least.
  int sizeDivisor = 32;
  /// false: pictures already have their final size (the result of an earlier resize) and are taken as they
  /// are.
  bool resize = true;
  /// Applied to the byte in double precision, then rounded to float32.
  double rescaleFactor = 1.0 / 255.0;
  /// Per channel (R, G, B), after rescaling: (x - mean) / std.
  std::array<float, 3> mean{0.5f, 0.5f, 0.5f};
  std::array<float, 3> std{0.5f, 0.5f, 0.5f};
  /// Pads every batch to at least this height and width (0: to the largest picture of the batch).
  int minHeight = 0;
  int minWidth = 0;
};

struct PictureSize {
  int width = 0;
  int height = 0;
  /// True when a side had to be raised to one `sizeDivisor` because the published rule would give 0 pixels.
  bool raised = false;
};

/// One batch, padded with 0 (after normalisation) at the right and the bottom.
struct PreparedPictures {
  int batch = 0;
  int height = 0;
  int width = 0;
  /// [batch, 3, height, width]
  std::vector<float> pixelValues;
  /// [batch, height, width], 1 on real pixels
  std::vector<uint8_t> pixelMask;
  /// The size of every picture before padding.
  std::vector<PictureSize> sizes;
};

/// Size after the published rule: scale the shorter side to `shortestEdge`; if the longer side is then above
/// `longestEdge`, scale both by longestEdge / longer; round by int(x + 0.5); floor to a multiple of
/// `sizeDivisor`, at least one multiple. Throws InvalidArgument for sizes below 1 or an impossible spec.
PictureSize resizedSize(const PictureSpec& spec, int width, int height);

/// Pillow's `Image.resize((outWidth, outHeight), BICUBIC)` on RGB or any four channels, exactly: a = -0.5,
/// support widened when shrinking, coefficients in fixed point with 32 - 8 - 2 bits, horizontal pass first,
/// 8-bit result of each pass. Returns outWidth * outHeight * channels bytes. Throws InvalidArgument when
/// `pixels` does not hold width * height * channels bytes or a size is below 1 or above 65535.
std::vector<uint8_t> resizeBicubic(std::span<const uint8_t> pixels, int width, int height, int outWidth,
                                   int outHeight, int channels = 3);

/// The whole image processor for one batch. Throws InvalidArgument for an empty batch, a picture whose bytes
/// do not fit its size (the message names its index) or a batch of 2^31 values or more.
PreparedPictures preparePictures(const std::vector<PictureView>& pictures, const PictureSpec& spec);

}  // namespace duet
