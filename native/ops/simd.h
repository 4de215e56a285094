// Small vocabulary for the CPU kernels. Every `*.cpu.cpp` is compiled once per instruction set with
// DUET_ISA naming the namespace (avx512, avx2, generic), so nothing here may be shared between
// them: all functions are static inline.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/tensor.h"
#include "ops/normal_tail.h"

#ifndef DUET_ISA
#define DUET_ISA generic
#endif

namespace duet::cpu::DUET_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef int32_t VecInt __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

static inline Vec loadVec(const float* p) { return *reinterpret_cast<const Vec*>(p); }
static inline void storeVec(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
typedef uint32_t VecBits __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint16_t VecHalf __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));

// The same of bf16, rounded to nearest even as in toBf16.
static inline Vec loadVec(const bf16* p) {
  return (Vec)(__builtin_convertvector(*reinterpret_cast<const VecHalf*>(p), VecBits) << 16);
}
static inline void storeVec(bf16* p, Vec v) {
  const VecBits bits = (VecBits)v;
  const VecBits rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecBits quiet = (bits >> 16) | 0x40u;
  const VecBits result = (bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded;
  *reinterpret_cast<VecHalf*>(p) = __builtin_convertvector(result, VecHalf);
}

// 0 + value would keep an addition, which turns -0 into 0.
static inline Vec fillVec(float value) { return value - Vec{}; }

static inline float floatFromBits(int32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
static inline int32_t bitsFromFloat(float value) {
  int32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

/// The first `count` values of a vector; the others read as 0.
template <typename T>
static inline Vec loadSome(const T* p, int64_t count) {
  if (count == kLanes) return loadVec(p);
  T some[kLanes] = {};
  std::memcpy(some, p, static_cast<size_t>(count) * sizeof(T));
  return loadVec(some);
}
template <typename T>
static inline void storeSome(T* p, Vec v, int64_t count) {
  if (count == kLanes) return storeVec(p, v);
  T some[kLanes];
  storeVec(some, v);
  std::memcpy(p, some, static_cast<size_t>(count) * sizeof(T));
}

// Reads and writes of either storage type as float; the loops around them vectorise.
static inline float readAs(const float* p, int64_t i) { return p[i]; }
static inline float readAs(const bf16* p, int64_t i) {
  return floatFromBits(static_cast<int32_t>(static_cast<uint32_t>(p[i].bits) << 16));
}
static inline void writeAs(float* p, int64_t i, float value) { p[i] = value; }
static inline void writeAs(bf16* p, int64_t i, float value) {
  const uint32_t bits = static_cast<uint32_t>(bitsFromFloat(value));
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  p[i].bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/// exp(x) to about 1 ulp for x <= 88; exactly 0 below -87.3 and for -infinity; NaN for NaN.
static inline float fastExp(float x) {
  const float clamped = x > 88.0f ? 88.0f : (x < -87.3f ? -87.3f : x);
  const float shifted = clamped * 1.44269504088896f + 12582912.0f;  // round to nearest by the magic number
  const int32_t exponent = bitsFromFloat(shifted) - 0x4b400000;
  const float n = shifted - 12582912.0f;
  float r = clamped - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const float scaled = floatFromBits(bitsFromFloat(p) + (exponent << 23));
  const float inRange = x < -87.3f ? 0.0f : scaled;
  return x != x ? x : inRange;  // NaN stays NaN whatever its bits
}

/// exp(x) to about 2 ulp for x up to a rounding error above 0; exactly 0 below -87.3 and for -infinity; NaN
/// for NaN. The polynomial is a least-maximum fit of relative error 2e-9.
static inline float expBelowZero(float x) {
  const float shifted = x * 1.44269504088896f + 12582912.0f;  // round to nearest by the magic number
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  float p = 0.0013836742f;
  p = p * r + 0.008374899f;
  p = p * r + 0.041668233f;
  p = p * r + 0.1666642f;
  p = p * r + 0.4999999f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const int32_t exponent = static_cast<int32_t>(static_cast<uint32_t>(bitsFromFloat(shifted)) << 23);
  const float e = x < -87.3f ? 0.0f : floatFromBits(bitsFromFloat(p) + exponent);
  return x != x ? x : e;
}

/// 1 / (1 + exp(-x)) to about 2 ulp, exactly 0 below -87.3; NaN for NaN. From e = exp(-|x|).
static inline float logistic(float x) {
  const float e = expBelowZero(x < 0.0f ? x : -x);
  const float share = 1.0f / (1.0f + e);
  return x < 0.0f ? e * share : share;
}

/// The derivative of silu(x) = x logistic(x).
static inline float siluSlope(float x) {
  const float s = logistic(x);
  return s * (1.0f + x * (1.0f - s));
}

/// Standard normal distribution function and density at x, sharing one exponential.
static inline void normalCdf(float x, float& cdf, float& density) {
  const float a = x < 0.0f ? -x : x;
  const float e = fastExp(-0.5f * a * a);
  const float tail = normalTail(1.0f / (1.0f + 0.3f * a)) * e;
  cdf = x < 0.0f ? tail : 1.0f - tail;
  density = 0.3989422804014327f * e;
}

}  // namespace duet::cpu::DUET_ISA
