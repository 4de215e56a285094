#include "data/palette.h"

#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/error.h"

namespace duet {
namespace {

struct Cluster {
  std::array<double, 3> sum{};
  double pixels = 0;
  bool alive = true;
};

double costOf(const Cluster& a, const Cluster& b) {
  double distance = 0;
  for (int channel = 0; channel < 3; ++channel) {
    const double difference = a.sum[channel] / a.pixels - b.sum[channel] / b.pixels;
    distance += difference * difference;
  }
  return a.pixels * b.pixels / (a.pixels + b.pixels) * distance;
}

}  // namespace

MergedPalette mergedPalette(const std::vector<uint32_t>& colors, const std::vector<int64_t>& counts,
                            int wanted) {
  require(colors.size() == counts.size() && colors.size() <= 256 && wanted >= 1,
          "Expected at most 256 colours with their counts and at least 1 wanted but received ", colors.size(),
          " with ", counts.size(), " and ", wanted);
  std::vector<Cluster> clusters;
  for (size_t i = 0; i < colors.size(); ++i) {
    const double pixels = static_cast<double>(counts[i]);
    clusters.push_back(
        {{pixels * (colors[i] >> 16), pixels * (colors[i] >> 8 & 255), pixels * (colors[i] & 255)}, pixels});
  }
  std::vector<size_t> clusterOf(colors.size());
  std::iota(clusterOf.begin(), clusterOf.end(), size_t{0});
  for (size_t left = colors.size(); left > static_cast<size_t>(wanted); --left) {
    double least = std::numeric_limits<double>::infinity();
    size_t first = 0, second = 0;
    for (size_t a = 0; a < clusters.size(); ++a) {
      for (size_t b = a + 1; clusters[a].alive && b < clusters.size(); ++b) {
        if (!clusters[b].alive) continue;
        if (const double cost = costOf(clusters[a], clusters[b]); cost < least) {
          least = cost;
          first = a;
          second = b;
        }
      }
    }
    for (int channel = 0; channel < 3; ++channel)
      clusters[first].sum[channel] += clusters[second].sum[channel];
    clusters[first].pixels += clusters[second].pixels;
    clusters[second].alive = false;
    for (size_t& cluster : clusterOf) {
      if (cluster == second) cluster = first;
    }
  }

  MergedPalette result;
  std::vector<uint8_t> placeOf(clusters.size());
  for (size_t i = 0; i < clusters.size(); ++i) {
    if (!clusters[i].alive) continue;
    placeOf[i] = static_cast<uint8_t>(result.colors.size());
    uint32_t color = 0;
    for (const double sum : clusters[i].sum)
      color = color << 8 | static_cast<uint32_t>(std::lround(sum / clusters[i].pixels));
    result.colors.push_back(color);
  }
  for (const size_t cluster : clusterOf) result.placeOf.push_back(placeOf[cluster]);
  return result;
}

}  // namespace duet
