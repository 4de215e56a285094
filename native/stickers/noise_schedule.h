// The forward process of denoising diffusion (Ho et al. 2020, eq. 4): how much of a clip is left at every
// step.
#pragma once

#include <cstdint>
#include <vector>

namespace duet {

struct NoiseScheduleOptions {
  int64_t steps = 1000;
  double betaStart = 0.00085, betaEnd = 0.012;  // scaled linear: the roots grow evenly
};

/// alpha-bar: the running product of 1 - beta, as PyTorch rounds it: fp32 roots and betas, the product in
/// double.
std::vector<float> cumulativeAlphas(const NoiseScheduleOptions& options);

}  // namespace duet
