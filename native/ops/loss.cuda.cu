// Losses are a few hundred to a few thousand elements a sample: written for accuracy (double inside). A line
// of a softmax is a block's.
#include "ops/loss.h"

#include <cmath>

#include "gpu/total.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

DUET_DEVICE void put(float* gradient, int64_t i, double value, bool accumulate) {
  gradient[i] = static_cast<float>(accumulate ? gradient[i] + value : value);
}

struct Line {
  double top, logSum;  // log softmax(x)[i] = x[i] / T - top - logSum
};

/// Of `n` elements `step` apart, known to all threads of the block.
DUET_DEVICE Line lineOf(const float* x, int64_t n, int64_t step, double inverse) {
  float most = -INFINITY;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) most = x[i * step] > most ? x[i * step] : most;
  const double top = blockMax(most) * inverse;
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) sum += exp(x[i * step] * inverse - top);
  return {top, log(blockSum(sum))};
}

__global__ void distillationKernel(DistillationLoss c, double* parts) {
  const double inverse = 1.0 / c.temperature;
  const double factor = c.scale * static_cast<double>(c.temperature) / static_cast<double>(c.batch);
  double total = 0.0;
  for (int64_t line = blockIdx.x; line < c.outer * c.inner; line += gridDim.x) {
    const int64_t begin = line / c.inner * c.classes * c.inner + line % c.inner;
    const float* x = c.logits + begin;
    const float* y = c.target + begin;
    const Line p = lineOf(x, c.classes, c.inner, inverse), q = lineOf(y, c.classes, c.inner, inverse);
    for (int64_t i = threadIdx.x; i < c.classes; i += blockDim.x) {
      const double logP = x[i * c.inner] * inverse - p.top - p.logSum;
      const double logQ = y[i * c.inner] * inverse - q.top - q.logSum;
      const double probability = exp(logQ);
      if (!(probability <= 0.0)) total += probability * (logQ - logP);  // NaN counts
      if (c.gradient) put(c.gradient, begin + i * c.inner, factor * (exp(logP) - probability), c.accumulate);
    }
  }
  putPart(parts, total);
}

__global__ void binaryKernel(BinaryLoss c, double* parts) {
  const double share = c.scale / static_cast<double>(c.batch);
  double total = 0.0;
  for (int64_t i = globalThread(); i < c.rows * c.classes; i += globalThreads()) {
    const double x = c.logits[i], y = c.targets[i], e = exp(-fabs(x));
    total += (x > 0.0 ? x : 0.0) - x * y + log1p(e);
    if (c.gradient) put(c.gradient, i, share * ((x < 0.0 ? e : 1.0) / (1.0 + e) - y), c.accumulate);
  }
  putPart(parts, total);
}

__global__ void crossEntropyKernel(CrossEntropyLoss c, double share, double* parts) {
  double total = 0.0;
  for (int64_t row = blockIdx.x; row < c.rows; row += gridDim.x) {
    const float* x = c.logits + row * c.classes;
    const int32_t label = c.labels[row];
    const Line line = lineOf(x, c.classes, 1, 1.0);
    if (label >= 0 && threadIdx.x == 0) total -= x[label] - line.top - line.logSum;
    if (!c.gradient) continue;
    for (int64_t i = threadIdx.x; i < c.classes; i += blockDim.x)
      c.gradient[row * c.classes + i] = static_cast<float>(
          label < 0 ? 0.0 : share * (exp(x[i] - line.top - line.logSum) - (i == label ? 1.0 : 0.0)));
  }
  putPart(parts, total);
}

__global__ void softmaxKernel(const float* x, float* y, int64_t columns, bool inLog) {
  x += blockIdx.x * columns;
  y += blockIdx.x * columns;
  const Line line = lineOf(x, columns, 1, 1.0);
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x) {
    const double value = x[i] - line.top - line.logSum;
    y[i] = static_cast<float>(inLog ? value : exp(value));
  }
}

__global__ void softmaxBackwardKernel(const float* y, const float* dy, float* dx, int64_t columns,
                                      bool inLog) {
  y += blockIdx.x * columns;
  dy += blockIdx.x * columns;
  dx += blockIdx.x * columns;
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x)
    sum += inLog ? dy[i] : static_cast<double>(dy[i]) * y[i];
  sum = blockSum(sum);
  for (int64_t i = threadIdx.x; i < columns; i += blockDim.x)
    dx[i] = static_cast<float>(inLog ? dy[i] - exp(static_cast<double>(y[i])) * sum : y[i] * (dy[i] - sum));
}

/// Threads for a line: as many warps as it fills, at most 16.
unsigned threadsFor(int64_t classes) { return kWarp * blocksFor(classes, kWarp, 16); }

double distillation(const DistillationLoss& c) {
  const unsigned blocks = blocksFor(c.outer * c.inner, 1, kTotalBlocks);
  const Scratch<double> parts(blocks);
  launch(distillationKernel, blocks, threadsFor(c.classes), 0, c, parts.data());
  const double t = c.temperature;
  return t * t * totalOf(parts, blocks) / static_cast<double>(c.batch);
}

double binary(const BinaryLoss& c) {
  const unsigned blocks = blocksFor(c.rows * c.classes, kThreads, kTotalBlocks);
  const Scratch<double> parts(blocks);
  launch(binaryKernel, blocks, kThreads, 0, c, parts.data());
  return totalOf(parts, blocks) / static_cast<double>(c.batch);
}

double crossEntropy(const CrossEntropyLoss& c) {
  int64_t counted = 0;
  for (int64_t row = 0; row < c.rows; ++row) counted += c.labels[row] >= 0;
  const double share = counted ? 1.0 / static_cast<double>(counted) : 0.0;
  const unsigned blocks = blocksFor(c.rows, 1, kTotalBlocks);
  const Scratch<double> parts(blocks);
  const Upload<int32_t> labels(c.labels, c.rows);
  CrossEntropyLoss there = c;
  there.labels = labels.data();
  launch(crossEntropyKernel, blocks, threadsFor(c.classes), 0, there, share, parts.data());
  return totalOf(parts, blocks) * share;
}

void softmax(const float* x, float* y, int64_t rows, int64_t columns, bool inLog) {
  if (rows > 0)
    launch(softmaxKernel, static_cast<unsigned>(rows), threadsFor(columns), 0, x, y, columns, inLog);
}

void softmaxBackward(const float* y, const float* dy, float* dx, int64_t rows, int64_t columns, bool inLog) {
  if (rows > 0)
    launch(softmaxBackwardKernel, static_cast<unsigned>(rows), threadsFor(columns), 0, y, dy, dx, columns,
           inLog);
}

}  // namespace

LossKernels lossKernels() { return {distillation, binary, crossEntropy, softmax, softmaxBackward}; }

}  // namespace duet::gpu
