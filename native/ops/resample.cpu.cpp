#include "ops/resample.h"

#include <vector>

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

void upsample(const Resample& c) {
  const size_t pixelBytes = static_cast<size_t>(c.channels) * sizeOf(c.xType);
#pragma omp parallel for schedule(static)
  for (int64_t line = 0; line < c.pictures * c.outHeight; ++line) {
    const int64_t from = line / c.outHeight * c.height + line % c.outHeight * c.height / c.outHeight;
    const char* x = static_cast<const char*>(c.x) + static_cast<size_t>(from * c.width) * pixelBytes;
    char* y = static_cast<char*>(c.y) + static_cast<size_t>(line * c.outWidth) * pixelBytes;
    for (int64_t j = 0; j < c.outWidth; ++j)
      std::memcpy(y + static_cast<size_t>(j) * pixelBytes,
                  x + static_cast<size_t>(j * c.width / c.outWidth) * pixelBytes, pixelBytes);
  }
}

/// First i with floor(i * small / large) >= source.
inline int64_t firstOf(int64_t source, int64_t small, int64_t large) {
  return (source * large + small - 1) / small;
}

template <typename X, typename Y>
void upsampleBackwardAs(const Resample& c) {
  const int64_t n = c.channels;
  std::vector<float> lines(static_cast<size_t>(c.pictures * c.outHeight * n));
#pragma omp parallel for schedule(static)
  for (int64_t line = 0; line < c.pictures * c.outHeight; ++line) {
    const int64_t picture = line / c.outHeight, i = line % c.outHeight;
    float* sum = lines.data() + line * n;
    for (int64_t j = 0; j < c.outWidth; ++j) {
      for (int64_t k = 0; k < n; ++k) sum[k] = 0.0f;
      for (int64_t a = firstOf(i, c.outHeight, c.height); a < firstOf(i + 1, c.outHeight, c.height); ++a)
        for (int64_t b = firstOf(j, c.outWidth, c.width); b < firstOf(j + 1, c.outWidth, c.width); ++b) {
          const X* x = static_cast<const X*>(c.x) + ((picture * c.height + a) * c.width + b) * n;
#pragma omp simd
          for (int64_t k = 0; k < n; ++k) sum[k] += readAs(x, k);
        }
      Y* y = static_cast<Y*>(c.y) + (line * c.outWidth + j) * n;
      if (c.accumulate) {
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) writeAs(y, k, readAs(y, k) + sum[k]);
      } else {
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) writeAs(y, k, sum[k]);
      }
    }
  }
}

template <typename Y>
void averagePoolAs(const Resample& c) {
  const int64_t n = c.channels;
#pragma omp parallel for schedule(static)
  for (int64_t line = 0; line < c.pictures * c.outHeight; ++line) {
    const int64_t picture = line / c.outHeight, i = line % c.outHeight;
    for (int64_t j = 0; j < c.outWidth; ++j) {
      const float* a = static_cast<const float*>(c.x) + ((picture * c.height + 2 * i) * c.width + 2 * j) * n;
      const float *b = a + n, *d = a + c.width * n, *e = d + n;
      Y* y = static_cast<Y*>(c.y) + (line * c.outWidth + j) * n;
#pragma omp simd
      for (int64_t k = 0; k < n; ++k) writeAs(y, k, 0.25f * ((a[k] + b[k]) + (d[k] + e[k])));
    }
  }
}

template <typename X>
void averagePoolBackwardAs(const Resample& c) {
  const int64_t n = c.channels;
#pragma omp parallel for schedule(static)
  for (int64_t line = 0; line < c.pictures * c.outHeight; ++line) {
    const int64_t picture = line / c.outHeight, i = line % c.outHeight / 2;
    for (int64_t j = 0; j < c.outWidth; ++j) {
      float* y = static_cast<float*>(c.y) + (line * c.outWidth + j) * n;
      const bool inside = i < c.height && j / 2 < c.width;
      const X* x =
          static_cast<const X*>(c.x) + (inside ? ((picture * c.height + i) * c.width + j / 2) * n : 0);
      const float share = inside ? 0.25f : 0.0f;
      if (c.accumulate && inside) {
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) y[k] += share * readAs(x, k);
      } else if (!c.accumulate) {
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) y[k] = inside ? share * readAs(x, k) : 0.0f;
      }
    }
  }
}

void upsampleBackward(const Resample& c) {
  if (c.xType == DType::bf16)
    c.yType == DType::bf16 ? upsampleBackwardAs<bf16, bf16>(c) : upsampleBackwardAs<bf16, float>(c);
  else
    c.yType == DType::bf16 ? upsampleBackwardAs<float, bf16>(c) : upsampleBackwardAs<float, float>(c);
}

void averagePool(const Resample& c) {
  c.yType == DType::bf16 ? averagePoolAs<bf16>(c) : averagePoolAs<float>(c);
}

void averagePoolBackward(const Resample& c) {
  c.xType == DType::bf16 ? averagePoolBackwardAs<bf16>(c) : averagePoolBackwardAs<float>(c);
}

}  // namespace

ResampleKernels resampleKernels() { return {upsample, upsampleBackward, averagePool, averagePoolBackward}; }

}  // namespace duet::cpu::DUET_ISA
