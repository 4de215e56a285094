// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): a
// counter-based generator. Every draw is a pure function of (seed, stream, counter), so any device
// and any number of threads produce the same numbers.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include "core/both.h"

namespace duet {

struct Philox {
  uint64_t seed = 0;
  uint64_t stream = 0;

  /// Four independent 32-bit words for one counter value.
  DUET_BOTH std::array<uint32_t, 4> words(uint64_t counter) const {
    std::array<uint32_t, 4> c{static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32),
                              static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
      const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
      c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
           static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return c;
  }

  /// Uniform in [0, 1) with 24 bits.
  DUET_BOTH static float uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

  /// Two standard normal draws from two words (Box-Muller).
  static std::array<float, 2> normal(uint32_t a, uint32_t b) {
    const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(a) + 1.0) * 0x1p-32));
    const double angle = 6.283185307179586 * (static_cast<double>(b) * 0x1p-32);
    return {static_cast<float>(radius * std::cos(angle)), static_cast<float>(radius * std::sin(angle))};
  }
};

/// Fills `count` floats with normal draws of the given standard deviation.
void fillNormal(float* values, int64_t count, float deviation, const Philox& generator);
/// Fills `count` floats uniformly from [-bound, bound).
void fillUniform(float* values, int64_t count, float bound, const Philox& generator);

}  // namespace duet
