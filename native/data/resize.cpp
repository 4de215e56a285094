// Pillow's bicubic resampling of 8-bit pictures, bit for bit (src/libImaging/Resample.c of Pillow 12).
//
// Each output pixel is a weighted sum of the input pixels under a cubic kernel (Keys, a = -0.5) centred on
// it. When shrinking, the kernel is stretched by the scale. The weights of a position are normalised in
// double precision, then rounded to fixed point; sums are kept in 32-bit integers, rounded and clipped to a
// byte after each pass.

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "data/pictures.h"

namespace duet {
namespace {

constexpr int kPrecisionBits = 32 - 8 - 2;
constexpr int kHalf = 1 << (kPrecisionBits - 1);
constexpr int kLargestSide = 65535;

double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

/// Where each output position reads (`first`, `count`) and with what weights (`taps` per position).
struct Coefficients {
  int taps = 0;
  std::vector<int> first;
  std::vector<int> count;
  std::vector<int> weight;
};

Coefficients coefficientsOf(int inSize, int outSize) {
  constexpr double kSupport = 2.0;
  const double scale = static_cast<double>(inSize) / outSize;
  const double filterScale = std::max(scale, 1.0);
  const double support = kSupport * filterScale;
  const double inverse = 1.0 / filterScale;

  Coefficients result;
  result.taps = static_cast<int>(std::ceil(support)) * 2 + 1;
  result.first.resize(outSize);
  result.count.resize(outSize);
  result.weight.assign(static_cast<size_t>(outSize) * result.taps, 0);
  std::vector<double> weights(result.taps);
  for (int out = 0; out < outSize; ++out) {
    const double center = (out + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int count = std::min(static_cast<int>(center + support + 0.5), inSize) - first;
    double sum = 0.0;
    for (int tap = 0; tap < count; ++tap) {
      weights[tap] = cubic((tap + first - center + 0.5) * inverse);
      sum += weights[tap];
    }
    int* fixed = &result.weight[static_cast<size_t>(out) * result.taps];
    for (int tap = 0; tap < count; ++tap) {
      const double weight = sum != 0.0 ? weights[tap] / sum : weights[tap];
      fixed[tap] = static_cast<int>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kPrecisionBits));
    }
    result.first[out] = first;
    result.count[out] = count;
  }
  return result;
}

uint8_t clipped(int sum) { return static_cast<uint8_t>(std::clamp(sum >> kPrecisionBits, 0, 255)); }

template <int kChannels>
void resizeRows(const uint8_t* in, int inWidth, int height, const Coefficients& at, uint8_t* out,
                int outWidth) {
  for (int y = 0; y < height; ++y) {
    const uint8_t* row = in + static_cast<size_t>(y) * inWidth * kChannels;
    uint8_t* target = out + static_cast<size_t>(y) * outWidth * kChannels;
    for (int x = 0; x < outWidth; ++x) {
      const int* weight = &at.weight[static_cast<size_t>(x) * at.taps];
      const uint8_t* pixel = row + static_cast<size_t>(at.first[x]) * kChannels;
      int sum[kChannels];
      for (int channel = 0; channel < kChannels; ++channel) sum[channel] = kHalf;
      for (int tap = 0; tap < at.count[x]; ++tap, pixel += kChannels) {
        for (int channel = 0; channel < kChannels; ++channel) sum[channel] += pixel[channel] * weight[tap];
      }
      for (int channel = 0; channel < kChannels; ++channel)
        target[x * kChannels + channel] = clipped(sum[channel]);
    }
  }
}

/// Sums whole rows at a time, so that the inner loop runs over neighbouring bytes.
void resizeColumns(const uint8_t* in, size_t stride, const Coefficients& at, uint8_t* out, int outHeight) {
  std::vector<int> sum(stride);
  for (int y = 0; y < outHeight; ++y) {
    const int* weight = &at.weight[static_cast<size_t>(y) * at.taps];
    std::fill(sum.begin(), sum.end(), kHalf);
    for (int tap = 0; tap < at.count[y]; ++tap) {
      const uint8_t* row = in + (static_cast<size_t>(at.first[y]) + tap) * stride;
      const int w = weight[tap];
      for (size_t i = 0; i < stride; ++i) sum[i] += row[i] * w;
    }
    uint8_t* target = out + static_cast<size_t>(y) * stride;
    for (size_t i = 0; i < stride; ++i) target[i] = clipped(sum[i]);
  }
}

void requireSide(const char* name, int value) {
  require(value >= 1 && value <= kLargestSide, "Expected ", name, " between 1 and ", kLargestSide,
          " pixels but received ", value);
}

}  // namespace

std::vector<uint8_t> resizeBicubic(std::span<const uint8_t> pixels, int width, int height, int outWidth,
                                   int outHeight, int channels) {
  requireSide("width", width);
  requireSide("height", height);
  requireSide("outWidth", outWidth);
  requireSide("outHeight", outHeight);
  require(channels == 3 || channels == 4, "Expected 3 or 4 channels but received ", channels);
  const size_t expected = static_cast<size_t>(width) * height * channels;
  require(pixels.size() == expected, "Expected ", expected, " bytes of ", channels == 3 ? "RGB" : "RGBA",
          " for a picture of ", width, "x", height, " but received ", pixels.size());

  // A pass is skipped when its length does not change, as Pillow does.
  std::vector<uint8_t> rows;
  std::span<const uint8_t> source = pixels;
  if (outWidth != width) {
    rows.resize(static_cast<size_t>(outWidth) * height * channels);
    const auto pass = channels == 3 ? resizeRows<3> : resizeRows<4>;
    pass(source.data(), width, height, coefficientsOf(width, outWidth), rows.data(), outWidth);
    source = rows;
  }
  if (outHeight == height)
    return outWidth != width ? std::move(rows) : std::vector<uint8_t>(pixels.begin(), pixels.end());
  const size_t stride = static_cast<size_t>(outWidth) * channels;
  std::vector<uint8_t> result(stride * outHeight);
  resizeColumns(source.data(), stride, coefficientsOf(height, outHeight), result.data(), outHeight);
  return result;
}

}  // namespace duet
