// JavaScript values to native ones, checked, and back. Messages follow one form:
// "Expected integer between 1 and 100 for batch but received 0".
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "binding/napi_setup.h"
#include "core/tensor.h"

namespace duet::binding {

/// A value and what it is called in messages.
struct Named {
  Napi::Value value;
  std::string name;

  /// Neither undefined nor null.
  bool given() const;
};

/// How a value is shown in a message: 'text', 12, null, Float64Array of 3, an object.
std::string describe(Napi::Value value);
/// Throws INVALID_ARGUMENT: "Expected <expected> for <name> but received <received>".
[[noreturn]] void failExpected(const std::string& expected, const std::string& name, Napi::Value received);

Named argument(const Napi::CallbackInfo& info, size_t index, const char* name);
Named property(const Named& object, const std::string& key);

int64_t toInteger(const Named& named, int64_t least, int64_t most);
double toNumber(const Named& named, double least, double most);
double toPositive(const Named& named);
bool toBoolean(const Named& named);
std::string toText(const Named& named);
/// Not empty and without NUL characters.
std::string toPath(const Named& named);
Napi::Object toObject(const Named& named);
std::vector<Named> toList(const Named& named);
/// The enumerable properties of an object, each named by its key.
std::vector<Named> toEntries(const Named& named);
/// One of some texts; returns its position.
size_t toChoice(const Named& named, std::initializer_list<const char*> choices);

/// The elements of a typed array where they lie: valid until JavaScript runs again, and longer while the
/// array is held and its owner leaves it alone. Ask for them after all properties have been read.
std::span<const float> toFloats(const Named& named);
std::span<const double> toDoubles(const Named& named);
std::span<const int32_t> toInts(const Named& named);
std::span<const uint8_t> toBytes(const Named& named);

/// A tensor in JavaScript memory. `data` is to be held on to.
struct TensorView {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  Named data;

  std::span<const std::byte> bytes() const;
};
DType toDType(const Named& named);
TensorView toTensorView(const Named& named);

/// A tensor in plain memory: filled on another thread, then handed to JavaScript.
struct HostTensor {
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  static HostTensor copyOf(const Tensor& tensor);
};

// Large results are handed over, not copied.
Napi::Value fromHostTensor(Napi::Env env, HostTensor tensor);
Napi::Value fromFloats(Napi::Env env, std::vector<float> values);
Napi::Value fromInts(Napi::Env env, std::vector<int32_t> values);
Napi::Value fromBytes(Napi::Env env, std::vector<uint8_t> values);
Napi::Value fromFloatsByName(Napi::Env env, std::map<std::string, std::vector<float>> values);
/// Sets a property of its own whatever its name, `__proto__` too.
void setOwn(Napi::Object object, const std::string& key, Napi::Value value);

}  // namespace duet::binding
