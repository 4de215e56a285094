#include "ops/gated.h"

#include "ops/kernels.h"
#include "ops/simd.h"

namespace duet::cpu::DUET_ISA {
namespace {

template <typename T>
void forwardAs(const Gate& c) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < c.rows; ++row) {
    const T* value = static_cast<const T*>(c.before) + row * 2 * c.width;
    const T* gate = value + c.width;
    T* after = static_cast<T*>(c.after) + row * c.width;
#pragma omp simd
    for (int64_t i = 0; i < c.width; ++i) {
      const float g = readAs(gate, i);
      float cdf, density;
      normalCdf(g, cdf, density);
      writeAs(after, i, readAs(value, i) * (g * cdf));
    }
  }
}

template <typename T>
void backwardAs(const Gate& c) {
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < c.rows; ++row) {
    const T* value = static_cast<const T*>(c.before) + row * 2 * c.width;
    const T* gate = value + c.width;
    const T* dAfter = static_cast<const T*>(c.dAfter) + row * c.width;
    T* dValue = static_cast<T*>(c.dBefore) + row * 2 * c.width;
    T* dGate = dValue + c.width;
    T* after = c.after ? static_cast<T*>(c.after) + row * c.width : dValue;
#pragma omp simd
    for (int64_t i = 0; i < c.width; ++i) {
      const float g = readAs(gate, i), v = readAs(value, i), up = readAs(dAfter, i);
      float cdf, density;
      normalCdf(g, cdf, density);
      writeAs(after, i, v * (g * cdf));
      writeAs(dGate, i, up * v * (cdf + g * density));
      writeAs(dValue, i, up * (g * cdf));
    }
  }
}

void forward(const Gate& c) { c.dtype == DType::bf16 ? forwardAs<bf16>(c) : forwardAs<float>(c); }
void backward(const Gate& c) { c.dtype == DType::bf16 ? backwardAs<bf16>(c) : backwardAs<float>(c); }

void copyColumns(const ColumnCopy& c) {
#pragma omp parallel for schedule(static) if (c.rows * c.bytes > 65536)
  for (int64_t row = 0; row < c.rows; ++row)
    std::memcpy(static_cast<char*>(c.to) + row * c.toBytes,
                static_cast<const char*>(c.from) + row * c.fromBytes, static_cast<size_t>(c.bytes));
}

}  // namespace

GatedKernels gatedKernels() { return {forward, backward, copyColumns}; }

}  // namespace duet::cpu::DUET_ISA
