// hopper.h on the host. What is asynchronous there happens here as late as it may or as early, block by block
// in turns, so that a missing wait is seen either way: copies arrive when their barrier is waited for (blocks
// of even numbers) or at once (odd ones), products are computed when they are waited for.
#pragma once

#define __grid_constant__
#pragma GCC diagnostic ignored "-Wpsabi"  // of parameters aligned to 64 bytes, TensorMap

namespace duet::gpu {

constexpr bool kOnTrial = false;

struct Barrier {
  uint16_t expected, pending;
  int32_t bytes : 24;
  uint32_t phase : 8;
};
static_assert(sizeof(Barrier) == 8);

/// Shared memory has 18 bits of address; the host's are as good.
inline uint32_t sharedAddress(const void* place) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(place));
}

void barrierInit(Barrier& barrier, int count);
inline void barrierFence() {}
void barrierExpect(Barrier& barrier, int bytes);
void barrierArrive(Barrier& barrier);
void barrierWait(Barrier& barrier, unsigned parity, int line = __builtin_LINE());
void copyTile(void* to, const TensorMap& map, int x, int y, Barrier& barrier);

template <int Count>
void fewerRegisters() {}
template <int Count>
void moreRegisters() {}

namespace emulation {

struct Wgmma {
  float* sums;
  int columns;
  uint64_t a, b;
  bool aAcross, bAcross, add;
};
void startWgmma(const Wgmma& product);
void endWgmmaGroup();
void finishWgmmas(int pending, int line);

}  // namespace emulation

template <int N, bool AAcross, bool BAcross>
void wgmma(float (&sums)[N / 2], uint64_t a, uint64_t b, bool add) {
  emulation::startWgmma({sums, N, a, b, AAcross, BAcross, add});
}
inline void wgmmaFence() {}
inline void wgmmaCommit() { emulation::endWgmmaGroup(); }
template <int Pending, int Count>
void wgmmaWait(float (&)[Count], int line = __builtin_LINE()) {
  emulation::finishWgmmas(Pending, line);
}

}  // namespace duet::gpu
