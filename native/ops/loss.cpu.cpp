// Losses are a few hundred to a few thousand elements a sample: written for accuracy (double inside).
#include "ops/loss.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

void put(float* gradient, int64_t i, double value, bool accumulate) {
  gradient[i] = static_cast<float>(accumulate ? gradient[i] + value : value);
}

struct Line {
  double top, logSum;  // log softmax(x)[i] = x[i] / T - top - logSum
};

Line lineOf(const float* x, int64_t n, int64_t step, double inverse) {
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) top = x[i * step] * inverse > top ? x[i * step] * inverse : top;
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i * step] * inverse - top);
  return {top, std::log(sum)};
}

double distillation(const DistillationLoss& c) {
  const double inverse = 1.0 / c.temperature, t = c.temperature;
  double total = 0.0;
  for (int64_t outer = 0; outer < c.outer; ++outer)
    for (int64_t inner = 0; inner < c.inner; ++inner) {
      const int64_t begin = outer * c.classes * c.inner + inner;
      const float* x = c.logits + begin;
      const float* y = c.target + begin;
      const Line p = lineOf(x, c.classes, c.inner, inverse), q = lineOf(y, c.classes, c.inner, inverse);
      for (int64_t i = 0; i < c.classes; ++i) {
        const double logP = x[i * c.inner] * inverse - p.top - p.logSum;
        const double logQ = y[i * c.inner] * inverse - q.top - q.logSum;
        const double probability = std::exp(logQ);
        if (!(probability <= 0.0)) total += probability * (logQ - logP);  // NaN counts
        if (c.gradient)
          put(c.gradient, begin + i * c.inner,
              c.scale * t / static_cast<double>(c.batch) * (std::exp(logP) - probability), c.accumulate);
      }
    }
  return t * t * total / static_cast<double>(c.batch);
}

double binary(const BinaryLoss& c) {
  double total = 0.0;
  const double share = 1.0 / static_cast<double>(c.batch);
  for (int64_t i = 0; i < c.rows * c.classes; ++i) {
    const double x = c.logits[i], y = c.targets[i];
    total += (x > 0.0 ? x : 0.0) - x * y + std::log1p(std::exp(-std::fabs(x)));
    if (x != x) total = x;
    if (c.gradient) put(c.gradient, i, c.scale * share * (1.0 / (1.0 + std::exp(-x)) - y), c.accumulate);
  }
  return total * share;
}

double crossEntropy(const CrossEntropyLoss& c) {
  int64_t counted = 0;
  for (int64_t row = 0; row < c.rows; ++row) counted += c.labels[row] >= 0;
  const double share = counted ? 1.0 / static_cast<double>(counted) : 0.0;
  double total = 0.0;
  for (int64_t row = 0; row < c.rows; ++row) {
    const float* x = c.logits + row * c.classes;
    const Line line = lineOf(x, c.classes, 1, 1.0);
    const int32_t label = c.labels[row];
    if (label >= 0) total -= x[label] - line.top - line.logSum;
    if (c.gradient)
      for (int64_t i = 0; i < c.classes; ++i)
        c.gradient[row * c.classes + i] = static_cast<float>(
            label < 0 ? 0.0 : share * (std::exp(x[i] - line.top - line.logSum) - (i == label ? 1.0 : 0.0)));
  }
  return total * share;
}

void softmax(const float* x, float* y, int64_t rows, int64_t columns, bool log) {
#pragma omp parallel for schedule(static) if (rows * columns > 16384)
  for (int64_t row = 0; row < rows; ++row) {
    const float* in = x + row * columns;
    float* out = y + row * columns;
    const Line line = lineOf(in, columns, 1, 1.0);
    for (int64_t i = 0; i < columns; ++i) {
      const double value = in[i] - line.top - line.logSum;
      out[i] = static_cast<float>(log ? value : std::exp(value));
    }
  }
}

void softmaxBackward(const float* y, const float* dy, float* dx, int64_t rows, int64_t columns, bool log) {
#pragma omp parallel for schedule(static) if (rows * columns > 16384)
  for (int64_t row = 0; row < rows; ++row) {
    const float* out = y + row * columns;
    const float* g = dy + row * columns;
    double sum = 0.0;
    for (int64_t i = 0; i < columns; ++i) sum += log ? g[i] : static_cast<double>(g[i]) * out[i];
    for (int64_t i = 0; i < columns; ++i)
      dx[row * columns + i] = static_cast<float>(log ? g[i] - std::exp(static_cast<double>(out[i])) * sum
                                                     : out[i] * (g[i] - sum));
  }
}

}  // namespace

LossKernels lossKernels() { return {distillation, binary, crossEntropy, softmax, softmaxBackward}; }

}  // namespace duet::cpu::DUET_ISA
