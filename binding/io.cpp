// readSafetensors and writeSafetensors, on libuv's pool.
#include "binding/exports.h"

#include <map>

#include "binding/convert.h"
#include "binding/job.h"
#include "core/cancel.h"
#include "io/safetensors.h"

namespace duet::binding {

namespace {

struct Contents {
  std::map<std::string, std::string> metadata;
  std::vector<std::pair<std::string, HostTensor>> tensors;
};

Contents readAll(const std::string& path, bool narrow) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  Contents contents{file.metadata(), {}};
  for (const SafetensorsEntry& entry : file.entries()) {
    cancelPoint();
    contents.tensors.emplace_back(
        entry.name, HostTensor::copyOf(narrow ? file.narrowed(entry.name) : file.tensor(entry.name)));
    file.release(entry.name);
  }
  return contents;
}

}  // namespace

Napi::Value readSafetensors(const Napi::CallbackInfo& info) {
  const std::string path = toPath(argument(info, 0, "path"));
  const Named narrowing = argument(info, 1, "narrow");
  const bool narrow = narrowing.given() && toBoolean(narrowing);
  return startJob(
      info.Env(), {.lane = Lane::files}, [path, narrow] { return readAll(path, narrow); },
      [](Napi::Env env, Contents contents) -> Napi::Value {
        const auto metadata = Napi::Object::New(env), tensors = Napi::Object::New(env);
        for (const auto& [key, text] : contents.metadata) setOwn(metadata, key, Napi::String::New(env, text));
        for (auto& [name, tensor] : contents.tensors)
          setOwn(tensors, name, fromHostTensor(env, std::move(tensor)));
        const auto result = Napi::Object::New(env);
        result.Set("metadata", metadata);
        result.Set("tensors", tensors);
        return result;
      });
}

Napi::Value writeSafetensors(const Napi::CallbackInfo& info) {
  const std::string path = toPath(argument(info, 0, "path"));
  std::vector<std::pair<std::string, TensorView>> views;
  for (const Named& entry : toEntries(argument(info, 1, "tensors"))) {
    views.emplace_back(entry.name, toTensorView({entry.value, "tensor '" + entry.name + "'"}));
  }
  std::map<std::string, std::string> metadata;
  if (const Named given = argument(info, 2, "metadata"); given.given()) {
    for (const Named& entry : toEntries(given)) {
      metadata[entry.name] = toText({entry.value, "metadata '" + entry.name + "'"});
    }
  }
  std::vector<SafetensorsInput> inputs;
  std::vector<Napi::Value> held;
  for (const auto& [name, view] : views) {
    inputs.push_back({name, view.dtype, view.shape, view.bytes()});
    held.push_back(view.data.value);
  }
  return startJob(
      info.Env(), {.lane = Lane::files, .held = std::move(held)},
      [path, inputs = std::move(inputs), metadata = std::move(metadata)] {
        duet::writeSafetensors(path, inputs, metadata);
      },
      nothing);
}

}  // namespace duet::binding
