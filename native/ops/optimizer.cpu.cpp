#include "ops/optimizer.h"

#include <cmath>

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

constexpr int64_t kBlock = 4096;

struct AdamWFactors {
  float decay, beta2, rest1, rest2, step, root, epsilon, scale;
};

// A function of its own: inside the parallel region GCC 12 leaves this loop scalar.
void adamwBlock(const AdamWFactors f, const float* __restrict gradient, float* __restrict average,
                float* __restrict averageSquare, float* __restrict parameter, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * f.scale;
    const float m = average[i] + f.rest1 * (g - average[i]);
    const float v = f.beta2 * averageSquare[i] + f.rest2 * g * g;
    average[i] = m;
    averageSquare[i] = v;
    parameter[i] = parameter[i] * f.decay - f.step * m / (std::sqrt(v) / f.root + f.epsilon);
  }
}

void adamw(const AdamWStep& c) {
  const float decay = static_cast<float>(1.0 - c.learningRate * c.weightDecay);
  const float beta2 = static_cast<float>(c.beta2);
  const float rest1 = static_cast<float>(1.0 - c.beta1), rest2 = static_cast<float>(1.0 - c.beta2);
  const float step =
      static_cast<float>(c.learningRate / (1.0 - std::pow(c.beta1, static_cast<double>(c.step))));
  const float root = static_cast<float>(std::sqrt(1.0 - std::pow(c.beta2, static_cast<double>(c.step))));
  const float epsilon = static_cast<float>(c.epsilon);
  const AdamWFactors factors{decay, beta2, rest1, rest2, step, root, epsilon, c.scale};
#pragma omp parallel for schedule(static) if (c.count > 16384)
  for (int64_t i = 0; i < c.count; i += kBlock)
    adamwBlock(factors, c.gradient + i, c.average + i, c.averageSquare + i, c.parameter + i,
               c.count - i < kBlock ? c.count - i : kBlock);
}

double squareSum(const float* x, int64_t count) {
  double partial[kReductionChunks];
#pragma omp parallel for schedule(static) if (count > 16384)
  for (int64_t chunk = 0; chunk < kReductionChunks; ++chunk) {
    double sum = 0.0;
    const int64_t end = count * (chunk + 1) / kReductionChunks;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = count * chunk / kReductionChunks; i < end; ++i) sum += static_cast<double>(x[i]) * x[i];
    partial[chunk] = sum;
  }
  double total = 0.0;
  for (double sum : partial) total += sum;
  return total;
}

}  // namespace

OptimizerKernels optimizerKernels() { return {adamw, squareSum}; }

}  // namespace duet::cpu::DUET_ISA
