// What a frame generation network gives, for JavaScript.
#pragma once

#include <vector>

#include "binding/convert.h"
#include "stickers/session.h"

namespace duet::binding {

template <typename T>
Napi::Array fromNumbers(Napi::Env env, const std::vector<T>& values) {
  const auto array = Napi::Array::New(env, values.size());
  for (size_t i = 0; i < values.size(); ++i)
    array.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(values[i])));
  return array;
}

Napi::Value fromResult(Napi::Env env, DenoisingResult result);
Napi::Value fromDifferentiated(Napi::Env env, Differentiated result);
Napi::Value fromPlan(Napi::Env env, const MemoryPlan& plan);
Napi::Value fromTrace(Napi::Env env, std::vector<DfgnTrace::Entry> entries);

}  // namespace duet::binding
