// The image processor of ViLT for one batch: sizes, resize, rescale, normalise, pad, mask.

#include "data/pictures.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace duet {
namespace {

constexpr int kChannels = 3;

void check(const PictureSpec& spec) {
  require(spec.shortestEdge >= 1, "Expected shortestEdge of at least 1 pixel but received ",
          spec.shortestEdge);
  require(spec.longestEdge >= 0, "Expected longestEdge of at least 0 pixels but received ", spec.longestEdge);
  require(spec.sizeDivisor >= 1, "Expected sizeDivisor of at least 1 pixel but received ", spec.sizeDivisor);
  require(std::isfinite(spec.rescaleFactor), "Expected a finite rescaleFactor but received ",
          spec.rescaleFactor);
  for (int channel = 0; channel < kChannels; ++channel) {
    require(std::isfinite(spec.mean[channel]), "Expected a finite mean for channel ", channel,
            " but received ", spec.mean[channel]);
    require(std::isfinite(spec.std[channel]) && spec.std[channel] != 0.0f,
            "Expected a finite std other than 0 for channel ", channel, " but received ", spec.std[channel]);
  }
}

/// The 256 values a byte can become, per channel: rescaled in double, then normalised in float32.
using Table = std::array<std::array<float, 256>, kChannels>;

Table tableOf(const PictureSpec& spec) {
  Table table;
  for (int channel = 0; channel < kChannels; ++channel) {
    for (int byte = 0; byte < 256; ++byte) {
      const float rescaled = static_cast<float>(byte * spec.rescaleFactor);
      table[channel][byte] = (rescaled - spec.mean[channel]) / spec.std[channel];
    }
  }
  return table;
}

/// Writes one picture into the top-left corner of its zeroed planes.
void place(const uint8_t* rgb, PictureSize size, const Table& table, float* planes, uint8_t* mask, int height,
           int width) {
  const size_t plane = static_cast<size_t>(height) * width;
  for (int y = 0; y < size.height; ++y) {
    const uint8_t* row = rgb + static_cast<size_t>(y) * size.width * kChannels;
    float* target = planes + static_cast<size_t>(y) * width;
    for (int x = 0; x < size.width; ++x) {
      target[x] = table[0][row[x * kChannels]];
      target[plane + x] = table[1][row[x * kChannels + 1]];
      target[2 * plane + x] = table[2][row[x * kChannels + 2]];
    }
    std::fill_n(mask + static_cast<size_t>(y) * width, size.width, uint8_t{1});
  }
}

}  // namespace

PictureSize resizedSize(const PictureSpec& spec, int width, int height) {
  check(spec);
  require(width >= 1 && height >= 1, "Expected a picture of at least 1x1 pixels but received ", width, "x",
          height);
  const double shortest = spec.shortestEdge;
  const double longest = spec.longestEdge > 0 ? spec.longestEdge : std::floor(1333.0 / 800.0 * shortest);
  const double scale = shortest / std::min(width, height);
  double newHeight = height < width ? shortest : scale * height;
  double newWidth = height < width ? scale * width : shortest;
  if (std::max(newHeight, newWidth) > longest) {
    const double shrink = longest / std::max(newHeight, newWidth);
    newHeight *= shrink;
    newWidth *= shrink;
  }
  const auto floored = [&](double side) {
    return static_cast<int>(side + 0.5) / spec.sizeDivisor * spec.sizeDivisor;
  };
  const int flooredWidth = floored(newWidth);
  const int flooredHeight = floored(newHeight);
  return {std::max(flooredWidth, spec.sizeDivisor), std::max(flooredHeight, spec.sizeDivisor),
          flooredWidth == 0 || flooredHeight == 0};
}

PreparedPictures preparePictures(const std::vector<PictureView>& pictures, const PictureSpec& spec) {
  check(spec);
  require(!pictures.empty(), "Expected at least 1 picture in the batch but received 0");

  PreparedPictures result;
  result.batch = static_cast<int>(pictures.size());
  result.height = std::max(spec.minHeight, 0);
  result.width = std::max(spec.minWidth, 0);
  for (size_t i = 0; i < pictures.size(); ++i) {
    const PictureView& picture = pictures[i];
    require(picture.width >= 1 && picture.height >= 1, "Expected picture ", i,
            " of the batch to have at least 1x1 pixels but received ", picture.width, "x", picture.height);
    const size_t expected = static_cast<size_t>(picture.width) * picture.height * kChannels;
    require(picture.rgb.size() == expected, "Expected ", expected, " bytes of RGB for picture ", i, " of ",
            picture.width, "x", picture.height, " but received ", picture.rgb.size());
    const PictureSize size = spec.resize ? resizedSize(spec, picture.width, picture.height)
                                         : PictureSize{picture.width, picture.height, false};
    result.sizes.push_back(size);
    result.height = std::max(result.height, size.height);
    result.width = std::max(result.width, size.width);
  }

  const size_t plane = static_cast<size_t>(result.height) * result.width;
  const double values = static_cast<double>(pictures.size()) * kChannels * static_cast<double>(plane);
  require(values < std::numeric_limits<int32_t>::max(),
          "Expected a batch of fewer than 2^31 pixel values but ", result.batch, " pictures padded to ",
          result.width, "x", result.height, " need ", values, "; use a smaller batch or shortestEdge");
  result.pixelValues.assign(pictures.size() * kChannels * plane, 0.0f);
  result.pixelMask.assign(pictures.size() * plane, 0);

  const Table table = tableOf(spec);
  for (size_t i = 0; i < pictures.size(); ++i) {
    const PictureView& picture = pictures[i];
    const PictureSize size = result.sizes[i];
    float* planes = result.pixelValues.data() + i * kChannels * plane;
    uint8_t* mask = result.pixelMask.data() + i * plane;
    if (size.width == picture.width && size.height == picture.height) {
      place(picture.rgb.data(), size, table, planes, mask, result.height, result.width);
    } else {
      const std::vector<uint8_t> resized =
          resizeBicubic(picture.rgb, picture.width, picture.height, size.width, size.height);
      place(resized.data(), size, table, planes, mask, result.height, result.width);
    }
  }
  return result;
}

}  // namespace duet
