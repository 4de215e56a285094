#include "ops/gated.h"

#include "gpu/curves.h"
#include "gpu/vector.h"
#include "ops/kernels.h"

namespace duet::gpu {
namespace {

/// Runs over the elements of `after`; where N of them go at a time, N divides the width.
template <typename T>
struct Forward {
  const T* before;
  T* after;
  int64_t width;
  template <int N>
  DUET_DEVICE void run(int64_t i) const {
    const int64_t value = i + i / width * width;
    float v[N], g[N];
    loadVector(before, value, v);
    loadVector(before, value + width, g);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float cdf, density;
      normalCdf(g[j], cdf, density);
      v[j] *= g[j] * cdf;
    }
    storeVector(after, i, v);
  }
};

template <typename T>
struct Backward {
  const T* before;
  T* after;
  const T* dAfter;
  T* dBefore;
  int64_t width;
  template <int N>
  DUET_DEVICE void run(int64_t i) const {
    const int64_t value = i + i / width * width;
    float v[N], g[N], up[N];
    loadVector(before, value, v);
    loadVector(before, value + width, g);
    loadVector(dAfter, i, up);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float cdf, density;
      normalCdf(g[j], cdf, density);
      const float gelu = g[j] * cdf;
      g[j] = up[j] * v[j] * (cdf + g[j] * density);
      v[j] *= gelu;
      up[j] *= gelu;
    }
    if (after) storeVector(after, i, v);
    storeVector(dBefore, value, up);
    storeVector(dBefore, value + width, g);
  }
};

void forward(const Gate& c) {
  withType(c.dtype, [&](auto type) {
    using T = decltype(type);
    const Forward<T> work{static_cast<const T*>(c.before), static_cast<T*>(c.after), c.width};
    constexpr int n = kVectorOf<T>;
    const bool fit = c.width % n == 0 && vectorsFit<n>(work.before, work.after);
    forEachVector<n>(c.rows * c.width, fit, work);
  });
}

void backward(const Gate& c) {
  withType(c.dtype, [&](auto type) {
    using T = decltype(type);
    const Backward<T> work{static_cast<const T*>(c.before), static_cast<T*>(c.after),
                           static_cast<const T*>(c.dAfter), static_cast<T*>(c.dBefore), c.width};
    constexpr int n = kVectorOf<T>;
    const bool fit = c.width % n == 0 && vectorsFit<n>(work.before, work.after, work.dAfter, work.dBefore);
    forEachVector<n>(c.rows * c.width, fit, work);
  });
}

template <typename Unit>
void copyAs(const ColumnCopy& c) {
  constexpr int64_t size = sizeof(Unit);
  const Unit* from = static_cast<const Unit*>(c.from);
  Unit* to = static_cast<Unit*>(c.to);
  const int64_t units = c.bytes / size, fromUnits = c.fromBytes / size, toUnits = c.toBytes / size;
  forEach(c.rows * units, [=] DUET_LAMBDA(int64_t i) {
    const int64_t row = i / units, column = i - row * units;
    to[row * toUnits + column] = from[row * fromUnits + column];
  });
}

void copyColumns(const ColumnCopy& c) {
  const auto places = reinterpret_cast<uintptr_t>(c.from) | reinterpret_cast<uintptr_t>(c.to) |
                      static_cast<uintptr_t>(c.fromBytes | c.toBytes | c.bytes);
  if (places % 16 == 0)
    copyAs<uint4>(c);
  else if (places % 4 == 0)
    copyAs<uint32_t>(c);
  else if (places % 2 == 0)
    copyAs<uint16_t>(c);
  else
    copyAs<uint8_t>(c);
}

}  // namespace

GatedKernels gatedKernels() { return {forward, backward, copyColumns}; }

}  // namespace duet::gpu
