// What a kernel file (`native/ops/*.cuda.cu`) is written in. The same files are compiled by nvcc for real
// GPUs and, as plain C++ against the emulation, for machines without one; whatever differs between the two is
// hidden here.
//
//   __global__ void addKernel(const float* a, const float* b, float* y, int64_t count) { ... threadIdx.x ...
//   } launch(addKernel, blocksFor(count, 256), 256, 0, a, b, y, count);
//
// DUET_SHARED(float, tile, [32][33])     shared memory of a block
// DUET_DYNAMIC_SHARED(float, buffer)     the bytes given to launch()
// upload(list, count)                    a list of the host's, for the kernels launched while the result
// lives Scratch<float> partial(count)          device memory for the kernels launched while it lives
#pragma once

#include <cstdint>

#include "core/tensor.h"

#if defined(__CUDACC__)
#include "gpu/native.h"
#else
#include "gpu/emulation.h"
#endif

#include "gpu/warp.h"

namespace duet::gpu {

/// Threads of a block in one dimension, unless a kernel knows better.
constexpr unsigned kThreads = 256;

/// Blocks of `each` for `count`, at most `most` (a kernel then goes on in strides of the grid).
inline unsigned blocksFor(int64_t count, int64_t each = kThreads, int64_t most = 65535) {
  const int64_t blocks = (count + each - 1) / each;
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks > most ? most : blocks);
}

DUET_DEVICE int64_t globalThread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
DUET_DEVICE int64_t globalThreads() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

DUET_DEVICE float loadAs(const float* p, int64_t i) { return p[i]; }
DUET_DEVICE float loadAs(const bf16* p, int64_t i) { return toFloat(p[i]); }
DUET_DEVICE void storeAs(float* p, int64_t i, float value) { p[i] = value; }
DUET_DEVICE void storeAs(bf16* p, int64_t i, float value) { p[i] = toBf16(value); }

template <typename Work>
__global__ void eachKernel(int64_t count, Work work) {
  for (int64_t i = globalThread(); i < count; i += globalThreads()) work(i);
}

/// work(i) for every i below `count`, each in a thread: `forEach(count, [=] DUET_LAMBDA(int64_t i) { ... });`
template <typename Work>
void forEach(int64_t count, Work work) {
  if (count > 0) launch(eachKernel<Work>, blocksFor(count), kThreads, 0, count, work);
}

}  // namespace duet::gpu
