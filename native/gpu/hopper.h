// Hopper's own instructions (sm_90a; PTX ISA: mbarrier, cp.async.bulk.tensor, wgmma): tiles that the hardware
// copies, and products of four warps (a warpgroup) that take them from shared memory. hopper_native.h has the
// real ones, hopper_emulation.h those of the host.
//
// barrierInit(b, n)           a phase of the barrier ends when n arrived and all expected bytes came
// barrierExpect(b, bytes)     arrives, and expects bytes of copies
// barrierArrive(b)
// barrierWait(b, parity)      until the phase of this parity (0, 1, 0, ...) has ended; of a new barrier that
// of
//                             parity 1 has
// copyTile(to, map, x, y, b)  the tile of a matrix from column x, row y on; what lies outside becomes 0
// wgmma<N, AAcross, BAcross>(sums, a, b, add)
//     sums (64 x N) = or += A (64 x 16) B (16 x N) of bf16 behind descriptors. A thread has row
//     16 (warp) + lane / 4 and that 8 below: sums[4 j + 2 below + i] is column 8 j + 2 (lane % 4) + i.
// wgmmaFence()                before the first wgmma, and where sums were touched in between
// wgmmaCommit(), wgmmaWait<Pending>(sums)      groups, as those of copyAsync16
#pragma once

#include "gpu/kernel.h"

/// Whether what is compiled now may use them. Kernels are empty elsewhere.
#if !defined(__CUDACC__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define DUET_HOPPER 1
#else
#define DUET_HOPPER 0
#endif

namespace duet::gpu {

/// Values of a row of a tile: 128 bytes, in which the 16-byte chunks change places with the row (address bits
/// 4 to 6 are xored with bits 7 to 9). Tiles begin at multiples of 1024 bytes.
constexpr int kTileColumns = 64;
constexpr int kTileRowBytes = 128;
/// 64 rows.
constexpr int kPanelBytes = 64 * kTileRowBytes;

constexpr int kWarpgroup = 128;

/// What the hardware knows of a matrix (CUtensorMap).
struct alignas(64) TensorMap {
  unsigned char bytes[128];
};

/// A matrix of bf16 whose rows begin at multiples of 16 bytes, to be copied in tiles of `tileRows` (at most
/// 256) by kTileColumns. @throws Internal when the driver does not take it
TensorMap tensorMapOf(const void* data, int64_t rows, int64_t columns, int64_t stride, int tileRows);

/// Whether the device in use has these instructions.
bool isHopper();

/// Where the operand of a wgmma begins in tiles (as above). Rows along K: groups of 8 rows are `stride` bytes
/// apart, and `leading` does not count. Rows across: groups of 8 rows (of K) are `stride` apart, of 64
/// columns `leading`.
DUET_DEVICE uint64_t descriptorOf(uint32_t address, uint32_t leading, uint32_t stride) {
  constexpr uint64_t swizzle128 = 1;
  return (address & 0x3ffffu) >> 4 | static_cast<uint64_t>(leading >> 4) << 16 |
         static_cast<uint64_t>(stride >> 4) << 32 | swizzle128 << 62;
}

/// The descriptor of what begins so many bytes further.
DUET_DEVICE uint64_t further(uint64_t descriptor, uint32_t bytes) { return descriptor + (bytes >> 4); }

}  // namespace duet::gpu

#if defined(__CUDACC__)
#include "gpu/hopper_native.h"
#else
#include "gpu/hopper_emulation.h"
#endif

namespace duet::gpu {

/// Of dynamic shared memory, where tiles may begin: up to 1023 bytes further.
DUET_DEVICE unsigned char* tilesIn(unsigned char* bytes) {
  return bytes + (0u - sharedAddress(bytes)) % 1024;
}

}  // namespace duet::gpu
