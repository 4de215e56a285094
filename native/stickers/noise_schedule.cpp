#include "stickers/noise_schedule.h"

#include <cmath>

#include "core/error.h"

namespace duet {

std::vector<float> cumulativeAlphas(const NoiseScheduleOptions& o) {
  require(o.steps >= 1, "Expected at least 1 noise step but received ", o.steps);
  require(o.betaStart > 0 && o.betaStart <= o.betaEnd && o.betaEnd < 1,
          "Expected 0 < betaStart <= betaEnd < 1 but received ", o.betaStart, " and ", o.betaEnd);
  const auto first = static_cast<float>(std::sqrt(o.betaStart)),
             last = static_cast<float>(std::sqrt(o.betaEnd));
  const float stride = o.steps > 1 ? (last - first) / static_cast<float>(o.steps - 1) : 0.0f;
  std::vector<float> left(static_cast<size_t>(o.steps));
  double product = 1.0;
  for (int64_t i = 0; i < o.steps; ++i) {
    // Counted from the nearer end, so that both ends are met exactly.
    const float root = i < o.steps / 2 ? std::fma(stride, static_cast<float>(i), first)
                                       : std::fma(-stride, static_cast<float>(o.steps - 1 - i), last);
    const float beta = root * root;
    product *= 1.0f - beta;
    left[static_cast<size_t>(i)] = static_cast<float>(product);
  }
  return left;
}

}  // namespace duet
