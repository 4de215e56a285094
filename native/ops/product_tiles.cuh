// Products tile by tile on tensor cores: a block computes a tile of C, its four warps a quarter each, while
// the next tiles of A and B are on their way. bf16 is multiplied as it is; f32 in three products of tf32,
// which keep 22 bits of each factor.
#pragma once

#include "ops/product_finish.cuh"
#include "ops/product_operand.cuh"
#include "ops/product_parts.cuh"
#include "ops/product_patches.cuh"

namespace duet::gpu {

namespace {

constexpr int kStages = 4;

/// Blocks of one row of the grid take the tiles of C down its columns, so that neighbours share their part of
/// B; rows of the grid take `depth` of K each and write their sums `partStride` values apart.
template <typename T, int M, int N, bool AAlongK, bool BAlongK, typename A, typename B>
__global__ void __launch_bounds__(kProductThreads, 2)
    tileKernel(A a, B b, int k, int depth, Finish ending, int64_t partStride) {
  constexpr int warpM = M / 2, warpN = N / 2, stage = (M + N) * kTileDepth<T>;
  DUET_DYNAMIC_SHARED(T, tiles);
  const int downTiles = (ending.m + M - 1) / M, tile = static_cast<int>(blockIdx.x);
  const int firstRow = tile % downTiles * M, firstColumn = tile / downTiles * N;
  const int kBegin = static_cast<int>(blockIdx.y) * depth, kEnd = kBegin + depth < k ? kBegin + depth : k;
  const int count = (kEnd - kBegin + kTileDepth<T> - 1) / kTileDepth<T>;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int warpRow = warp % 2 * warpM, warpColumn = warp / 2 * warpN;

  SourceOf<A, T, M, AAlongK> left(a, firstRow, ending.m, kBegin, kEnd);
  SourceOf<B, T, N, BAlongK> right(b, firstColumn, ending.n, kBegin, kEnd);
  const auto copyTile = [&](int index) {
    if (index < count) {
      T* to = tiles + index % kStages * stage;
      left.next(to);
      right.next(to + M * kTileDepth<T>);
    }
    copyCommit();
  };
  for (int i = 0; i < kStages - 1; ++i) copyTile(i);

  float sums[warpM / 16][warpN / 8][4] = {};
  for (int i = 0; i < count; ++i) {
    copyWait<kStages - 2>();
    __syncthreads();  // tile i has come, and all have done with tile i - 1, whose place is taken next
    copyTile(i + kStages - 1);
    const T* from = tiles + i % kStages * stage;
#pragma unroll
    for (int step = 0; step < kTileSteps; ++step) {
      Fragment<T> rows[warpM / 16];
#pragma unroll
      for (int j = 0; j < warpM / 16; ++j) {
        loadWords<T, M, AAlongK, true>(rows[j].words, from, warpRow + 16 * j, step);
        rows[j].prepare();
      }
#pragma unroll
      for (int pair = 0; pair < warpN / 16; ++pair) {
        Fragment<T> columns;
        loadWords<T, N, BAlongK, false>(columns.words, from + M * kTileDepth<T>, warpColumn + 16 * pair,
                                        step);
        columns.prepare();
#pragma unroll
        for (int j = 0; j < warpM / 16; ++j)
#pragma unroll
          for (int half = 0; half < 2; ++half) multiplyAdd(sums[j][2 * pair + half], rows[j], columns, half);
      }
    }
  }

  if (partStride > 0) ending.c = static_cast<float*>(ending.c) + blockIdx.y * partStride;
#pragma unroll
  for (int j = 0; j < warpM / 16; ++j)
#pragma unroll
    for (int below = 0; below < 2; ++below)
#pragma unroll
      for (int pair = 0; pair < warpN / 16; ++pair)
        finishPair(ending, firstRow + warpRow + 16 * j + 8 * below, firstColumn + warpColumn + 16 * pair,
                   sums[j][2 * pair] + 2 * below, sums[j][2 * pair + 1] + 2 * below);
}

template <typename T, int M, int N>
auto kernelFor(const TiledProduct<Operand, Operand>& p) {
  return p.a.alongK   ? p.b.alongK ? tileKernel<T, M, N, true, true, Operand, Operand>
                                   : tileKernel<T, M, N, true, false, Operand, Operand>
           : p.b.alongK ? tileKernel<T, M, N, false, true, Operand, Operand>
                      : tileKernel<T, M, N, false, false, Operand, Operand>;
}

template <typename T, int M, int N>
auto kernelFor(const TiledProduct<PatchOperand, Operand>& p) {
  return p.b.alongK ? tileKernel<T, M, N, true, true, PatchOperand, Operand>
                    : tileKernel<T, M, N, true, false, PatchOperand, Operand>;
}

/// A is the gradient of a convolution's output, whose rows are K.
template <typename T, int M, int N>
auto kernelFor(const TiledProduct<Operand, PatchOperand>&) {
  return tileKernel<T, M, N, false, false, Operand, PatchOperand>;
}

template <typename Product>
int64_t tilesOf(const Product& p, int64_t m, int64_t n) {
  return ((p.m + m - 1) / m) * ((p.n + n - 1) / n);
}

template <typename T, int M, int N, typename Product>
void launchTiles(const Product& p, int64_t parts) {
  constexpr size_t bytes = kStages * (M + N) * kTileDepth<T> * sizeof(T);
  const auto kernel = kernelFor<T, M, N>(p);
  const int64_t each = (p.k + parts - 1) / parts;
  const int depth = static_cast<int>((each + kTileDepth<T> - 1) / kTileDepth<T> * kTileDepth<T>);
  const auto tiles = static_cast<unsigned>(tilesOf(p, M, N));
  if (depth >= p.k) {
    launch(kernel, dim3(tiles), kProductThreads, bytes, p.a, p.b, p.k, depth, p.finish, 0);
    return;
  }
  const int count = (p.k + depth - 1) / depth;
  const Parts parted(p.m, p.n, count);
  launch(kernel, dim3(tiles, static_cast<unsigned>(count)), kProductThreads, bytes, p.a, p.b, p.k, depth,
         parted.finish(), parted.stride());
  parted.add(p.finish);
}

}  // namespace

/// The largest tiles that keep all multiprocessors busy; where even the smallest do not, each takes a part of
/// a long K.
template <typename T, typename A, typename B>
void multiplyTiles(const TiledProduct<A, B>& p) {
  constexpr int small = 64, shortest = 8 * kTileDepth<T>;
  const int64_t enough = multiprocessors();
  if constexpr (sizeof(T) == 2)  // f32 needs too many registers for it
    if (p.m > small && p.n > small && tilesOf(p, 128, 128) >= enough) return launchTiles<T, 128, 128>(p, 1);
  if (p.m > small && tilesOf(p, 128, small) >= enough) return launchTiles<T, 128, small>(p, 1);
  const int64_t idle = 2 * enough / tilesOf(p, small, small), most = p.k / shortest;
  const int64_t parts = idle < most ? idle : most;
  launchTiles<T, small, small>(p, parts > 1 ? parts : 1);
}

}  // namespace duet::gpu
