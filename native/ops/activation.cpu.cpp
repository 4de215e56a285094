#include "ops/activation.h"

#include <cmath>

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

constexpr int64_t kBlock = 4096;

// Both approximations of gelu are x * logistic(u(x)); tanh(z) = 2 logistic(2z) - 1.
constexpr float kQuickSlope = 1.702f;
constexpr float kTanhSlope = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kTanhCubic = 0.044715f;

template <typename T>
void forwardBlock(const T* x, T* y, int64_t n, Activation kind) {
  switch (kind) {
    case Activation::gelu:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float v = readAs(x, i);
        float cdf, density;
        normalCdf(v, cdf, density);
        writeAs(y, i, v * cdf);
      }
      break;
    case Activation::relu:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float v = readAs(x, i);
        writeAs(y, i, v > 0.0f || v != v ? v : 0.0f);  // NaN passes, so that a broken run is seen
      }
      break;
    case Activation::tanh:
      for (int64_t i = 0; i < n; ++i) writeAs(y, i, std::tanh(readAs(x, i)));
      break;
    case Activation::silu:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float v = readAs(x, i);
        writeAs(y, i, v * logistic(v));
      }
      break;
    case Activation::quickGelu:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float v = readAs(x, i);
        writeAs(y, i, v * logistic(kQuickSlope * v));
      }
      break;
    case Activation::geluTanh:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float v = readAs(x, i);
        writeAs(y, i, v * logistic(kTanhSlope * (v + kTanhCubic * v * v * v)));
      }
      break;
    case Activation::none:
      for (int64_t i = 0; i < n; ++i) y[i] = x[i];
      break;
  }
}

template <typename K, typename T>
void backwardBlock(const K* kept, const T* dy, T* dx, int64_t n, Activation kind) {
  switch (kind) {
    case Activation::gelu:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float v = readAs(kept, i);
        float cdf, density;
        normalCdf(v, cdf, density);
        writeAs(dx, i, readAs(dy, i) * (cdf + v * density));
      }
      break;
    case Activation::relu:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) writeAs(dx, i, readAs(kept, i) > 0.0f ? readAs(dy, i) : 0.0f);
      break;
    case Activation::tanh:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float v = readAs(kept, i);
        writeAs(dx, i, readAs(dy, i) * (1.0f - v * v));
      }
      break;
    case Activation::silu:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) writeAs(dx, i, readAs(dy, i) * siluSlope(readAs(kept, i)));
      break;
    case Activation::quickGelu:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float v = readAs(kept, i), u = kQuickSlope * v;
        writeAs(dx, i, readAs(dy, i) * logistic(u) * (1.0f + kQuickSlope * v * logistic(-u)));
      }
      break;
    case Activation::geluTanh:
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        const float v = readAs(kept, i), u = kTanhSlope * (v + kTanhCubic * v * v * v);
        const float slope = kTanhSlope * (1.0f + 3.0f * kTanhCubic * v * v);
        writeAs(dx, i, readAs(dy, i) * logistic(u) * (1.0f + v * slope * logistic(-u)));  // 1 - s(u) = s(-u)
      }
      break;
    case Activation::none:
      for (int64_t i = 0; i < n; ++i) dx[i] = dy[i];
      break;
  }
}

template <typename T>
void forwardAll(const ActivationForward& c) {
  const T* x = static_cast<const T*>(c.x);
  T* y = static_cast<T*>(c.y);
#pragma omp parallel for schedule(static)
  for (int64_t begin = 0; begin < c.count; begin += kBlock)
    forwardBlock(x + begin, y + begin, c.count - begin < kBlock ? c.count - begin : kBlock, c.kind);
}

template <typename K, typename T>
void backwardAll(const ActivationBackward& c) {
  const K* kept = static_cast<const K*>(c.kept);
  const T* dy = static_cast<const T*>(c.dy);
  T* dx = static_cast<T*>(c.dx);
#pragma omp parallel for schedule(static)
  for (int64_t begin = 0; begin < c.count; begin += kBlock)
    backwardBlock(kept + begin, dy + begin, dx + begin, c.count - begin < kBlock ? c.count - begin : kBlock,
                  c.kind);
}

void forward(const ActivationForward& c) {
  if (c.dtype == DType::bf16)
    forwardAll<bf16>(c);
  else
    forwardAll<float>(c);
}

void backward(const ActivationBackward& c) {
  if (c.keptType == DType::bf16)
    c.dtype == DType::bf16 ? backwardAll<bf16, bf16>(c) : backwardAll<bf16, float>(c);
  else
    c.dtype == DType::bf16 ? backwardAll<float, bf16>(c) : backwardAll<float, float>(c);
}

}  // namespace

ActivationKernels activationKernels() { return {forward, backward}; }

}  // namespace duet::cpu::DUET_ISA
