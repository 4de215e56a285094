// Neighbouring values at once: N of them (1, 2, 4 or 8) in registers as f32, whatever they are in memory,
// read and written 16 bytes at a time where they are as many.
//
//   struct Double {
//     const float* x;
//     float* y;
//     template <int N>
//     DUET_DEVICE void run(int64_t i) const { float v[N]; loadVector(x, i, v); ... storeVector(y, i, v); }
//   };
//   forEachVector<4>(count, vectorsFit<4>(x, y), Double{x, y});
#pragma once

#include "gpu/kernel.h"

namespace duet::gpu {

/// The widest vector of these types.
template <typename... T>
constexpr int kVectorOf = ((sizeof(T) == 2) || ...) ? 8 : 4;

/// Whether vectors of N may begin at these places; null for a place that is not used.
template <int N, typename... T>
bool vectorsFit(const T*... places) {
  return ((reinterpret_cast<uintptr_t>(places) % (N * sizeof(T) < 16 ? N * sizeof(T) : 16) == 0) && ...);
}

/// Whether a kernel writes what it reads. Where it does not, its reads may go ahead of its writes.
enum class Source { written, constant };

template <typename Word, Source From>
DUET_DEVICE Word loadWord(const void* p) {
  if constexpr (From == Source::constant)
    return __ldg(static_cast<const Word*>(p));
  else
    return *static_cast<const Word*>(p);
}

template <Source From = Source::written, int N>
DUET_DEVICE void loadVector(const float* p, int64_t i, float (&v)[N]) {
  if constexpr (N == 1) {
    v[0] = loadWord<float, From>(p + i);
  } else if constexpr (N == 2) {
    const float2 two = loadWord<float2, From>(p + i);
    v[0] = two.x, v[1] = two.y;
  } else {
#pragma unroll
    for (int j = 0; j < N; j += 4) {
      const float4 four = loadWord<float4, From>(p + i + j);
      v[j] = four.x, v[j + 1] = four.y, v[j + 2] = four.z, v[j + 3] = four.w;
    }
  }
}

DUET_DEVICE void unpackBf16(uint32_t word, float& low, float& high) {
  low = __uint_as_float(word << 16);
  high = __uint_as_float(word & 0xffff0000u);
}

template <Source From = Source::written, int N>
DUET_DEVICE void loadVector(const bf16* p, int64_t i, float (&v)[N]) {
  if constexpr (N == 1) {
    v[0] = __uint_as_float(static_cast<uint32_t>(loadWord<uint16_t, From>(p + i)) << 16);
  } else if constexpr (N == 2) {
    unpackBf16(loadWord<uint32_t, From>(p + i), v[0], v[1]);
  } else if constexpr (N == 4) {
    const uint2 words = loadWord<uint2, From>(p + i);
    unpackBf16(words.x, v[0], v[1]);
    unpackBf16(words.y, v[2], v[3]);
  } else {
    const uint4 words = loadWord<uint4, From>(p + i);
    unpackBf16(words.x, v[0], v[1]);
    unpackBf16(words.y, v[2], v[3]);
    unpackBf16(words.z, v[4], v[5]);
    unpackBf16(words.w, v[6], v[7]);
  }
}

template <typename T, int N>
DUET_DEVICE void loadConstant(const T* p, int64_t i, float (&v)[N]) {
  loadVector<Source::constant>(p, i, v);
}

template <int N>
DUET_DEVICE void storeVector(float* p, int64_t i, const float (&v)[N]) {
  if constexpr (N == 1) {
    p[i] = v[0];
  } else if constexpr (N == 2) {
    *reinterpret_cast<float2*>(p + i) = make_float2(v[0], v[1]);
  } else {
#pragma unroll
    for (int j = 0; j < N; j += 4)
      *reinterpret_cast<float4*>(p + i + j) = make_float4(v[j], v[j + 1], v[j + 2], v[j + 3]);
  }
}

template <int N>
DUET_DEVICE void storeVector(bf16* p, int64_t i, const float (&v)[N]) {
  if constexpr (N == 1)
    p[i] = toBf16(v[0]);
  else if constexpr (N == 2)
    *reinterpret_cast<uint32_t*>(p + i) = packBf16(v[0], v[1]);
  else if constexpr (N == 4)
    *reinterpret_cast<uint2*>(p + i) = make_uint2(packBf16(v[0], v[1]), packBf16(v[2], v[3]));
  else
    *reinterpret_cast<uint4*>(p + i) =
        make_uint4(packBf16(v[0], v[1]), packBf16(v[2], v[3]), packBf16(v[4], v[5]), packBf16(v[6], v[7]));
}

template <int N, typename Work>
__global__ void eachVectorKernel(int64_t count, Work work) {
  const int64_t vectors = count / N;
  for (int64_t i = globalThread(); i < vectors; i += globalThreads()) work.template run<N>(i * N);
  const int64_t rest = vectors * N + globalThread();
  if (N > 1 && rest < count) work.template run<1>(rest);
}

/// work.run<N>(i) for the `count` elements, N from i on at a time where they fit, else one by one.
template <int N, typename Work>
void forEachVector(int64_t count, bool fit, Work work) {
  if (count <= 0) return;
  if (fit)
    launch(eachVectorKernel<N, Work>, blocksFor((count + N - 1) / N), kThreads, 0, count, work);
  else
    launch(eachVectorKernel<1, Work>, blocksFor(count), kThreads, 0, count, work);
}

/// work(float{}) or work(bf16{})
template <typename Work>
void withType(DType dtype, Work work) {
  dtype == DType::bf16 ? work(bf16{}) : work(float{});
}

}  // namespace duet::gpu
