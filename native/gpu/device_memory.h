// What a plugin knows of its devices beside kernels: device_memory.cu for CUDA, device_memory.emulated.cpp
// for the emulation.
#pragma once

#include "gpu/plugin.h"

namespace duet::gpu {

extern const char* const kKind;

int deviceCount();
DeviceInfo describeDevice(int index);
void useDevice(int index);
Memory deviceMemory();

}  // namespace duet::gpu
