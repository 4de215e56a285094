#include "ops/optimizer.h"

#include <cmath>

#include "gpu/total.h"
#include "gpu/vector.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

struct AdamW {
  float decay, beta2, rest1, rest2, step, root, epsilon, scale;
  const float* gradient;
  float *average, *averageSquare, *parameter;
  template <int N>
  DUET_DEVICE void run(int64_t i) const {
    float g[N], m[N], v[N], p[N];
    loadVector(gradient, i, g);
    loadVector(average, i, m);
    loadVector(averageSquare, i, v);
    loadVector(parameter, i, p);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      g[j] *= scale;
      m[j] += rest1 * (g[j] - m[j]);
      v[j] = beta2 * v[j] + rest2 * g[j] * g[j];
      p[j] = p[j] * decay - step * m[j] / (sqrtf(v[j]) / root + epsilon);
    }
    storeVector(average, i, m);
    storeVector(averageSquare, i, v);
    storeVector(parameter, i, p);
  }
};

void adamw(const AdamWStep& c) {
  const double rest1 = 1.0 - std::pow(c.beta1, static_cast<double>(c.step));
  const double rest2 = 1.0 - std::pow(c.beta2, static_cast<double>(c.step));
  const AdamW work{static_cast<float>(1.0 - c.learningRate * c.weightDecay),
                   static_cast<float>(c.beta2),
                   static_cast<float>(1.0 - c.beta1),
                   static_cast<float>(1.0 - c.beta2),
                   static_cast<float>(c.learningRate / rest1),
                   static_cast<float>(std::sqrt(rest2)),
                   static_cast<float>(c.epsilon),
                   c.scale,
                   c.gradient,
                   c.average,
                   c.averageSquare,
                   c.parameter};
  forEachVector<4>(c.count, vectorsFit<4>(c.gradient, c.average, c.averageSquare, c.parameter), work);
}

template <int N>
__global__ void squareSumKernel(const float* x, int64_t count, double* parts) {
  double sum = 0.0;
#pragma unroll 4
  for (int64_t i = globalThread() * N; i < count / N * N; i += globalThreads() * N) {
    float v[N];
    loadConstant(x, i, v);
    for (int j = 0; j < N; ++j) sum += static_cast<double>(v[j]) * v[j];
  }
  const int64_t rest = count / N * N + globalThread();
  if (N > 1 && rest < count) sum += static_cast<double>(x[rest]) * x[rest];
  putPart(parts, sum);
}

double squareSum(const float* x, int64_t count) {
  const bool fit = vectorsFit<4>(x);
  const unsigned blocks = blocksFor(count, 16 * kThreads, kTotalBlocks);
  const Scratch<double> parts(blocks);
  launch(fit ? squareSumKernel<4> : squareSumKernel<1>, blocks, kThreads, 0, x, count, parts.data());
  return totalOf(parts, blocks);
}

}  // namespace

OptimizerKernels optimizerKernels() { return {adamw, squareSum}; }

}  // namespace duet::gpu
