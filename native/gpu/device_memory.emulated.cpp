#include "gpu/device_memory.h"

namespace duet::gpu {

const char* const kKind = "emulated";

int deviceCount() { return 1; }
DeviceInfo describeDevice(int) { return {"the host, emulating a GPU", "emulated", 0, 0, "", ""}; }
void useDevice(int) {}
Memory deviceMemory() {
  Memory m = currentMemory();
  m.onHost = false;
  return m;
}

}  // namespace duet::gpu
