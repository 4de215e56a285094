#include "federated/update_codec.h"

#include <algorithm>
#include <cmath>

namespace duet {

namespace {

constexpr int kZero = 128, kMost = 127;

void requireLength(size_t received, size_t expected, const char* what) {
  if (received != expected) fail(Code::Corrupt, "Expected ", expected, " ", what, " but received ", received);
}

void requireFinite(float value, Code code, size_t place) {
  if (!std::isfinite(value)) fail(code, "Expected a finite number at place ", place, " but received ", value);
}

float difference(std::span<const float> values, std::span<const float> received, size_t i) {
  return static_cast<float>(static_cast<double>(values[i]) - static_cast<double>(received[i]));
}

size_t blocksOf(size_t values) { return (values + kInt8Block - 1) / kInt8Block; }

}  // namespace

Int8Update encodeInt8(std::span<const float> values, std::span<const float> received,
                      const std::optional<Philox>& generator, uint64_t counter) {
  requireLength(values.size(), received.size(), "values, as many as received,");
  Int8Update out{std::vector<uint8_t>(values.size()), std::vector<float>(blocksOf(values.size()))};
  float differences[kInt8Block];
  for (size_t block = 0; block < out.scales.size(); ++block) {
    const size_t first = block * kInt8Block, count = std::min(kInt8Block, values.size() - first);
    float largest = 0;
    for (size_t i = 0; i < count; ++i) {
      differences[i] = difference(values, received, first + i);
      requireFinite(differences[i], Code::NotFinite, first + i);
      largest = std::max(largest, std::fabs(differences[i]));
    }
    const float scale = out.scales[block] = largest / kMost;
    std::array<uint32_t, 4> words{};
    for (size_t i = 0; i < count; ++i) {
      if (generator && i % 4 == 0) words = generator->words(counter + (first + i) / 4);
      const double steps = scale > 0 ? static_cast<double>(differences[i]) / scale : 0.0;
      const double rounded =
          generator ? std::floor(steps + Philox::uniform(words[i % 4])) : std::nearbyint(steps);
      const int whole = static_cast<int>(std::clamp<double>(rounded, -kMost, kMost));
      out.values[first + i] = static_cast<uint8_t>(whole + kZero);
    }
  }
  return out;
}

std::vector<float> decodeInt8(std::span<const uint8_t> values, std::span<const float> scales,
                              std::span<const float> received) {
  requireLength(values.size(), received.size(), "values");
  requireLength(scales.size(), blocksOf(values.size()), "scales");
  std::vector<float> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const float scale = scales[i / kInt8Block];
    if (values[i] == 0) fail(Code::Corrupt, "Expected a value from 1 to 255 at place ", i, " but received 0");
    if (!(scale >= 0))
      fail(Code::Corrupt, "Expected a scale of at least 0 at place ", i / kInt8Block, " but received ",
           scale);
    out[i] = received[i] + scale * static_cast<float>(values[i] - kZero);
    requireFinite(out[i], Code::Corrupt, i);
  }
  return out;
}

bool allFinite(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

std::vector<bf16> encodeBf16(std::span<const float> values, std::span<const float> received) {
  requireLength(values.size(), received.size(), "values, as many as received,");
  std::vector<bf16> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    out[i] = toBf16(difference(values, received, i));
    requireFinite(toFloat(out[i]), Code::NotFinite, i);
  }
  return out;
}

std::vector<float> decodeBf16(std::span<const bf16> values, std::span<const float> received) {
  requireLength(values.size(), received.size(), "values");
  std::vector<float> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    out[i] = received[i] + toFloat(values[i]);
    requireFinite(out[i], Code::Corrupt, i);
  }
  return out;
}

}  // namespace duet
