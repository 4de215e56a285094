// Sums in double that a kernel function returns: each of at most kTotalBlocks blocks gives its part, and the
// host adds those in their order.
#pragma once

#include <vector>

#include "gpu/kernel.h"

namespace duet::gpu {

constexpr int64_t kTotalBlocks = 1024;

/// Called by all threads of a block with what each of them has.
DUET_DEVICE void putPart(double* parts, double value) {
  value = blockSum(value);
  if (threadIdx.x == 0) parts[blockIdx.x] = value;
}

inline double totalOf(const Scratch<double>& parts, int64_t count) {
  std::vector<double> list(static_cast<size_t>(count));
  readBack(list.data(), parts.data(), count);
  double total = 0.0;
  for (const double part : list) total += part;
  return total;
}

}  // namespace duet::gpu
