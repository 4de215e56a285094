// A GPU on the host, for tests: the kernels of `*.cuda.cu` as plain C++. The threads of a block are fibers,
// which change only where real threads wait for each other (barriers, shuffles, tensor cores), so everything
// that goes wrong there is seen:
//
// - a barrier that not all threads reach, or in different places: an error that says who waits where
// - shared memory nobody has written: it begins as NaN
// - reads and writes out of bounds of shared memory: every block of it is one of the heap's (address
// sanitizer)
// - device memory that the host touches, writes behind its end, host memory that kernels are given, lists
// that change too early: see emulated_stream.h
// - copies that are used before anybody waited for them: copyAsync16 copies in copyWait
//
// Blocks run one after another on each of the host's threads. Nothing here is fast.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <typeinfo>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/tensor.h"
#include "gpu/emulated_stream.h"
#include "gpu/lists.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define DUET_DEVICE inline
#define DUET_LAMBDA
#define DUET_SHARED(type, name, extent)                       \
  static const char duetKeyOf_##name = 0;                     \
  using DuetTypeOf_##name = type extent;                      \
  DuetTypeOf_##name& name = *static_cast<DuetTypeOf_##name*>( \
      ::duet::gpu::emulation::shared(&duetKeyOf_##name, sizeof(type extent)))
#define DUET_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::duet::gpu::emulation::dynamicShared())

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace duet::gpu::emulation {

/// What a kernel sees of its place; of the fiber that runs on this thread of the host.
struct Place {
  uint3 thread, block;
  dim3 threads, blocks;
};
const Place& place();

/// Ends with an error where something that looks like an address is one of the host's.
void checkPointers(const void* argument, size_t bytes, const std::type_info& type);
template <typename T>
void checkValue(T value) {
#if defined(__GNUC__) && \
    !defined(__clang__)  // padding may hold anything; GCC 12 clears more than that, of a copy
  __builtin_clear_padding(&value);
  checkPointers(&value, sizeof(T), typeid(T));
#endif
}

void run(dim3 grid, dim3 block, size_t sharedBytes, const std::function<void()>& kernel);

/// The block's shared variable of this name; the first thread that asks makes it.
void* shared(const void* key, size_t bytes);
void* dynamicShared();

void waitForBlock(int line);
void waitForWarp(unsigned lanes, int line);

/// What the lanes of a warp show each other: every lane puts 64 bytes, all wait, and anybody may look at any
/// lane's.
struct Shown {
  alignas(16) unsigned char bytes[64];
};
/// `show` is called with this lane's slot, then, when all `lanes` have come, `look` with all slots.
template <typename Show, typename Look>
void exchange(unsigned lanes, int line, Show&& show, Look&& look);

Shown* shownByWarp();
int laneOfWarp();

/// Waits, maybe for nothing, until somebody calls wake(): for conditions that are looked at in a loop.
void sleep(int line);
void wake();

/// The bytes given to launch().
std::pair<void*, size_t> dynamicSharedSpan();

/// What instructions keep of the block that runs: one for each block, made when it is first asked for.
std::shared_ptr<void>& keptOfBlock();
template <typename T>
T& ofBlock() {
  std::shared_ptr<void>& kept = keptOfBlock();
  if (!kept) kept = std::make_shared<T>();
  return *static_cast<T*>(kept.get());
}

void startCopy(void* to, const void* from, int valid);
void endCopyGroup();
void finishCopies(int pending);

template <typename Show, typename Look>
void exchange(unsigned lanes, int line, Show&& show, Look&& look) {
  Shown* all = shownByWarp();
  show(all[laneOfWarp()].bytes);
  waitForWarp(lanes, line);
  look(static_cast<const Shown*>(all));
  waitForWarp(lanes, line);
}

template <typename T>
T valueOf(const Shown& shown, size_t index = 0) {
  T value;
  std::memcpy(&value, shown.bytes + index * sizeof(T), sizeof(T));
  return value;
}

template <typename T>
T shuffle(unsigned lanes, T value, int from, int line) {
  static_assert(sizeof(T) <= sizeof(Shown));
  T result;
  exchange(
      lanes, line, [&](unsigned char* to) { std::memcpy(to, &value, sizeof(T)); },
      [&](const Shown* all) { result = valueOf<T>(all[from]); });
  return result;
}

}  // namespace duet::gpu::emulation

#define threadIdx (::duet::gpu::emulation::place().thread)
#define blockIdx (::duet::gpu::emulation::place().block)
#define blockDim (::duet::gpu::emulation::place().threads)
#define gridDim (::duet::gpu::emulation::place().blocks)

inline void __syncthreads(int line = __builtin_LINE()) { duet::gpu::emulation::waitForBlock(line); }
inline void __syncwarp(unsigned lanes = 0xffffffffu, int line = __builtin_LINE()) {
  duet::gpu::emulation::waitForWarp(lanes, line);
}

// Lanes are taken within segments of `width`, a power of two; a lane outside keeps its own value.
template <typename T>
T __shfl_sync(unsigned lanes, T value, int from, int width = 32, int line = __builtin_LINE()) {
  const int lane = duet::gpu::emulation::laneOfWarp();
  return duet::gpu::emulation::shuffle(lanes, value, lane / width * width + (from & (width - 1)), line);
}
template <typename T>
T __shfl_xor_sync(unsigned lanes, T value, int mask, int width = 32, int line = __builtin_LINE()) {
  const int lane = duet::gpu::emulation::laneOfWarp(), from = lane ^ mask;
  return duet::gpu::emulation::shuffle(lanes, value, from / width > lane / width ? lane : from, line);
}
template <typename T>
T __shfl_down_sync(unsigned lanes, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
  const int lane = duet::gpu::emulation::laneOfWarp(), from = lane + static_cast<int>(by);
  return duet::gpu::emulation::shuffle(lanes, value, from / width > lane / width ? lane : from, line);
}
template <typename T>
T __shfl_up_sync(unsigned lanes, T value, unsigned by, int width = 32, int line = __builtin_LINE()) {
  const int lane = duet::gpu::emulation::laneOfWarp(), from = lane - static_cast<int>(by);
  return duet::gpu::emulation::shuffle(lanes, value, from < lane / width * width ? lane : from, line);
}
inline unsigned __ballot_sync(unsigned lanes, bool vote, int line = __builtin_LINE()) {
  namespace emulation = duet::gpu::emulation;
  unsigned votes = 0;
  emulation::exchange(
      lanes, line, [&](unsigned char* to) { to[0] = vote; },
      [&](const emulation::Shown* all) {
        for (unsigned lane = 0; lane < 32; ++lane)
          if (lanes >> lane & 1 && all[lane].bytes[0]) votes |= 1u << lane;
      });
  return votes;
}
inline bool __any_sync(unsigned lanes, bool vote, int line = __builtin_LINE()) {
  return __ballot_sync(lanes, vote, line) != 0;
}
inline bool __all_sync(unsigned lanes, bool vote, int line = __builtin_LINE()) {
  return __ballot_sync(lanes, vote, line) == lanes;
}

inline int atomicAdd(int* to, int value) { return std::atomic_ref(*to).fetch_add(value); }
inline unsigned atomicAdd(unsigned* to, unsigned value) { return std::atomic_ref(*to).fetch_add(value); }
inline int atomicMax(int* to, int value) {
  std::atomic_ref<int> there(*to);
  int before = there.load();
  while (before < value && !there.compare_exchange_weak(before, value)) {
  }
  return before;
}

template <typename T>
T __ldg(const T* p) {
  return *p;
}
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline unsigned __float_as_uint(float x) { return static_cast<unsigned>(__float_as_int(x)); }
inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline float __uint_as_float(unsigned bits) { return __int_as_float(static_cast<int>(bits)); }

namespace duet::gpu {

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes,
            Arguments... arguments) {
  (emulation::checkValue(arguments), ...);
  emulation::enqueue([=] {
    emulation::run(grid, block, sharedBytes, [=] { kernel(static_cast<Parameters>(arguments)...); });
  });
}

inline uint32_t packBf16(float low, float high) {
  return toBf16(low).bits | static_cast<uint32_t>(toBf16(high).bits) << 16;
}

inline float fastExp2(float x) { return std::exp2(x); }

// Tensor cores: see tensor_core.h for who holds what.
void mmaBf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE());
void mmaTf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE());
uint32_t toTf32(float value);
void loadMatrices(uint32_t (&to)[4], const void* row, int line = __builtin_LINE());
void loadMatricesTurned(uint32_t (&to)[4], const void* row, int line = __builtin_LINE());
inline void copyAsync16(void* to, const void* from, int valid = 16) { emulation::startCopy(to, from, valid); }
inline void copyCommit() { emulation::endCopyGroup(); }
template <int Pending>
void copyWait() {
  emulation::finishCopies(Pending);
}

}  // namespace duet::gpu
