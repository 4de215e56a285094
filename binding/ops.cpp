// Single ops: the average over clients, and the registry for tests, reference numbers and measurements.
#include <cfloat>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>

#include "binding/convert.h"
#include "binding/exports.h"
#include "binding/job.h"
#include "core/system.h"
#include "federated/weighted_average.h"
#include "nn/registry.h"
#include "ops/device.h"

namespace duet::binding {

namespace {

/// A copy of an input: ops may work in place, and what JavaScript owns is not theirs.
struct OpInput {
  DType dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;

  explicit OpInput(const TensorView& view) : dtype(view.dtype), shape(view.shape), bytes(view.bytes()) {}
  /// Numbers go to the device in use; integers are lists, which ops read on the host.
  Tensor tensor() const {
    std::optional<OnDevice> host;
    if (dtype != DType::f32) host.emplace(Device());
    Tensor copy = Tensor::zeros(Shape(shape), dtype);
    currentMemory().copyIn(copy.raw(), bytes.data(), bytes.size());
    return copy;
  }
};

Attribute toAttribute(const Named& named) {
  if (named.value.IsNumber()) return named.value.As<Napi::Number>().DoubleValue();
  if (named.value.IsBoolean()) return named.value.As<Napi::Boolean>().Value();
  if (named.value.IsString()) return named.value.As<Napi::String>().Utf8Value();
  failExpected("number, string or boolean", named.name, named.value);
}

}  // namespace

Napi::Value weightedAverage(const Napi::CallbackInfo& info) {
  const std::vector<Named> arrays = toList(argument(info, 0, "sets"));
  std::vector<float> weights;
  for (const Named& weight : toList(argument(info, 1, "weights"))) {
    weights.push_back(static_cast<float>(toNumber(weight, 0, FLT_MAX)));
  }
  std::vector<std::span<const float>> sets;
  std::vector<Napi::Value> held;
  for (const Named& array : arrays) {
    sets.push_back(toFloats(array));
    held.push_back(array.value);
  }
  return startJob(
      info.Env(), {.held = std::move(held)},
      [sets = std::move(sets), weights = std::move(weights)] { return duet::weightedAverage(sets, weights); },
      fromFloats);
}

Napi::Value accumulate(const Napi::CallbackInfo& info) {
  const Named sum = argument(info, 0, "sum"), values = argument(info, 1, "values");
  const size_t length = toFloats(sum).size();
  const std::span<float> sums(sum.value.As<Napi::Float32Array>().Data(), length);
  const std::span<const float> added = toFloats(values);
  const auto weight = static_cast<float>(toNumber(argument(info, 2, "weight"), 0, FLT_MAX));
  return startJob(
      info.Env(), {.held = {sum.value, values.value}},
      [sums, added, weight] { duet::accumulate(sums, added, weight); }, nothing);
}

Napi::Value distance(const Napi::CallbackInfo& info) {
  const Named a = argument(info, 0, "a"), b = argument(info, 1, "b");
  return startJob(
      info.Env(), {.held = {a.value, b.value}},
      [left = toFloats(a), right = toFloats(b)] { return duet::distance(left, right); },
      [](Napi::Env env, double result) -> Napi::Value { return Napi::Number::New(env, result); });
}

Napi::Value runOp(const Napi::CallbackInfo& info) {
  const std::string name = toText(argument(info, 0, "name"));
  std::map<std::string, TensorView> views;
  for (const Named& entry : toEntries(argument(info, 1, "inputs"))) {
    views.emplace(entry.name, toTensorView({entry.value, "input '" + entry.name + "'"}));
  }
  std::map<std::string, Attribute> attributes;
  if (const Named given = argument(info, 2, "attributes"); given.given()) {
    for (const Named& entry : toEntries(given)) {
      attributes[entry.name] = toAttribute({entry.value, "attribute '" + entry.name + "'"});
    }
  }
  const Named chosen = argument(info, 4, "device");
  const char* everywhere = std::getenv("DUET_TEST_DEVICE");  // runs the tests of ops on another device
  Device device = Device::named(chosen.given() ? toText(chosen) : everywhere ? everywhere : "cpu");
  if (const auto compute = attributes.find("compute");
      compute != attributes.end() && compute->second == Attribute("tf32"))
    device = device.withTf32();
  std::optional<TensorView> gradient;
  if (const Named given = argument(info, 3, "gradOutput"); given.given()) gradient = toTensorView(given);

  std::map<std::string, OpInput> inputs;
  std::vector<Napi::Value> held;
  for (const auto& [key, view] : views) {
    inputs.emplace(key, OpInput(view));
    held.push_back(view.data.value);
  }
  std::optional<OpInput> gradInput;
  if (gradient) {
    gradInput.emplace(*gradient);
    held.push_back(gradient->data.value);
  }
  return startJob(
      info.Env(), {.held = std::move(held)},
      [=] {
        const OnDevice scope(device);
        NamedTensors tensors;
        for (const auto& [key, input] : inputs) tensors[key] = input.tensor();
        std::vector<std::pair<std::string, HostTensor>> results;
        for (const auto& [key, tensor] :
             duet::runOp(name, tensors, attributes, gradInput ? gradInput->tensor() : Tensor())) {
          results.emplace_back(key, HostTensor::copyOf(tensor));
        }
        return results;
      },
      [](Napi::Env env, std::vector<std::pair<std::string, HostTensor>> results) -> Napi::Value {
        const auto object = Napi::Object::New(env);
        for (auto& [key, tensor] : results) setOwn(object, key, fromHostTensor(env, std::move(tensor)));
        return object;
      });
}

Napi::Value opNames(const Napi::CallbackInfo& info) {
  const auto array = Napi::Array::New(info.Env());
  for (const std::string& name : duet::opNames())
    array.Set(array.Length(), Napi::String::New(info.Env(), name));
  return array;
}

Napi::Value productRate(const Napi::CallbackInfo& info) {
  constexpr int64_t kLargest = 65536;
  const int64_t m = toInteger(argument(info, 0, "m"), 1, kLargest);
  const int64_t n = toInteger(argument(info, 1, "n"), 1, kLargest);
  const int64_t k = toInteger(argument(info, 2, "k"), 1, kLargest);
  const DType dtype = toChoice(argument(info, 3, "dtype"), {"f32", "bf16"}) == 0 ? DType::f32 : DType::bf16;
  const Named given = argument(info, 4, "threads");
  const int threads = given.given() ? static_cast<int>(toInteger(given, 0, kMostThreads)) : 0;
  return startJob(
      info.Env(), {.threads = threads}, [=] { return duet::productRate(m, n, k, dtype); },
      [](Napi::Env env, double rate) -> Napi::Value { return Napi::Number::New(env, rate); });
}

}  // namespace duet::binding
