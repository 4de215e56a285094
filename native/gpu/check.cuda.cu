// Kernels that check the ground the others stand on: lanes, barriers, tensor cores, asynchronous copies.
// Tests run them on every device through the op `gpu_check`.
#include "gpu/check.h"

#include <string>
#include <vector>

#include "gpu/kernel.h"

namespace duet::gpu {
namespace {

/// out[0..31] = the sum of x over the block, seen by each warp; then each lane's neighbour by xor, down and
/// up.
__global__ void lanesKernel(const float* x, float* out) {
  const int i = static_cast<int>(threadIdx.x), lane = i % kWarp;
  const float sum = blockSum(x[i]), most = blockMax(x[i]);
  const float across = __shfl_xor_sync(kAllLanes, x[i], 5);
  const float down = __shfl_down_sync(kAllLanes, x[i], 3);
  const float up = __shfl_up_sync(kAllLanes, x[i], 3);
  const float first = __shfl_sync(kAllLanes, x[i], 2, 8);
  const unsigned votes = __ballot_sync(kAllLanes, x[i] > 0.0f);
  float* to = out + i * 7;
  to[0] = sum;
  to[1] = most;
  to[2] = across;
  to[3] = down;
  to[4] = up;
  to[5] = first;
  to[6] = static_cast<float>(votes >> lane & 1u);
}

/// C (16 x 8) = A (16 x 16) B (16 x 8), all f32 outside, through shared memory, ldmatrix and mma in bf16.
__global__ void mmaBf16Kernel(const float* a, const float* b, float* c) {
  DUET_SHARED(bf16, left, [16][24]);
  DUET_SHARED(bf16, right, [16][8]);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += kWarp) left[i / 16][i % 16] = toBf16(a[i]);
  for (int i = lane; i < 128; i += kWarp) right[i / 8][i % 8] = toBf16(b[i]);
  __syncwarp();
  uint32_t fa[4], fb[4];
  loadMatrices(fa, &left[lane % 8 + lane / 8 % 2 * 8][lane / 16 * 8]);
  loadMatricesTurned(fb, &right[lane % 16][0]);
  const uint32_t two[2] = {fb[0], fb[1]};
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  mmaBf16(sums, fa, two);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

/// The same with K = 8 in tf32, fragments straight from memory.
__global__ void mmaTf32Kernel(const float* a, const float* b, float* c) {
  const int lane = static_cast<int>(threadIdx.x), g = lane / 4, t = lane % 4;
  const uint32_t fa[4] = {toTf32(a[g * 8 + t]), toTf32(a[(g + 8) * 8 + t]), toTf32(a[g * 8 + t + 4]),
                          toTf32(a[(g + 8) * 8 + t + 4])};
  const uint32_t fb[2] = {toTf32(b[t * 8 + g]), toTf32(b[(t + 4) * 8 + g])};
  float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  mmaTf32(sums, fa, fb);
  for (int i = 0; i < 4; ++i) c[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = sums[i];
}

/// Reverses 4 floats a thread through a copy that is waited for; the last thread's copy is half as long.
__global__ void copyKernel(const float* x, float* out) {
  DUET_DYNAMIC_SHARED(float, there);
  const int i = static_cast<int>(threadIdx.x), last = static_cast<int>(blockDim.x) - 1;
  copyAsync16(there + i * 4, x + i * 4, i == last ? 8 : 16);
  copyCommit();
  copyWait<0>();
  __syncthreads();
  for (int j = 0; j < 4; ++j) out[i * 4 + j] = there[(last - i) * 4 + 3 - j];
}

/// A mistake: half the threads of a block wait for the others, which have gone.
__global__ void divergentKernel(float* out) {
  if (threadIdx.x < 16) __syncthreads();
  out[threadIdx.x] = 1.0f;
}

/// A mistake: shared memory is read that nobody wrote.
__global__ void unwrittenKernel(float* out) {
  DUET_SHARED(float, there, [32]);
  out[threadIdx.x] = there[threadIdx.x];
}

/// A mistake: one number too many.
__global__ void overrunKernel(float* out, int count) {
  for (int i = 0; i <= count; ++i) out[i] = 1.0f;
}

__global__ void numbersKernel(const int* list, int count, float* out) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    out[i] = static_cast<float>(list[i]);
}

/// Lists that change as soon as they are uploaded, more of them than wait in pinned memory at one time.
void uploads(float* out) {
  constexpr int count = 30000, lists = 20;
  std::vector<int> list(count);
  for (int i = 0; i < lists; ++i) {
    for (int j = 0; j < count; ++j) list[static_cast<size_t>(j)] = i * count + j;
    const Upload<int> there(list.data(), count);
    launch(numbersKernel, 1, 64, 0, there.data(), count, out + i * count);
  }
}

/// A mistake: the list is not uploaded.
void hostList(float* out) {
  const std::vector<int> list(32);
  launch(numbersKernel, 1, 32, 0, list.data(), 32, out);
}

}  // namespace

void check(const char* what, const float* x, const float* y, float* out) {
  const std::string name = what;
  if (name == "lanes")
    launch(lanesKernel, 1, 64, 0, x, out);
  else if (name == "mma_bf16")
    launch(mmaBf16Kernel, 1, kWarp, 0, x, y, out);
  else if (name == "mma_tf32")
    launch(mmaTf32Kernel, 1, kWarp, 0, x, y, out);
  else if (name == "copy")
    launch(copyKernel, 1, 40, 40 * 16, x, out);
  else if (name == "divergent")
    launch(divergentKernel, 1, 64, 0, out);
  else if (name == "unwritten")
    launch(unwrittenKernel, 1, 32, 0, out);
  else if (name == "overrun")
    launch(overrunKernel, 1, 1, 0, out, 32);
  else if (name == "uploads")
    uploads(out);
  else if (name == "host_list")
    hostList(out);
  else if (name == "host_read")
    out[0] = 1.0f;  // a mistake
  else if (!checkHopper(name, x, y, out))
    fail(Code::InvalidArgument,
         "Expected lanes, mma_bf16, mma_tf32, copy, divergent, unwritten, copy_tile, wgmma_along, ",
         "wgmma_across, products, deadlock, overrun, uploads, host_list or host_read but received '", name,
         "'");
}

}  // namespace duet::gpu
