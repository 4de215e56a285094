#include "core/philox.h"

#include <algorithm>

namespace duet {

void fillNormal(float* values, int64_t count, float deviation, const Philox& generator) {
  for (int64_t i = 0; i < count; i += 4) {
    const auto w = generator.words(static_cast<uint64_t>(i / 4));
    const auto first = Philox::normal(w[0], w[1]);
    const auto second = Philox::normal(w[2], w[3]);
    const float draws[4] = {first[0], first[1], second[0], second[1]};
    for (int64_t j = 0; j < std::min<int64_t>(4, count - i); ++j) values[i + j] = draws[j] * deviation;
  }
}

void fillUniform(float* values, int64_t count, float bound, const Philox& generator) {
  for (int64_t i = 0; i < count; i += 4) {
    const auto w = generator.words(static_cast<uint64_t>(i / 4));
    for (int64_t j = 0; j < std::min<int64_t>(4, count - i); ++j)
      values[i + j] = (2.0f * Philox::uniform(w[j]) - 1.0f) * bound;
  }
}

}  // namespace duet
