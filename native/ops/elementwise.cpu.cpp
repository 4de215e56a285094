#include "ops/elementwise.h"

#include <cstdlib>

#include "core/philox.h"
#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

template <typename A, typename B>
void convertAs(const void* from, void* to, int64_t count) {
  const A* a = static_cast<const A*>(from);
  B* b = static_cast<B*>(to);
#pragma omp parallel for simd schedule(static) if (count > 16384)
  for (int64_t i = 0; i < count; ++i) writeAs(b, i, readAs(a, i));
}

void convert(const void* from, DType fromType, void* to, DType toType, int64_t count) {
  const bool fromHalf = fromType == DType::bf16, toHalf = toType == DType::bf16;
  if (fromHalf && toHalf)
    convertAs<bf16, bf16>(from, to, count);
  else if (fromHalf)
    convertAs<bf16, float>(from, to, count);
  else if (toHalf)
    convertAs<float, bf16>(from, to, count);
  else
    convertAs<float, float>(from, to, count);
}

void add(const float* a, const float* b, float* y, int64_t count) {
#pragma omp parallel for simd schedule(static) if (count > 16384)
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

template <typename T>
void multiplyAs(const void* a, const void* b, void* y, int64_t count) {
  const T *left = static_cast<const T*>(a), *right = static_cast<const T*>(b);
  T* product = static_cast<T*>(y);
#pragma omp parallel for simd schedule(static) if (count > 16384)
  for (int64_t i = 0; i < count; ++i) writeAs(product, i, readAs(left, i) * readAs(right, i));
}

void multiply(const void* a, const void* b, void* y, DType dtype, int64_t count) {
  dtype == DType::bf16 ? multiplyAs<bf16>(a, b, y, count) : multiplyAs<float>(a, b, y, count);
}

void scale(const float* x, float factor, float* y, int64_t count, bool accumulate) {
  if (accumulate) {
#pragma omp parallel for simd schedule(static) if (count > 16384)
    for (int64_t i = 0; i < count; ++i) y[i] += factor * x[i];
  } else {
#pragma omp parallel for simd schedule(static) if (count > 16384)
    for (int64_t i = 0; i < count; ++i) y[i] = factor * x[i];
  }
}

template <typename T>
void columnSumAs(const T* x, int64_t rows, int64_t columns, int64_t stride, float* out, bool accumulate) {
  const int64_t chunks = rows < kReductionChunks ? (rows > 0 ? rows : 1) : kReductionChunks;
  float* partial = static_cast<float*>(std::calloc(static_cast<size_t>(chunks * columns), sizeof(float)));
  if (!partial) fail(Code::OutOfMemory, "Out of memory in a column sum");
#pragma omp parallel for schedule(static)
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    float* sum = partial + chunk * columns;
    const int64_t end = rows * (chunk + 1) / chunks;
    for (int64_t row = rows * chunk / chunks; row < end; ++row) {
      const T* line = x + row * stride;
#pragma omp simd
      for (int64_t j = 0; j < columns; ++j) sum[j] += readAs(line, j);
    }
  }
  for (int64_t j = 0; j < columns; ++j) {
    float sum = accumulate ? out[j] : 0.0f;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[chunk * columns + j];
    out[j] = sum;
  }
  std::free(partial);
}

void columnSum(const void* x, DType dtype, int64_t rows, int64_t columns, int64_t stride, float* out,
               bool accumulate) {
  if (dtype == DType::bf16)
    columnSumAs(static_cast<const bf16*>(x), rows, columns, stride, out, accumulate);
  else
    columnSumAs(static_cast<const float*>(x), rows, columns, stride, out, accumulate);
}

void gatherRows(const void* x, const int32_t* index, void* y, int64_t rows, int64_t rowBytes) {
#pragma omp parallel for schedule(static) if (rows * rowBytes > 65536)
  for (int64_t r = 0; r < rows; ++r)
    std::memcpy(static_cast<char*>(y) + r * rowBytes, static_cast<const char*>(x) + index[r] * rowBytes,
                static_cast<size_t>(rowBytes));
}

void addRows(const float* x, const int32_t* index, float* y, int64_t rows, int64_t columns) {
#pragma omp parallel for schedule(static) if (rows * columns > 16384)
  for (int64_t r = 0; r < rows; ++r) {
    const float* from = x + r * columns;
    float* to = y + index[r] * columns;
#pragma omp simd
    for (int64_t j = 0; j < columns; ++j) to[j] += from[j];
  }
}

void dropout(const float* x, float* y, int64_t count, float probability, uint64_t seed, uint64_t stream) {
  const Philox generator{seed, stream};
  const float kept = 1.0f / (1.0f - probability);
#pragma omp parallel for schedule(static) if (count > 4096)
  for (int64_t i = 0; i < count; i += 4) {
    const auto words = generator.words(static_cast<uint64_t>(i / 4));
    for (int64_t j = 0; j < 4 && i + j < count; ++j)
      y[i + j] = Philox::uniform(words[static_cast<size_t>(j)]) >= probability ? x[i + j] * kept : 0.0f;
  }
}

}  // namespace

ElementwiseKernels elementwiseKernels() {
  return {convert, add, multiply, scale, columnSum, gatherRows, addRows, dropout};
}

}  // namespace duet::cpu::DUET_ISA
