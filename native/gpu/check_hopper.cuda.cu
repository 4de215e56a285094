// Kernels that check Hopper's instructions one by one, as check.cuda.cu does with those of every GPU.
#include "gpu/check.h"
#include "gpu/hopper.h"
#include "ops/product_hopper.h"

namespace duet::gpu {
namespace {

constexpr int kColumns = 128;  // of C

/// A tile of 16 rows from column 24, row -3 on, in the order of shared memory.
__global__ void copyTileKernel(const __grid_constant__ TensorMap map, float* out) {
#if DUET_HOPPER
  constexpr int rows = 16, values = rows * kTileColumns;
  DUET_SHARED(Barrier, came, [1]);
  DUET_DYNAMIC_SHARED(unsigned char, bytes);
  unsigned char* const tile = tilesIn(bytes);
  if (threadIdx.x == 0) {
    barrierInit(came[0], 1);
    barrierFence();
    barrierExpect(came[0], rows * kTileRowBytes);
    copyTile(tile, map, 24, -3, came[0]);
  }
  __syncthreads();
  barrierWait(came[0], 0);
  for (int i = static_cast<int>(threadIdx.x); i < values; i += kWarp)
    out[i] = loadAs(reinterpret_cast<const bf16*>(tile), i);
#endif
}

/// C (64 x 128) = A B over 64 of K, both stored along K or both across.
template <bool AlongK>
__global__ void wgmmaKernel(const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
                            float* c) {
#if DUET_HOPPER
  DUET_SHARED(Barrier, came, [1]);
  DUET_DYNAMIC_SHARED(unsigned char, bytes);
  unsigned char *const left = tilesIn(bytes), *const right = left + kPanelBytes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp;
  if (thread == 0) {
    barrierInit(came[0], 1);
    barrierFence();
    barrierExpect(came[0], 3 * kPanelBytes);
    copyTile(left, a, 0, 0, came[0]);
    copyTile(right, b, 0, 0, came[0]);
    copyTile(right + kPanelBytes, b, AlongK ? 0 : 64, AlongK ? 64 : 0, came[0]);
  }
  __syncthreads();
  barrierWait(came[0], 0);
  const uint64_t rows = descriptorOf(sharedAddress(left), kPanelBytes, 1024);
  const uint64_t columns = descriptorOf(sharedAddress(right), kPanelBytes, 1024);
  float sums[kColumns / 2];
  wgmmaFence();
  for (int k = 0; k < 4; ++k) {
    const auto bytesOfK = static_cast<uint32_t>(k * (AlongK ? 32 : 2048));
    wgmma<kColumns, !AlongK, !AlongK>(sums, further(rows, bytesOfK), further(columns, bytesOfK), k > 0);
  }
  wgmmaCommit();
  wgmmaWait<0>(sums);
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i)
    c[(16 * (thread / kWarp) + lane / 4 + i / 2 % 2 * 8) * kColumns + i / 4 * 8 + lane % 4 * 2 + i % 2] =
        sums[i];
#endif
}

/// A mistake: a barrier that nobody comes to.
__global__ void deadlockKernel(float* out) {
#if DUET_HOPPER
  DUET_SHARED(Barrier, never, [1]);
  if (threadIdx.x == 0) barrierInit(never[0], 1);
  __syncthreads();
  barrierWait(never[0], 0);
  out[0] = 1.0f;
#endif
}

void toBf16On(const float* from, bf16* to, int64_t count) {
  forEach(count, [=] DUET_LAMBDA(int64_t i) { storeAs(to, i, from[i]); });
}

}  // namespace

bool checkHopper(const std::string& name, const float* x, const float* y, float* out) {
  if (name == "copy_tile") {
    constexpr int rows = 10, columns = 80;
    const Scratch<bf16> matrix(rows * columns);
    toBf16On(x, matrix.data(), rows * columns);
    launch(copyTileKernel, 1, kWarp, 3072, tensorMapOf(matrix.data(), rows, columns, columns, 16), out);
  } else if (name == "wgmma_along" || name == "wgmma_across") {
    constexpr int k = 64, m = 64, n = kColumns, bytes = 3 * kPanelBytes + 1024;
    const Scratch<bf16> a(m * k), b(k * n);
    toBf16On(x, a.data(), m * k);
    toBf16On(y, b.data(), k * n);
    if (name == "wgmma_along")
      launch(wgmmaKernel<true>, 1, kWarpgroup, bytes, tensorMapOf(a.data(), m, k, k, 64),
             tensorMapOf(b.data(), n, k, k, 64), out);
    else
      launch(wgmmaKernel<false>, 1, kWarpgroup, bytes, tensorMapOf(a.data(), k, m, m, 64),
             tensorMapOf(b.data(), k, n, n, 64), out);
  } else if (name == "deadlock") {
    launch(deadlockKernel, 1, 40, 0, out);
  } else if (name == "products") {
    forEach(1, [=, agree = productsAgree()] DUET_LAMBDA(int64_t i) { out[i] = agree ? 1.0f : 0.0f; });
  } else {
    return false;
  }
  return true;
}

}  // namespace duet::gpu
