#include "federated/update_noise.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/cancel.h"

namespace duet {

namespace {

constexpr size_t kValuesBetweenCancelPoints = 1 << 16;

void requireLength(std::span<const float> values, std::span<const float> received) {
  require(values.size() == received.size(), "Expected ", received.size(),
          " values, as many as received, but received ", values.size());
}

/// Uniform in [0, 1) with 53 bits.
double uniform(const uint8_t* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return static_cast<double>(word >> 11) * 0x1p-53;
}

}  // namespace

std::vector<float> noisyUpdate(std::span<const float> values, std::span<const float> received,
                               std::span<const uint8_t> random, const UpdateNoise& noise) {
  requireLength(values, received);
  const size_t pairs = noise.grid > 0 ? (values.size() + 1) / 2 : 0;
  require(random.size() == 16 * pairs, "Expected ", 16 * pairs, " random bytes for ", values.size(),
          " values but received ", random.size());
  int exponent;
  require(noise.grid == 0 || std::frexp(noise.grid, &exponent) == 0.5,
          "Expected a power of two for grid but received ", noise.grid);
  std::vector<float> out(values.size());
  const auto difference = [&](size_t i) {
    return noise.factor * (static_cast<double>(values[i]) - static_cast<double>(received[i]));
  };
  if (pairs == 0) {
    for (size_t i = 0; i < values.size(); ++i)
      out[i] = static_cast<float>(static_cast<double>(received[i]) + difference(i));
    return out;
  }
  const double perStep = 1 / noise.grid;  // exact
  const auto release = [&](size_t i, double normal) {
    const double steps = std::trunc(difference(i) * perStep) + std::nearbyint(noise.deviation * normal);
    out[i] = static_cast<float>(static_cast<double>(received[i]) + steps * noise.grid);
  };
  for (size_t pair = 0; pair < pairs; ++pair) {
    if (pair % kValuesBetweenCancelPoints == 0) cancelPoint();
    const uint8_t* bytes = random.data() + 16 * pair;
    const double radius = std::sqrt(-2 * std::log(1 - uniform(bytes)));
    const double angle = 6.283185307179586 * uniform(bytes + 8);
    release(2 * pair, radius * std::cos(angle));
    if (2 * pair + 1 < values.size()) release(2 * pair + 1, radius * std::sin(angle));
  }
  return out;
}

}  // namespace duet
