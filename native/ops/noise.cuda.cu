#include "ops/noise.h"

#include <algorithm>
#include <vector>

#include "gpu/total.h"
#include "gpu/vector.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

/// The elements of the picture blockIdx.y, each once; the part goes to parts[picture, blockIdx.x].
template <int N>
__global__ void squaredErrorKernel(const float* output, const float* target, const uint8_t* keep,
                                   int64_t values, float factor, float* gradient, double* parts) {
  const int64_t picture = blockIdx.y, first = picture * values;
  const bool kept = keep[picture] != 0;
  double sum = 0.0;
  for (int64_t i = globalThread() * N; i < values; i += globalThreads() * N) {
    float error[N] = {};
    if (kept) {
      float y[N];
      loadConstant(output, first + i, error);
      loadConstant(target, first + i, y);
      for (int j = 0; j < N; ++j) {
        const double difference = static_cast<double>(error[j]) - static_cast<double>(y[j]);
        sum += difference * difference;
        error[j] = factor * (error[j] - y[j]);
      }
    }
    if (gradient) storeVector(gradient, first + i, error);
  }
  putPart(parts + picture * gridDim.x, sum);
}

double maskedSquaredError(const MaskedSquaredError& c) {
  const int64_t pictures = c.clips * c.frames;
  std::vector<double> divisor(static_cast<size_t>(c.clips));
  double all = 0.0;
  for (int64_t clip = 0; clip < c.clips; ++clip) {
    const uint8_t* keep = c.keep + clip * c.frames;
    const int64_t kept = c.overKept ? c.frames - std::count(keep, keep + c.frames, 0) : c.frames;
    divisor[static_cast<size_t>(clip)] = static_cast<double>(kept) * static_cast<double>(c.values);
    all += divisor[static_cast<size_t>(clip)];
  }
  const float factor = all > 0.0 ? static_cast<float>(2.0 / all) : 0.0f;
  const bool fit = c.values % 4 == 0 && vectorsFit<4>(c.output, c.target, c.gradient);
  const unsigned chunks = blocksFor(c.values, 16 * kThreads, 64);
  const Scratch<double> parts(pictures * chunks);
  const Upload<uint8_t> keep(c.keep, pictures);
  launch(fit ? squaredErrorKernel<4> : squaredErrorKernel<1>, dim3(chunks, static_cast<unsigned>(pictures)),
         kThreads, 0, c.output, c.target, keep.data(), c.values, factor, c.gradient, parts.data());

  std::vector<double> squares(static_cast<size_t>(pictures * chunks));
  readBack(squares.data(), parts.data(), pictures * chunks);
  double total = 0.0;
  for (int64_t clip = 0; clip < c.clips; ++clip) {
    double sum = 0.0;
    for (int64_t i = clip * c.frames * chunks; i < (clip + 1) * c.frames * chunks; ++i)
      sum += squares[static_cast<size_t>(i)];
    const double by = divisor[static_cast<size_t>(clip)];
    if (c.clipLoss) c.clipLoss[clip] = by > 0.0 ? sum / by : 0.0;
    total += sum;
  }
  return all > 0.0 ? total / all : 0.0;
}

void timeEmbedding(const float* times, int64_t count, int64_t width, float* out) {
  const int64_t half = width / 2;
  forEach(count * half, [=] DUET_LAMBDA(int64_t k) {
    const int64_t i = k / half, j = k % half;
    // In fp32 up to the argument, as published: near t = 1000 its rounding shows.
    const float exponent = -9.210340371976184f * static_cast<float>(j) / static_cast<float>(half);
    const float argument = times[i] * static_cast<float>(exp(static_cast<double>(exponent)));
    out[i * width + j] = static_cast<float>(cos(static_cast<double>(argument)));
    out[i * width + half + j] = static_cast<float>(sin(static_cast<double>(argument)));
  });
}

}  // namespace

NoiseKernels noiseKernels() { return {maskedSquaredError, timeEmbedding}; }

}  // namespace duet::gpu
