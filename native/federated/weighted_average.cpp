#include "federated/weighted_average.h"

#include "core/cancel.h"
#include "ops/kernels.h"

namespace duet {

std::vector<float> weightedAverage(const std::vector<std::span<const float>>& sets,
                                   const std::vector<float>& weights) {
  require(!sets.empty(), "Expected at least one set to average but received none");
  require(weights.size() == sets.size(), "Expected ", sets.size(), " weights, one a set, but received ",
          weights.size());
  const size_t length = sets[0].size();
  for (size_t i = 1; i < sets.size(); ++i) {
    require(sets[i].size() == length, "Expected sets of one length, ", length, ", but set ", i, " has ",
            sets[i].size());
  }
  std::vector<float> sum(length, 0.0f);
  for (size_t i = 0; i < sets.size() && length > 0; ++i) {
    cancelPoint();
    backend().elementwise.scale(sets[i].data(), weights[i], sum.data(), static_cast<int64_t>(length), true);
  }
  return sum;
}

}  // namespace duet
