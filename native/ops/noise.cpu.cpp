#include "ops/noise.h"

#include <cmath>
#include <vector>

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

double maskedSquaredError(const MaskedSquaredError& c) {
  const int64_t pictures = c.clips * c.frames;
  std::vector<double> square(static_cast<size_t>(pictures)), divisor(static_cast<size_t>(c.clips));
  double all = 0;
  for (int64_t clip = 0; clip < c.clips; ++clip) {
    int64_t kept = c.frames;
    if (c.overKept) {
      kept = 0;
      for (int64_t f = 0; f < c.frames; ++f) kept += c.keep[clip * c.frames + f] != 0;
    }
    divisor[static_cast<size_t>(clip)] = static_cast<double>(kept) * static_cast<double>(c.values);
    all += divisor[static_cast<size_t>(clip)];
  }
  const float factor = all > 0 ? static_cast<float>(2.0 / all) : 0.0f;
#pragma omp parallel for schedule(static)
  for (int64_t picture = 0; picture < pictures; ++picture) {
    const int64_t first = picture * c.values;
    const bool keep = c.keep[picture] != 0;
    double sum = 0;
    for (int64_t i = first; keep && i < first + c.values; ++i) {
      const double difference = static_cast<double>(c.output[i]) - static_cast<double>(c.target[i]);
      sum += difference * difference;
    }
    square[static_cast<size_t>(picture)] = sum;
    if (!c.gradient) continue;
#pragma omp simd
    for (int64_t i = first; i < first + c.values; ++i)
      c.gradient[i] = keep ? factor * (c.output[i] - c.target[i]) : 0.0f;
  }
  double total = 0;
  for (int64_t clip = 0; clip < c.clips; ++clip) {
    double sum = 0;
    for (int64_t f = 0; f < c.frames; ++f) sum += square[static_cast<size_t>(clip * c.frames + f)];
    const double by = divisor[static_cast<size_t>(clip)];
    if (c.clipLoss) c.clipLoss[clip] = by > 0 ? sum / by : 0.0;
    total += sum;
  }
  return all > 0 ? total / all : 0.0;
}

void timeEmbedding(const float* times, int64_t count, int64_t width, float* out) {
  const int64_t half = width / 2;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j < half; ++j) {
      // In fp32 up to the argument, as published: near t = 1000 its rounding shows.
      const float exponent = -9.210340371976184f * static_cast<float>(j) / static_cast<float>(half);
      const float argument = times[i] * static_cast<float>(std::exp(static_cast<double>(exponent)));
      out[i * width + j] = static_cast<float>(std::cos(static_cast<double>(argument)));
      out[i * width + half + j] = static_cast<float>(std::sin(static_cast<double>(argument)));
    }
}

}  // namespace

NoiseKernels noiseKernels() { return {maskedSquaredError, timeEmbedding}; }

}  // namespace duet::cpu::DUET_ISA
