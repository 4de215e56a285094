#include "binding/dfgn_results.h"

namespace duet::binding {

Napi::Value fromResult(Napi::Env env, DenoisingResult result) {
  const auto object = Napi::Object::New(env);
  object.Set("loss", Napi::Number::New(env, result.loss));
  object.Set("clipLosses", fromNumbers(env, result.clipLosses));
  object.Set("timesteps", fromNumbers(env, result.timesteps));
  object.Set("gradNorm", Napi::Number::New(env, result.gradNorm));
  object.Set("learningRate", Napi::Number::New(env, result.learningRate));
  object.Set("step", Napi::Number::New(env, static_cast<double>(result.step)));
  const auto keep = [&](const char* key, std::vector<float>& values) {
    if (!values.empty()) object.Set(key, fromFloats(env, std::move(values)));
  };
  keep("prediction", result.prediction);
  keep("noisyLatents", result.noisyLatents);
  keep("imageLatents", result.imageLatents);
  return object;
}

Napi::Value fromDifferentiated(Napi::Env env, Differentiated result) {
  const auto object = Napi::Object::New(env);
  object.Set("loss", Napi::Number::New(env, result.loss));
  object.Set("clipLosses", fromNumbers(env, result.clipLosses));
  object.Set("output", fromFloats(env, std::move(result.output)));
  object.Set("inputGradients", fromFloatsByName(env, std::move(result.inputGradients)));
  return object;
}

Napi::Value fromPlan(Napi::Env env, const MemoryPlan& plan) {
  const auto object = Napi::Object::New(env);
  const auto set = [&](const char* key, size_t bytes) {
    object.Set(key, Napi::Number::New(env, static_cast<double>(bytes)));
  };
  set("parameters", plan.parameters);
  set("gradients", plan.gradients);
  set("moments", plan.moments);
  set("averages", plan.averages);
  set("activations", plan.activations);
  return object;
}

Napi::Value fromTrace(Napi::Env env, std::vector<DfgnTrace::Entry> entries) {
  const auto object = Napi::Object::New(env);
  for (DfgnTrace::Entry& entry : entries) {
    const auto tensor = Napi::Object::New(env);
    tensor.Set("dtype", Napi::String::New(env, "f32"));
    tensor.Set("shape", fromNumbers(env, entry.shape.vector()));
    tensor.Set("data", fromFloats(env, std::move(entry.values)));
    setOwn(object, entry.name, tensor);
  }
  return object;
}

}  // namespace duet::binding
