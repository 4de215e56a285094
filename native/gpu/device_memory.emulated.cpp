#include "gpu/device_memory.h"
#include "gpu/emulated_memory.h"
#include "gpu/emulated_stream.h"

namespace duet::gpu {

const char* const kKind = "emulated";

int deviceCount() { return 1; }
DeviceInfo describeDevice(int) {
  auto& memory = emulation::DeviceMemory::instance();
  return {"the host, emulating a GPU", "emulated", memory.limit(), memory.freeBytes(), "", ""};
}
void useDevice(int) {}
Memory deviceMemory() { return emulation::memory(); }

}  // namespace duet::gpu
