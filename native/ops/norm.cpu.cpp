#include "ops/norm.h"

#include <cmath>
#include <cstdlib>

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

template <typename Y>
void forwardRows(const NormForward& c) {
  const int64_t n = c.columns;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < c.rows; ++row) {
    const float* x = c.x + row * n;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += x[i];
    const float mean = sum / static_cast<float>(n);
    float square = 0.0f;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
    const float rstd = 1.0f / std::sqrt(square / static_cast<float>(n) + c.epsilon);
    Y* y = static_cast<Y*>(c.y) + row * n;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) writeAs(y, i, (x[i] - mean) * rstd * c.gamma[i] + c.beta[i]);
    if (c.mean) c.mean[row] = mean;
    if (c.rstd) c.rstd[row] = rstd;
  }
}

template <typename Y>
void rmsRows(const RmsNormForward& c) {
  const int64_t n = c.columns;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < c.rows; ++row) {
    const float* x = c.x + row * n;
    float square = 0.0f;
#pragma omp simd reduction(+ : square)
    for (int64_t i = 0; i < n; ++i) square += x[i] * x[i];
    const float inverse = 1.0f / std::sqrt(square / static_cast<float>(n) + c.epsilon);
    Y* y = static_cast<Y*>(c.y) + row * n;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) writeAs(y, i, x[i] * inverse * c.gamma[i]);
  }
}

// dx = rstd * (g - mean(g) - xhat * mean(g * xhat)) with g = dy * gamma.
template <typename Y>
void inputGradient(const NormBackward& c) {
  const int64_t n = c.columns;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < c.rows; ++row) {
    const float* x = c.x + row * n;
    const Y* dy = static_cast<const Y*>(c.dy) + row * n;
    const float mean = c.mean[row], rstd = c.rstd[row];
    float sum = 0.0f, dot = 0.0f;
#pragma omp simd reduction(+ : sum, dot)
    for (int64_t i = 0; i < n; ++i) {
      const float g = readAs(dy, i) * c.gamma[i];
      sum += g;
      dot += g * ((x[i] - mean) * rstd);
    }
    sum /= static_cast<float>(n);
    dot /= static_cast<float>(n);
    float* dx = c.dx + row * n;
    if (c.accumulate) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i)
        dx[i] += rstd * (readAs(dy, i) * c.gamma[i] - sum - (x[i] - mean) * rstd * dot);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i)
        dx[i] = rstd * (readAs(dy, i) * c.gamma[i] - sum - (x[i] - mean) * rstd * dot);
    }
  }
}

// Row sums in a fixed number of chunks, added in order: the same bits for any number of threads.
template <typename Y>
void parameterGradient(const NormBackward& c) {
  const int64_t n = c.columns;
  const int64_t chunks = kReductionChunks < c.rows ? kReductionChunks : (c.rows > 0 ? c.rows : 1);
  float* partial = static_cast<float*>(std::calloc(static_cast<size_t>(chunks * 2 * n), sizeof(float)));
  if (!partial) fail(Code::OutOfMemory, "Out of memory in the layer norm gradient");
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    float* dgamma = partial + chunk * 2 * n;
    float* dbeta = dgamma + n;
    const int64_t end = c.rows * (chunk + 1) / chunks;
    for (int64_t row = c.rows * chunk / chunks; row < end; ++row) {
      const float* x = c.x + row * n;
      const Y* dy = static_cast<const Y*>(c.dy) + row * n;
      const float mean = c.mean[row], rstd = c.rstd[row];
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float g = readAs(dy, i);
        dgamma[i] += g * (x[i] - mean) * rstd;
        dbeta[i] += g;
      }
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    float dgamma = 0.0f, dbeta = 0.0f;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      dgamma += partial[chunk * 2 * n + i];
      dbeta += partial[chunk * 2 * n + n + i];
    }
    if (c.dgamma) c.dgamma[i] = c.accumulateParameters ? c.dgamma[i] + dgamma : dgamma;
    if (c.dbeta) c.dbeta[i] = c.accumulateParameters ? c.dbeta[i] + dbeta : dbeta;
  }
  std::free(partial);
}

void forward(const NormForward& c) {
  if (c.yType == DType::bf16)
    forwardRows<bf16>(c);
  else
    forwardRows<float>(c);
}

void backward(const NormBackward& c) {
  const bool half = c.dyType == DType::bf16;
  if (c.dgamma || c.dbeta) half ? parameterGradient<bf16>(c) : parameterGradient<float>(c);
  if (c.dx) half ? inputGradient<bf16>(c) : inputGradient<float>(c);
}

void rmsForward(const RmsNormForward& c) { c.yType == DType::bf16 ? rmsRows<bf16>(c) : rmsRows<float>(c); }

}  // namespace

NormKernels normKernels() { return {forward, backward, rmsForward}; }

}  // namespace duet::cpu::DUET_ISA
