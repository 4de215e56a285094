// Clusters of similar frames, of which an animation's key frames are taken.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace duet {

/// k-means of `frames` vectors of one length, [frames, length], into at most `clusters`: the cluster of each.
/// It starts from the first vector and then always the one farthest from those chosen, so it needs no chance;
/// vectors that are all equal to a chosen one begin no cluster. At most 100 rounds; of equal distances the
/// first counts.
std::vector<int32_t> clusterLabels(std::span<const double> features, int frames, int clusters);

}  // namespace duet
