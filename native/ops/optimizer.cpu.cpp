#include "ops/optimizer.h"

#include <cmath>

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

void adamw(const AdamWStep& c) {
  const float decay = static_cast<float>(1.0 - c.learningRate * c.weightDecay);
  const float beta2 = static_cast<float>(c.beta2);
  const float rest1 = static_cast<float>(1.0 - c.beta1), rest2 = static_cast<float>(1.0 - c.beta2);
  const float step =
      static_cast<float>(c.learningRate / (1.0 - std::pow(c.beta1, static_cast<double>(c.step))));
  const float root = static_cast<float>(std::sqrt(1.0 - std::pow(c.beta2, static_cast<double>(c.step))));
  const float epsilon = static_cast<float>(c.epsilon);
#pragma omp parallel for simd schedule(static) if (c.count > 16384)
  for (int64_t i = 0; i < c.count; ++i) {
    const float g = c.gradient[i];
    const float m = c.average[i] + rest1 * (g - c.average[i]);
    const float v = beta2 * c.averageSquare[i] + rest2 * g * g;
    c.average[i] = m;
    c.averageSquare[i] = v;
    c.parameter[i] = c.parameter[i] * decay - step * m / (std::sqrt(v) / root + epsilon);
  }
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
