// Devices by name: `cpu`, `cuda` or `cuda:<index>`, and `emulated` for tests. Tensors and kernels of a thread
// are those of the host's unless an OnDevice lives.
#pragma once

#include <string>
#include <vector>

#include "gpu/plugin.h"

namespace duet {

class Device {
 public:
  /// @throws InvalidArgument for a name that means nothing, Unsupported with the reason when the device
  /// cannot be used
  static Device named(const std::string& name);
  /// All devices of a kind. @throws as `named`
  static std::vector<DeviceInfo> all(const std::string& kind);
  /// The same with fp32 products in tf32. @throws Unsupported for the CPU
  Device withTf32() const;
  bool isHost() const { return plugin_ == nullptr; }
  DeviceInfo describe() const { return plugin_ ? plugin_->describe(index_) : DeviceInfo{}; }

 private:
  friend class OnDevice;
  const DevicePlugin* plugin_ = nullptr;
  int index_ = 0;
  bool tf32_ = false;
};

/// While one lives, this thread computes on a device.
class OnDevice {
 public:
  explicit OnDevice(const Device& device);
  ~OnDevice();
  /// The plugin this thread computes with; null on the host.
  static const DevicePlugin* plugin();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  const DevicePlugin* pluginBefore_;
  const Backend* backendBefore_;
  const Memory* memoryBefore_;
};

}  // namespace duet
