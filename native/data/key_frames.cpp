// k-means over the frames of an animation, with the frames farthest from each other to begin with.

#include "data/key_frames.h"

#include <algorithm>
#include <limits>

#include "core/cancel.h"
#include "core/error.h"

namespace duet {
namespace {

constexpr int kRounds = 100;

double squaredDistance(const double* a, const double* b, size_t length) {
  double sum = 0;
  for (size_t i = 0; i < length; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

/// The first vector, then always the one farthest from all chosen ones.
std::vector<double> farthestFirst(const double* features, int frames, size_t length, int clusters) {
  std::vector<double> centres;
  std::vector<double> distance(frames, std::numeric_limits<double>::infinity());
  const double* chosen = features;
  while (true) {
    cancelPoint();
    centres.insert(centres.end(), chosen, chosen + length);
    for (int frame = 0; frame < frames; ++frame)
      distance[frame] = std::min(distance[frame], squaredDistance(features + frame * length, chosen, length));
    const auto farthest = std::max_element(distance.begin(), distance.end());
    if (--clusters == 0 || *farthest == 0) return centres;
    chosen = features + (farthest - distance.begin()) * length;
  }
}

int nearest(const double* feature, const std::vector<double>& centres, size_t length) {
  int best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t at = 0, label = 0; at < centres.size(); at += length, ++label) {
    const double distance = squaredDistance(feature, &centres[at], length);
    if (distance < least) {
      best = static_cast<int>(label);
      least = distance;
    }
  }
  return best;
}

}  // namespace

std::vector<int32_t> clusterLabels(std::span<const double> features, int frames, int clusters) {
  require(frames >= 1 && clusters >= 1, "Expected at least 1 frame and 1 cluster but received ", frames,
          " and ", clusters);
  require(!features.empty() && features.size() % frames == 0, "Expected ", frames,
          " vectors of one length but received ", features.size(), " numbers");
  const size_t length = features.size() / frames;
  std::vector<double> centres = farthestFirst(features.data(), frames, length, clusters);
  std::vector<int32_t> labels(frames, -1);
  for (int round = 0; round < kRounds; ++round) {
    bool changed = false;
    for (int frame = 0; frame < frames; ++frame) {
      cancelPoint();
      const int label = nearest(&features[frame * length], centres, length);
      changed |= label != labels[frame];
      labels[frame] = label;
    }
    if (!changed) break;
    // The mean of a cluster's members; an empty one stays where it is.
    const size_t count = centres.size() / length;
    std::vector<double> sums(centres.size(), 0);
    std::vector<int> members(count, 0);
    for (int frame = 0; frame < frames; ++frame) {
      ++members[labels[frame]];
      double* sum = &sums[labels[frame] * length];
      for (size_t i = 0; i < length; ++i) sum[i] += features[frame * length + i];
    }
    for (size_t label = 0; label < count; ++label) {
      if (members[label] == 0) continue;
      for (size_t i = 0; i < length; ++i)
        centres[label * length + i] = sums[label * length + i] / members[label];
    }
  }
  return labels;
}

}  // namespace duet
