#include "ops/optimizer.h"

#include <cmath>

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

constexpr int64_t kBlock = 4096;

struct Factors {
  float decay, beta2, rest1, rest2, step, root, epsilon, scale;
};

// A function of its own: inside the parallel region GCC 12 leaves this loop scalar.
void adamwBlock(const Factors f, const float* __restrict gradient, float* __restrict average,
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

void adamw(const AdamWStep& c, const std::vector<AdamWTensor>& tensors) {
  for (const AdamWTensor& t : tensors) {
    const AdamWFactors own(c, t);
    const Factors factors{own.decay,
                          static_cast<float>(c.beta2),
                          static_cast<float>(1.0 - c.beta1),
                          static_cast<float>(1.0 - c.beta2),
                          own.rate,
                          own.root,
                          static_cast<float>(c.epsilon),
                          c.scale};
#pragma omp parallel for schedule(static) if (t.count > 16384)
    for (int64_t i = 0; i < t.count; i += kBlock)
      adamwBlock(factors, t.gradient + i, t.average + i, t.averageSquare + i, t.parameter + i,
                 t.count - i < kBlock ? t.count - i : kBlock);
  }
}

double squareSumOf(const float* x, int64_t count) {
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

double squareSum(const std::vector<Numbers>& numbers) {
  double total = 0.0;
  for (const Numbers& n : numbers) total += squareSumOf(n.data, n.count);
  return total;
}

void movingAverage(const std::vector<MovingAverage>& tensors, float decay) {
  const float share = 1.0f - decay;
  for (const MovingAverage& t : tensors) {
    float* average = t.average;
    const float* value = t.value;
#pragma omp parallel for simd schedule(static) if (t.count > 16384)
    for (int64_t i = 0; i < t.count; ++i) average[i] = decay * average[i] + share * value[i];
  }
}

}  // namespace

OptimizerKernels optimizerKernels() { return {adamw, squareSum, movingAverage}; }

}  // namespace duet::cpu::DUET_ISA
