// Updates of clients on their way: noise on the client, shorter forms for the transport.
#include <cfloat>
#include <cstring>

#include "binding/convert.h"
#include "binding/exports.h"
#include "binding/job.h"
#include "federated/update_codec.h"
#include "federated/update_noise.h"

namespace duet::binding {

Napi::Value noisyUpdate(const Napi::CallbackInfo& info) {
  const Named values = argument(info, 0, "values"), received = argument(info, 1, "received"),
              random = argument(info, 2, "random");
  const UpdateNoise noise{toNumber(argument(info, 3, "factor"), 0, 1),
                          toNumber(argument(info, 4, "grid"), 0, FLT_MAX),
                          toNumber(argument(info, 5, "deviation"), 0, FLT_MAX)};
  return startJob(
      info.Env(), {.held = {values.value, received.value, random.value}},
      [noise, values = toFloats(values), received = toFloats(received), random = toBytes(random)] {
        return duet::noisyUpdate(values, received, random, noise);
      },
      fromFloats);
}

Napi::Value encodeInt8(const Napi::CallbackInfo& info) {
  const Named values = argument(info, 0, "values"), received = argument(info, 1, "received"),
              draws = argument(info, 2, "draws");
  std::optional<Philox> generator;
  uint64_t counter = 0;
  if (draws.given()) {
    constexpr int64_t most = (int64_t{1} << 53) - 1;
    const auto number = [&](const char* key) {
      return static_cast<uint64_t>(toInteger(property(draws, key), 0, most));
    };
    generator = Philox{number("seed"), number("stream")};
    counter = number("counter");
  }
  Int8Update encoded = duet::encodeInt8(toFloats(values), toFloats(received), generator, counter);
  const auto object = Napi::Object::New(info.Env());
  object.Set("values", fromBytes(info.Env(), std::move(encoded.values)));
  object.Set("scales", fromFloats(info.Env(), std::move(encoded.scales)));
  return object;
}

Napi::Value decodeInt8(const Napi::CallbackInfo& info) {
  const Named values = argument(info, 0, "values"), scales = argument(info, 1, "scales"),
              received = argument(info, 2, "received");
  return fromFloats(info.Env(), duet::decodeInt8(toBytes(values), toFloats(scales), toFloats(received)));
}

Napi::Value encodeBf16(const Napi::CallbackInfo& info) {
  const Named values = argument(info, 0, "values"), received = argument(info, 1, "received");
  const std::vector<bf16> encoded = duet::encodeBf16(toFloats(values), toFloats(received));
  HostTensor tensor{DType::bf16, {static_cast<int64_t>(encoded.size())}, {}};
  tensor.bytes.resize(encoded.size() * sizeof(bf16));
  if (!encoded.empty()) std::memcpy(tensor.bytes.data(), encoded.data(), tensor.bytes.size());
  return fromHostTensor(info.Env(), std::move(tensor));
}

Napi::Value decodeBf16(const Napi::CallbackInfo& info) {
  const TensorView tensor = toTensorView(argument(info, 0, "values"));
  const Named received = argument(info, 1, "received");
  require(tensor.dtype == DType::bf16, "Expected bf16 for values but received ", nameOf(tensor.dtype));
  const std::span<const std::byte> bytes = tensor.bytes();
  const std::span values(reinterpret_cast<const bf16*>(bytes.data()), bytes.size() / sizeof(bf16));
  return fromFloats(info.Env(), duet::decodeBf16(values, toFloats(received)));
}

Napi::Value allFinite(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), duet::allFinite(toFloats(argument(info, 0, "values"))));
}

}  // namespace duet::binding
