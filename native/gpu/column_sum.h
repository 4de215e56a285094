// Sums over rows, column by column, of one or several quantities at once, in two stages: chunks of rows, then
// the chunks. What is added in which order depends on the number of rows alone.
#pragma once

#include "gpu/kernel.h"

namespace duet::gpu {

constexpr unsigned kSumWarps = 8;

/// A block sums 32 columns of a chunk of rows; its warps meet in shared memory.
template <int K, typename Term, typename Put>
__global__ void columnSumKernel(int64_t rows, int64_t columns, Term term, Put put) {
  DUET_SHARED(float, shared, [K][kSumWarps][kWarp]);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  const int64_t chunk = blockIdx.y, chunks = gridDim.y, end = rows * (chunk + 1) / chunks;
  float sums[K] = {};
  if (column < columns)
    for (int64_t row = rows * chunk / chunks + threadIdx.y; row < end; row += kSumWarps)
      term(row, column, sums);
  for (int k = 0; k < K; ++k) shared[k][threadIdx.y][threadIdx.x] = sums[k];
  __syncthreads();
  if (threadIdx.y > 0 || column >= columns) return;
  for (int k = 0; k < K; ++k)
    for (unsigned warp = 1; warp < kSumWarps; ++warp) sums[k] += shared[k][warp][threadIdx.x];
  put(chunk, column, sums);
}

/// term(row, column, float (&sums)[K]) adds what a row has to its column's sums, put(0, column, sums) takes
/// them.
template <int K, typename Term, typename Put>
void sumColumns(int64_t rows, int64_t columns, Term term, Put put) {
  if (columns <= 0) return;
  const dim3 block(kWarp, kSumWarps);
  const unsigned across = blocksFor(columns, kWarp, INT32_MAX);
  const int64_t chunks = blocksFor(rows, 64, 256);
  if (chunks == 1) return launch(columnSumKernel<K, Term, Put>, across, block, 0, rows, columns, term, put);
  const Scratch<float> scratch(chunks * K * columns);
  float* parts = scratch.data();
  const auto putPart = [=] DUET_LAMBDA(int64_t chunk, int64_t column, const float(&sums)[K]) {
    for (int k = 0; k < K; ++k) parts[(chunk * K + k) * columns + column] = sums[k];
  };
  const auto partTerm = [=] DUET_LAMBDA(int64_t chunk, int64_t column, float(&sums)[K]) {
    for (int k = 0; k < K; ++k) sums[k] += parts[(chunk * K + k) * columns + column];
  };
  launch(columnSumKernel<K, Term, decltype(putPart)>, dim3(across, static_cast<unsigned>(chunks)), block, 0,
         rows, columns, term, putPart);
  launch(columnSumKernel<K, decltype(partTerm), Put>, across, block, 0, chunks, columns, partTerm, put);
}

}  // namespace duet::gpu
