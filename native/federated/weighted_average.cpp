#include "federated/weighted_average.h"

#include <cmath>

#include "core/cancel.h"
#include "ops/kernels.h"

namespace duet {

namespace {

void requireSameLength(std::span<const float> a, std::span<const float> b) {
  require(a.size() == b.size(), "Expected sets of one length, ", a.size(), ", but one has ", b.size());
}

}  // namespace

std::vector<float> weightedAverage(const std::vector<std::span<const float>>& sets,
                                   const std::vector<float>& weights) {
  require(!sets.empty(), "Expected at least one set to average but received none");
  require(weights.size() == sets.size(), "Expected ", sets.size(), " weights, one a set, but received ",
          weights.size());
  for (const auto& set : sets) requireSameLength(sets[0], set);
  std::vector<float> sum(sets[0].size(), 0.0f);
  for (size_t i = 0; i < sets.size(); ++i) {
    cancelPoint();
    accumulate(sum, sets[i], weights[i]);
  }
  return sum;
}

void accumulate(std::span<float> sum, std::span<const float> values, float weight) {
  requireSameLength(sum, values);
  if (sum.empty()) return;
  backend().elementwise.scale(values.data(), weight, sum.data(), static_cast<int64_t>(sum.size()), true);
}

double distance(std::span<const float> a, std::span<const float> b) {
  requireSameLength(a, b);
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - b[i];
    squares += difference * difference;
  }
  return std::sqrt(squares);
}

}  // namespace duet
