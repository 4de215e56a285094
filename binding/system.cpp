// systemInfo and setThreads.
#include "core/system.h"

#include "binding/convert.h"
#include "binding/exports.h"
#include "ops/device.h"

namespace duet::binding {

Napi::Value systemInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto result = Napi::Object::New(env);
  result.Set("isa", Napi::String::New(env, isaName()));
  result.Set("onednn", Napi::String::New(env, oneDnnVersion()));
  result.Set("threads", Napi::Number::New(env, threads()));
  return result;
}

Napi::Value describeDevices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Named kind = argument(info, 0, "kind");
  toChoice(kind, {"cuda", "emulated"});
  const auto list = Napi::Array::New(env);
  for (const DeviceInfo& device : Device::all(toText(kind))) {
    const auto object = Napi::Object::New(env);
    for (const auto& [key, text] : {std::pair{"name", &device.name},
                                    {"architecture", &device.architecture},
                                    {"driver", &device.driver},
                                    {"runtime", &device.runtime},
                                    {"products", &device.products}})
      object.Set(key, Napi::String::New(env, *text));
    object.Set("memoryBytes", Napi::Number::New(env, static_cast<double>(device.memoryBytes)));
    object.Set("freeBytes", Napi::Number::New(env, static_cast<double>(device.freeBytes)));
    list.Set(list.Length(), object);
  }
  return list;
}

Napi::Value setThreads(const Napi::CallbackInfo& info) {
  duet::setThreads(static_cast<int>(toInteger(argument(info, 0, "threads"), 0, kMostThreads)));
  return info.Env().Undefined();
}

}  // namespace duet::binding
