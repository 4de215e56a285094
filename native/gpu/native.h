// The real thing behind kernel.h: CUDA's runtime on the plugin's stream.
#pragma once

#include <cuda_runtime.h>

#include "core/error.h"
#include "gpu/lists.h"
#include "gpu/tensor_core.h"

#define DUET_DEVICE __device__ __forceinline__
#define DUET_LAMBDA __device__
#define DUET_SHARED(type, name, extent) __shared__ type name extent
#define DUET_DYNAMIC_SHARED(type, name)                             \
  extern __shared__ __align__(128) unsigned char duetSharedBytes[]; \
  type* const name = reinterpret_cast<type*>(duetSharedBytes)

namespace duet::gpu {

/// Of the device in use.
cudaStream_t stream();

/// Two values as bf16 in a word, rounded to nearest even.
__device__ __forceinline__ uint32_t packBf16(float low, float high) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

/// 2^x to 2 ulp; what would be denormal is 0.
__device__ __forceinline__ float fastExp2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}
/// @throws duet::Error for what a call of the runtime answers
void check(cudaError_t answer, const char* what);

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes,
            Arguments... arguments) {
  constexpr size_t usual = 48 << 10;
  if (sharedBytes > usual)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(sharedBytes)),
          "ask for shared memory");
  kernel<<<grid, block, sharedBytes, stream()>>>(static_cast<Parameters>(arguments)...);
  check(cudaGetLastError(), "start a kernel");
}

}  // namespace duet::gpu
