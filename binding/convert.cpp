#include "binding/convert.h"

#include "core/memory.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace duet::binding {

namespace {

constexpr double kMaxSafeInteger = 9007199254740991.0;
constexpr size_t kCopyBelow = size_t{64} << 10;

const char* arrayName(napi_typedarray_type type) {
  switch (type) {
    case napi_int8_array:
      return "Int8Array";
    case napi_uint8_array:
      return "Uint8Array";
    case napi_uint8_clamped_array:
      return "Uint8ClampedArray";
    case napi_int16_array:
      return "Int16Array";
    case napi_uint16_array:
      return "Uint16Array";
    case napi_int32_array:
      return "Int32Array";
    case napi_uint32_array:
      return "Uint32Array";
    case napi_float32_array:
      return "Float32Array";
    case napi_float64_array:
      return "Float64Array";
    case napi_bigint64_array:
      return "BigInt64Array";
    case napi_biguint64_array:
      return "BigUint64Array";
    default:
      return "typed array";
  }
}

napi_typedarray_type arrayTypeOf(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return napi_float32_array;
    case DType::bf16:
    case DType::f16:
      return napi_uint16_array;
    case DType::i64:
      return napi_bigint64_array;
    case DType::i32:
      return napi_int32_array;
    case DType::u8:
      return napi_uint8_array;
  }
  return napi_uint8_array;
}

struct RawArray {
  napi_typedarray_type type;
  size_t length;
  void* data;
};

RawArray rawArray(const Napi::Value& value) {
  RawArray raw{};
  napi_value buffer;
  size_t offset;
  if (napi_get_typedarray_info(value.Env(), value, &raw.type, &raw.length, &raw.data, &buffer, &offset) !=
      napi_ok) {
    throw Napi::Error::New(value.Env());
  }
  return raw;
}

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  if (value == std::floor(value) && std::abs(value) <= kMaxSafeInteger) {
    return std::to_string(static_cast<long long>(value));
  }
  return str(value);
}

RawArray typedArray(const Named& named, napi_typedarray_type type) {
  if (!named.value.IsTypedArray()) failExpected(arrayName(type), named.name, named.value);
  const RawArray raw = rawArray(named.value);
  if (raw.type != type) failExpected(arrayName(type), named.name, named.value);
  return raw;
}

template <typename T>
std::span<const T> elements(const Named& named, napi_typedarray_type type) {
  const RawArray raw = typedArray(named, type);
  return {static_cast<const T*>(raw.data), raw.length};
}

}  // namespace

std::string describe(Napi::Value value) {
  switch (value.Type()) {
    case napi_undefined:
      return "nothing";
    case napi_null:
      return "null";
    case napi_boolean:
      return value.As<Napi::Boolean>().Value() ? "true" : "false";
    case napi_number:
      return number(value.As<Napi::Number>().DoubleValue());
    case napi_string: {
      std::string text = value.As<Napi::String>().Utf8Value();
      if (text.size() > 80) {
        text.resize(77);
        while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xc0u) == 0x80u) text.pop_back();
        if (!text.empty() && static_cast<unsigned char>(text.back()) >= 0xc0u) text.pop_back();
        text += "...";
      }
      return "'" + text + "'";
    }
    case napi_symbol:
      return "a symbol";
    case napi_function:
      return "a function";
    case napi_bigint:
      return "a BigInt";
    case napi_external:
      return "an external value";
    case napi_object:
      break;
  }
  if (value.IsTypedArray()) {
    const RawArray raw = rawArray(value);
    return str(arrayName(raw.type), " of ", raw.length);
  }
  if (value.IsArray()) return str("an array of ", value.As<Napi::Array>().Length());
  return "an object";
}

void failExpected(const std::string& expected, const std::string& name, Napi::Value received) {
  fail(Code::InvalidArgument, "Expected ", expected, " for ", name, " but received ", describe(received));
}

Named argument(const Napi::CallbackInfo& info, size_t index, const char* name) { return {info[index], name}; }

Named property(const Named& object, const std::string& key) {
  return {toObject(object).Get(key), object.name.empty() ? key : object.name + "." + key};
}

bool Named::given() const { return !value.IsUndefined() && !value.IsNull(); }

int64_t toInteger(const Named& named, int64_t least, int64_t most) {
  const double value = named.value.IsNumber() ? named.value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(value >= static_cast<double>(least) && value <= static_cast<double>(most)) ||
      value != std::floor(value)) {
    failExpected(str("integer between ", least, " and ", most), named.name, named.value);
  }
  return static_cast<int64_t>(value);
}

double toNumber(const Named& named, double least, double most) {
  const double value = named.value.IsNumber() ? named.value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(value >= least && value <= most)) {
    failExpected(most >= FLT_MAX ? str("finite number of at least ", least)
                                 : str("number between ", least, " and ", most),
                 named.name, named.value);
  }
  return value;
}

double toPositive(const Named& named) {
  const double value = named.value.IsNumber() ? named.value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(value > 0 && value <= FLT_MAX)) failExpected("finite number above 0", named.name, named.value);
  return value;
}

bool toBoolean(const Named& named) {
  if (!named.value.IsBoolean()) failExpected("true or false", named.name, named.value);
  return named.value.As<Napi::Boolean>().Value();
}

std::string toText(const Named& named) {
  if (!named.value.IsString()) failExpected("string", named.name, named.value);
  return named.value.As<Napi::String>().Utf8Value();
}

std::string toPath(const Named& named) {
  std::string path = toText(named);
  if (path.empty()) failExpected("path of a file", named.name, named.value);
  require(path.find('\0') == std::string::npos, "Expected a path without NUL characters for ", named.name);
  return path;
}

Napi::Object toObject(const Named& named) {
  if (!named.value.IsObject() || named.value.IsFunction()) failExpected("object", named.name, named.value);
  return named.value.As<Napi::Object>();
}

std::vector<Named> toList(const Named& named) {
  if (!named.value.IsArray()) failExpected("array", named.name, named.value);
  const auto array = named.value.As<Napi::Array>();
  std::vector<Named> items;
  // Read anew each time: a getter may shorten the array.
  for (uint32_t i = 0; i < array.Length(); ++i) items.push_back({array.Get(i), str(named.name, "[", i, "]")});
  return items;
}

std::vector<Named> toEntries(const Named& named) {
  const Napi::Object object = toObject(named);
  const Napi::Array keys = object.GetPropertyNames();
  std::vector<Named> entries;
  for (uint32_t i = 0; i < keys.Length(); ++i) {
    const Napi::Value key = keys.Get(i);
    entries.push_back({object.Get(key), key.ToString().Utf8Value()});
  }
  return entries;
}

size_t toChoice(const Named& named, std::initializer_list<const char*> choices) {
  const std::string text = named.value.IsString() ? toText(named) : "";
  size_t position = 0;
  std::string listed;
  for (const char* choice : choices) {
    if (named.value.IsString() && text == choice) return position;
    listed += str(position == 0 ? "" : (position + 1 == choices.size() ? " or " : ", "), "'", choice, "'");
    ++position;
  }
  failExpected(listed, named.name, named.value);
}

std::span<const float> toFloats(const Named& named) { return elements<float>(named, napi_float32_array); }
std::span<const double> toDoubles(const Named& named) { return elements<double>(named, napi_float64_array); }
std::span<const int32_t> toInts(const Named& named) { return elements<int32_t>(named, napi_int32_array); }
std::span<const uint8_t> toBytes(const Named& named) { return elements<uint8_t>(named, napi_uint8_array); }

DType toDType(const Named& named) {
  constexpr DType types[] = {DType::f32, DType::bf16, DType::f16, DType::i64, DType::i32, DType::u8};
  return types[toChoice(named, {"f32", "bf16", "f16", "i64", "i32", "u8"})];
}

TensorView toTensorView(const Named& named) {
  TensorView view;
  view.dtype = toDType(property(named, "dtype"));
  for (const Named& dim : toList(property(named, "shape"))) {
    view.shape.push_back(toInteger(dim, 0, static_cast<int64_t>(kMaxSafeInteger)));
  }
  view.data = property(named, "data");
  view.bytes();
  return view;
}

std::span<const std::byte> TensorView::bytes() const {
  const RawArray raw = typedArray(data, arrayTypeOf(dtype));
  size_t count = 1;
  for (int64_t dim : shape) {
    require(!__builtin_mul_overflow(count, static_cast<size_t>(dim), &count),
            "Expected a shape that fits memory for ", data.name);
  }
  require(raw.length == count, "Expected ", count, " elements for ", data.name, " but received ", raw.length);
  return {static_cast<const std::byte*>(raw.data), raw.length * sizeOf(dtype)};
}

HostTensor HostTensor::copyOf(const Tensor& tensor) {
  HostTensor copy;
  copy.dtype = tensor.dtype();
  copy.shape = tensor.shape().vector();
  copy.bytes.resize(tensor.bytes());
  currentMemory().copyOut(copy.bytes.data(), tensor.raw(), tensor.bytes());
  return copy;
}

namespace {

/// A typed array over the elements of `values`, which it takes over when there are many.
template <typename T>
Napi::Value takenOver(Napi::Env env, napi_typedarray_type type, size_t elementSize, std::vector<T> values) {
  const size_t size = values.size() * sizeof(T);
  napi_value buffer = nullptr;
  if (size >= kCopyBelow) {
    auto owner = std::make_unique<std::vector<T>>(std::move(values));
    const napi_status status = napi_create_external_arraybuffer(
        env, owner->data(), size,
        [](napi_env, void*, void* hint) { delete static_cast<std::vector<T>*>(hint); }, owner.get(), &buffer);
    if (status == napi_ok) {
      owner.release();
    } else {  // some hosts of Node-API forbid memory that is not theirs
      values = std::move(*owner);
      buffer = nullptr;
    }
  }
  if (!buffer) {
    void* data = nullptr;
    if (napi_create_arraybuffer(env, size, &data, &buffer) != napi_ok) throw Napi::Error::New(env);
    if (size != 0) std::memcpy(data, values.data(), size);
  }
  napi_value array;
  if (napi_create_typedarray(env, type, size / elementSize, buffer, 0, &array) != napi_ok)
    throw Napi::Error::New(env);
  return {env, array};
}

}  // namespace

Napi::Value fromHostTensor(Napi::Env env, HostTensor tensor) {
  const auto object = Napi::Object::New(env);
  const auto shape = Napi::Array::New(env, tensor.shape.size());
  for (size_t axis = 0; axis < tensor.shape.size(); ++axis) {
    shape.Set(static_cast<uint32_t>(axis), Napi::Number::New(env, static_cast<double>(tensor.shape[axis])));
  }
  object.Set("dtype", Napi::String::New(env, nameOf(tensor.dtype)));
  object.Set("shape", shape);
  object.Set("data",
             takenOver(env, arrayTypeOf(tensor.dtype), sizeOf(tensor.dtype), std::move(tensor.bytes)));
  return object;
}

Napi::Value fromFloats(Napi::Env env, std::vector<float> values) {
  return takenOver(env, napi_float32_array, sizeof(float), std::move(values));
}

Napi::Value fromInts(Napi::Env env, std::vector<int32_t> values) {
  return takenOver(env, napi_int32_array, sizeof(int32_t), std::move(values));
}

Napi::Value fromBytes(Napi::Env env, std::vector<uint8_t> values) {
  return takenOver(env, napi_uint8_array, 1, std::move(values));
}

void setOwn(Napi::Object object, const std::string& key, Napi::Value value) {
  const auto name = Napi::String::New(object.Env(), key);
  const napi_property_descriptor property{
      nullptr, name, nullptr, nullptr, nullptr, value, napi_default_jsproperty, nullptr};
  if (napi_define_properties(object.Env(), object, 1, &property) != napi_ok)
    throw Napi::Error::New(object.Env());
}

Napi::Value fromFloatsByName(Napi::Env env, std::map<std::string, std::vector<float>> values) {
  const auto object = Napi::Object::New(env);
  for (auto& [name, floats] : values) setOwn(object, name, fromFloats(env, std::move(floats)));
  return object;
}

}  // namespace duet::binding
