// The real thing behind kernel.h: CUDA's runtime on the plugin's stream.
#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "core/error.h"
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
/// Of the device in use.
int multiprocessors();

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

/// Device memory for the kernels launched while this lives.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    check(cudaMallocAsync(reinterpret_cast<void**>(&data_),
                          static_cast<size_t>(count > 0 ? count : 1) * sizeof(T), stream()),
          "allocate scratch memory");
  }
  ~Scratch() { cudaFreeAsync(data_, stream()); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

/// A list of the host's on the device. The list may change as soon as this is made.
template <typename T>
class Upload {
 public:
  Upload(const T* list, int64_t count) : there_(list ? count : 0), given_(list != nullptr) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (given_ && count > 0)
      check(cudaMemcpyAsync(there_.data(), list, static_cast<size_t>(count) * sizeof(T),
                            cudaMemcpyHostToDevice, stream()),
            "copy a list to the device");
  }
  /// Null where there was no list.
  const T* data() const { return given_ ? there_.data() : nullptr; }

 private:
  Scratch<T> there_;
  bool given_;
};

/// Values of the device, once everything before is done.
template <typename T>
void readBack(T* to, const T* from, int64_t count = 1) {
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(count) * sizeof(T), cudaMemcpyDeviceToHost, stream()),
        "copy a result to the host");
  check(cudaStreamSynchronize(stream()), "wait for the device");
}

}  // namespace duet::gpu
