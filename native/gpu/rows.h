// Kernels over rows of numbers: a row and a unit of it for each thread, without divisions; and where a row of
// a channels-last feature map lies in its picture, with divisions by multiplication.
#pragma once

#include "gpu/kernel.h"

namespace duet::gpu {

/// Quotients of numbers below 2^31 (Granlund and Montgomery 1994): n / by = (n * factor) >> shift.
class Divisor {
 public:
  explicit Divisor(int64_t by) : by_(static_cast<unsigned>(by)) {
    while ((int64_t{1} << (shift_ - 31)) < by) ++shift_;
    factor_ = ((uint64_t{1} << shift_) + by_ - 1) / by_;
  }
  DUET_BOTH unsigned of(unsigned n) const { return static_cast<unsigned>(n * factor_ >> shift_); }
  DUET_BOTH unsigned rest(unsigned n) const { return n - of(n) * by_; }

 private:
  unsigned by_, shift_ = 31;
  uint64_t factor_;
};

struct Pixel {
  int picture, y, x;
};

/// Rows of pixels of pictures, fewer than 2^31.
class Pixels {
 public:
  Pixels(int64_t rows, int64_t height, int64_t width) : ofPicture_(height * width), ofLine_(width) {
    if (rows > INT32_MAX) fail(Code::Unsupported, "Expected fewer than 2^31 pixels but received ", rows);
  }
  DUET_BOTH Pixel at(int64_t row) const {
    const auto r = static_cast<unsigned>(row);
    const unsigned inside = ofPicture_.rest(r);
    return {static_cast<int>(ofPicture_.of(r)), static_cast<int>(ofLine_.of(inside)),
            static_cast<int>(ofLine_.rest(inside))};
  }

 private:
  Divisor ofPicture_, ofLine_;
};

template <typename Work>
__global__ void eachOfRowsKernel(int64_t rows, int64_t units, Work work) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= rows) return;
  for (int64_t unit = threadIdx.x; unit < units; unit += blockDim.x) work(row, unit);
}

/// work(row, unit) for every unit of every row; neighbouring threads have neighbouring units.
template <typename Work>
void forRows(int64_t rows, int64_t units, Work work) {
  if (rows == 0 || units == 0) return;
  unsigned across = 1;
  while (across < units && across < kThreads) across *= 2;
  const unsigned down = kThreads / across;
  launch(eachOfRowsKernel<Work>, blocksFor(rows, down, INT32_MAX), dim3(across, down), 0, rows, units, work);
}

/// Whether numbers may be taken `count` at a time: rows of `columns`, of places that are multiples of 16
/// bytes (8 for bf16).
inline bool inVectors(int64_t columns, int64_t count, std::initializer_list<const void*> places) {
  bool aligned = columns % count == 0;
  for (const void* place : places) aligned = aligned && reinterpret_cast<uintptr_t>(place) % 16 == 0;
  return aligned;
}

// One number, or four at once.
template <int V>
struct Numbers {
  float of[V];
};

template <int V>
DUET_DEVICE Numbers<V> loadNumbers(const float* p) {
  if constexpr (V == 4) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    return {{v.x, v.y, v.z, v.w}};
  } else {
    return {{*p}};
  }
}

template <int V>
DUET_DEVICE Numbers<V> loadNumbers(const bf16* p) {
  if constexpr (V == 4) {
    const uint2 v = *reinterpret_cast<const uint2*>(p);
    return {{__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
             __uint_as_float(v.y & 0xffff0000u)}};
  } else {
    return {{toFloat(*p)}};
  }
}

template <int V>
DUET_DEVICE void storeNumbers(float* p, const Numbers<V>& v) {
  if constexpr (V == 4)
    *reinterpret_cast<float4*>(p) = make_float4(v.of[0], v.of[1], v.of[2], v.of[3]);
  else
    *p = v.of[0];
}

DUET_DEVICE unsigned halves(float low, float high) {
  return toBf16(low).bits | static_cast<unsigned>(toBf16(high).bits) << 16;
}

template <int V>
DUET_DEVICE void storeNumbers(bf16* p, const Numbers<V>& v) {
  if constexpr (V == 4)
    *reinterpret_cast<uint2*>(p) = make_uint2(halves(v.of[0], v.of[1]), halves(v.of[2], v.of[3]));
  else
    *p = toBf16(v.of[0]);
}

}  // namespace duet::gpu
