// systemInfo and setThreads.
#include "core/system.h"

#include "binding/convert.h"
#include "binding/exports.h"

namespace duet::binding {

Napi::Value systemInfo(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto result = Napi::Object::New(env);
  result.Set("isa", Napi::String::New(env, isaName()));
  result.Set("onednn", Napi::String::New(env, oneDnnVersion()));
  result.Set("threads", Napi::Number::New(env, threads()));
  return result;
}

Napi::Value setThreads(const Napi::CallbackInfo& info) {
  duet::setThreads(static_cast<int>(toInteger(argument(info, 0, "threads"), 0, kMostThreads)));
  return info.Env().Undefined();
}

}  // namespace duet::binding
