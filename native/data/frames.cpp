// Frames of animated stickers; the formulas are those of Pillow (src/libImaging: Convert.c, Paste.c).

#include "data/frames.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "data/pictures.h"

namespace duet {
namespace {

/// a * b / 255, rounded.
int multiply255(int a, int b) {
  const int t = a * b + 128;
  return (t + (t >> 8)) >> 8;
}

void premultiply(std::vector<uint8_t>& rgba) {
  for (size_t i = 0; i < rgba.size(); i += 4) {
    for (int channel = 0; channel < 3; ++channel)
      rgba[i + channel] = static_cast<uint8_t>(multiply255(rgba[i + channel], rgba[i + 3]));
  }
}

void unpremultiply(std::vector<uint8_t>& rgba) {
  for (size_t i = 0; i < rgba.size(); i += 4) {
    const int alpha = rgba[i + 3];
    if (alpha == 0 || alpha == 255) continue;
    for (int channel = 0; channel < 3; ++channel)
      rgba[i + channel] = static_cast<uint8_t>(std::min(255, 255 * rgba[i + channel] / alpha));
  }
}

void requireChannels(int channels) {
  require(channels == 3 || channels == 4, "Expected 3 or 4 channels but received ", channels);
}

uint8_t toByte(float value) {
  // NaN becomes 0: a comparison with it is false.
  const float scaled = (value + 1.0f) * 0.5f * 255.0f;
  return scaled > 0.0f ? static_cast<uint8_t>(std::lround(std::min(scaled, 255.0f))) : uint8_t{0};
}

/// c from c * alpha + 255 * (1 - alpha).
uint8_t withoutWhite(int onWhite, int alpha) {
  if (alpha == 0) return 255;
  const int color = (255 * (onWhite - 255 + alpha) + alpha / 2) / alpha;
  return static_cast<uint8_t>(color < 0 ? 0 : color > 255 ? 255 : color);
}

/// Between which two positions of the input one of the output lies, and how near it is to the second.
struct Between {
  int first, second;
  float share;
};

std::vector<Between> bilinear(int inSize, int outSize) {
  std::vector<Between> places(outSize);
  for (int out = 0; out < outSize; ++out) {
    const double at = std::max((out + 0.5) * inSize / outSize - 0.5, 0.0);
    const int first = static_cast<int>(at);
    places[out] = {first, std::min(first + 1, inSize - 1), static_cast<float>(at - first)};
  }
  return places;
}

}  // namespace

std::vector<uint8_t> resizeRgba(std::span<const uint8_t> strip, int count, int width, int height,
                                int outWidth, int outHeight) {
  require(count >= 1 && width >= 1 && height >= 1, "Expected at least 1 frame of 1x1 pixels but received ",
          count, " of ", width, "x", height);
  const size_t frame = static_cast<size_t>(width) * height * 4;
  require(strip.size() == frame * count, "Expected ", frame * count, " bytes of RGBA for ", count,
          " frames of ", width, "x", height, " but received ", strip.size());
  if (width == outWidth && height == outHeight) return {strip.begin(), strip.end()};

  std::vector<uint8_t> result;
  for (int i = 0; i < count; ++i) {
    const auto source = strip.subspan(i * frame, frame);
    std::vector<uint8_t> pixels(source.begin(), source.end());
    premultiply(pixels);
    pixels = resizeBicubic(pixels, width, height, outWidth, outHeight, 4);
    unpremultiply(pixels);
    if (i == 0) result.reserve(pixels.size() * count);
    result.insert(result.end(), pixels.begin(), pixels.end());
  }
  return result;
}

std::vector<uint8_t> compositeOnWhite(std::span<const uint8_t> rgba, bool keepAlpha) {
  require(rgba.size() % 4 == 0, "Expected a multiple of 4 bytes of RGBA but received ", rgba.size());
  const size_t pixels = rgba.size() / 4, channels = keepAlpha ? 4 : 3;
  std::vector<uint8_t> result(pixels * channels);
  for (size_t i = 0; i < pixels; ++i) {
    const int alpha = rgba[4 * i + 3];
    for (int channel = 0; channel < 3; ++channel) {
      const int t = alpha * rgba[4 * i + channel] + (255 - alpha) * 255 + 128;
      result[channels * i + channel] = static_cast<uint8_t>((t + (t >> 8)) >> 8);
    }
    if (keepAlpha) result[channels * i + 3] = static_cast<uint8_t>(alpha);
  }
  return result;
}

std::vector<float> stackClips(const std::vector<ClipView>& clips, int frames, int height, int width,
                              int channels) {
  requireChannels(channels);
  require(!clips.empty(), "Expected at least 1 clip in the batch but received 0");
  require(frames >= 1 && height >= 1 && width >= 1, "Expected at least 1 frame of 1x1 pixels but received ",
          frames, " of ", width, "x", height);
  const size_t plane = static_cast<size_t>(height) * width;
  const double values = static_cast<double>(clips.size()) * channels * frames * static_cast<double>(plane);
  require(values < std::numeric_limits<int32_t>::max(), "Expected a batch of fewer than 2^31 values but ",
          clips.size(), " clips of ", frames, " frames need ", values, "; use a smaller batch or size");

  std::array<float, 256> table;
  for (int byte = 0; byte < 256; ++byte) table[byte] = 2.0f * (static_cast<float>(byte) / 255.0f) - 1.0f;

  std::vector<float> result(clips.size() * channels * frames * plane, 0.0f);
  for (size_t b = 0; b < clips.size(); ++b) {
    const ClipView& clip = clips[b];
    require(clip.count >= 0 && clip.count <= frames, "Expected clip ", b, " to have at most ", frames,
            " frames but received ", clip.count);
    require(clip.strip.size() == clip.count * plane * channels, "Expected ", clip.count * plane * channels,
            " bytes for clip ", b, " but received ", clip.strip.size());
    for (int frame = 0; frame < clip.count; ++frame) {
      const uint8_t* source = clip.strip.data() + frame * plane * channels;
      for (int channel = 0; channel < channels; ++channel) {
        float* target = &result[((b * channels + channel) * frames + frame) * plane];
        for (size_t i = 0; i < plane; ++i) target[i] = table[source[i * channels + channel]];
      }
    }
  }
  return result;
}

std::vector<uint8_t> framesFromValues(std::span<const float> values, int frames, int height, int width,
                                      int channels) {
  requireChannels(channels);
  require(frames >= 1 && height >= 1 && width >= 1, "Expected at least 1 frame of 1x1 pixels but received ",
          frames, " of ", width, "x", height);
  const size_t plane = static_cast<size_t>(height) * width, clip = plane * frames;
  require(values.size() == clip * channels, "Expected ", clip * channels, " values of ", channels, "x",
          frames, "x", height, "x", width, " but received ", values.size());
  std::vector<uint8_t> result(clip * 4, 255);
  for (size_t i = 0; i < clip; ++i) {
    for (int channel = 0; channel < channels; ++channel)
      result[4 * i + channel] = toByte(values[channel * clip + i]);
    if (channels == 3) continue;
    for (int channel = 0; channel < 3; ++channel)
      result[4 * i + channel] = withoutWhite(result[4 * i + channel], result[4 * i + 3]);
  }
  return result;
}

std::vector<float> resizeValues(std::span<const float> values, int height, int width, int outHeight,
                                int outWidth) {
  require(height >= 1 && width >= 1 && outHeight >= 1 && outWidth >= 1,
          "Expected sides of at least 1 pixel but received ", width, "x", height, " and ", outWidth, "x",
          outHeight);
  const size_t plane = static_cast<size_t>(height) * width,
               outPlane = static_cast<size_t>(outHeight) * outWidth;
  require(values.size() % plane == 0, "Expected planes of ", plane, " values but received ", values.size());
  const size_t planes = values.size() / plane;
  require(static_cast<double>(planes) * static_cast<double>(outPlane) < std::numeric_limits<int32_t>::max(),
          "Expected fewer than 2^31 values but ", planes, " planes of ", outWidth, "x", outHeight,
          " are more; use a smaller size");
  const std::vector<Between> rows = bilinear(height, outHeight), columns = bilinear(width, outWidth);
  std::vector<float> result(planes * outPlane);
  for (size_t p = 0; p < planes; ++p) {
    for (int y = 0; y < outHeight; ++y) {
      const float* above = &values[p * plane + static_cast<size_t>(rows[y].first) * width];
      const float* below = &values[p * plane + static_cast<size_t>(rows[y].second) * width];
      float* target = &result[p * outPlane + static_cast<size_t>(y) * outWidth];
      for (int x = 0; x < outWidth; ++x) {
        const auto [left, right, share] = columns[x];
        const float upper = above[left] + share * (above[right] - above[left]);
        const float lower = below[left] + share * (below[right] - below[left]);
        target[x] = upper + rows[y].share * (lower - upper);
      }
    }
  }
  return result;
}

}  // namespace duet
