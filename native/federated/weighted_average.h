// What a server does with the adapters that come back: their weighted sum, in float32, set after set.
#pragma once

#include <span>
#include <vector>

namespace duet {

/// out[i] = sum over sets of sets[s][i] * weights[s], added up in the order given, starting from 0.
/// Throws InvalidArgument unless there is at least one set, one weight a set, and one length.
std::vector<float> weightedAverage(const std::vector<std::span<const float>>& sets,
                                   const std::vector<float>& weights);

/// sum[i] += values[i] * weight: one set of the above, for sets that are not in memory together. Throws
/// InvalidArgument unless both have one length.
void accumulate(std::span<float> sum, std::span<const float> values, float weight);

/// Euclidean distance in f64; not finite when an element of either is not.
double distance(std::span<const float> a, std::span<const float> b);

}  // namespace duet
