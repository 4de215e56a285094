#include "ops/device.h"

#include <dlfcn.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <utility>

namespace duet {

namespace {

/// The folder this library was loaded from: plugins lie beside it.
std::string ownFolder() {
  Dl_info info{};
  dladdr(reinterpret_cast<const void*>(&ownFolder), &info);
  const std::string path = info.dli_fname ? info.dli_fname : "";
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

const DevicePlugin& load(const std::string& kind) {
  const std::string path = ownFolder() + "/duet-" + kind + ".so";
  if (access(path.c_str(), F_OK) != 0)
    fail(Code::Unsupported, "Device '", kind, "' cannot be used: its library duet-", kind,
         ".so is not beside the addon; this package was built without it");
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) {
    const char* reason = dlerror();
    fail(Code::Unsupported, "Device '", kind, "' cannot be used: its library does not load (",
         reason ? reason : path, ")");
  }
  const auto symbol = reinterpret_cast<const DevicePlugin* (*)()>(dlsym(library, kPluginSymbol));
  const DevicePlugin* plugin = symbol ? symbol() : nullptr;
  if (!plugin || plugin->contract != kDeviceContract)
    fail(Code::Unsupported, "Device '", kind, "' cannot be used: ", path,
         " was not built together with this addon; build or install both again");
  return *plugin;
}

/// Loaded once; a plugin that failed is tried again.
const DevicePlugin& pluginOf(const std::string& kind) {
  static std::mutex mutex;
  static std::map<std::string, const DevicePlugin*> loaded;
  const std::lock_guard lock(mutex);
  const auto found = loaded.find(kind);
  if (found != loaded.end()) return *found->second;
  return *(loaded[kind] = &load(kind));
}

}  // namespace

Device Device::named(const std::string& name) {
  Device device;
  if (name == "cpu") return device;
  const size_t colon = name.find(':');
  const std::string kind = name.substr(0, colon),
                    index = colon == std::string::npos ? "0" : name.substr(colon + 1);
  const bool known = (kind == "cuda" || kind == "emulated") && !index.empty() && index.size() <= 4 &&
                     index.find_first_not_of("0123456789") == std::string::npos;
  require(known, "Expected cpu, cuda or cuda:<index> for device but received '", name, "'");
  device.plugin_ = &pluginOf(kind);
  device.index_ = std::stoi(index);
  const int count = device.plugin_->count();
  require(device.index_<count, "Expected ", kind, ":0", count> 1 ? str(" to ", kind, ":", count - 1) : "",
          " for device but received '", name, "'");
  return device;
}

Device Device::withTf32() const {
  if (isHost())
    fail(Code::Unsupported,
         "Expected fp32 or bf16 for compute on the CPU but received tf32, which is of GPUs; choose device "
         "cuda");
  Device device = *this;
  device.tf32_ = true;
  return device;
}

std::vector<DeviceInfo> Device::all(const std::string& kind) {
  const DevicePlugin& plugin = pluginOf(kind);
  std::vector<DeviceInfo> devices;
  for (int i = 0; i < plugin.count(); ++i) devices.push_back(plugin.describe(i));
  return devices;
}

namespace {
thread_local const DevicePlugin* inUse = nullptr;
}

const DevicePlugin* OnDevice::plugin() { return inUse; }

OnDevice::OnDevice(const Device& device)
    : pluginBefore_(std::exchange(inUse, device.plugin_)),
      backendBefore_(replaceBackend(!device.plugin_ ? nullptr
                                    : device.tf32_  ? device.plugin_->tf32
                                                    : device.plugin_->backend)),
      memoryBefore_(replaceMemory(device.plugin_ ? device.plugin_->memory : nullptr)) {
  if (device.plugin_) device.plugin_->use(device.index_);
}

OnDevice::~OnDevice() {
  inUse = pluginBefore_;
  replaceBackend(backendBefore_);
  replaceMemory(memoryBefore_);
}

}  // namespace duet
