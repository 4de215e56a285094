// A device as a library of its own, beside the addon: what it says about itself, its kernels and its memory.
// The addon loads `duet-cuda.so` when it is asked for a GPU, and tests load `duet-emulated.so`.
#pragma once

#include <cstdint>
#include <string>

#include "core/memory.h"
#include "ops/kernels.h"

namespace duet {

struct DeviceInfo {
  std::string name;          // e.g. NVIDIA H200
  std::string architecture;  // e.g. sm_90
  size_t memoryBytes = 0, freeBytes = 0;
  std::string driver, runtime;  // versions, empty where there is none
  std::string products = {};    // which way those of bf16 go
};

struct DevicePlugin {
  /// Differs when addon and plugin were not built from the same headers.
  uint64_t contract;
  const char* kind;  // "cuda", "emulated"
  /// How many there are. Throws Unsupported with the reason when none can be used.
  int (*count)();
  DeviceInfo (*describe)(int index);
  /// Makes a device the one that this thread's kernels and memory belong to.
  void (*use)(int index);
  const Backend* backend;
  const Backend* tf32;  // the same with products of f32 in tf32
  const Memory* memory;
  /// Tests of the ground kernels stand on, see check.cuda.cu.
  void (*check)(const char* what, const float* x, const float* y, float* out);
};

constexpr uint64_t kDeviceContract =
    uint64_t{2} << 32 | sizeof(Backend) << 16 | sizeof(Memory) << 8 | sizeof(DeviceInfo);

/// The one symbol a plugin exports: `extern "C" const duet::DevicePlugin* duetDevicePlugin();`
constexpr const char* kPluginSymbol = "duetDevicePlugin";

}  // namespace duet
