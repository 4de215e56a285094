// Class TextEncoder: a frozen CLIP text model, BERT or T5 encoder for JavaScript.
#include <tuple>

#include "binding/exports.h"
#include "binding/frozen_model.h"
#include "core/system.h"
#include "models/bert_encoder.h"
#include "models/clip_text.h"
#include "models/t5_encoder.h"

namespace duet::binding {

namespace {

constexpr int64_t kMost = int64_t{1} << 24;
constexpr int64_t kMostLayers = 1024;

int64_t size(const Named& named, const char* key, int64_t most = kMost) {
  return toInteger(property(named, key), 1, most);
}

Activation toActivation(const Named& named) {
  constexpr Activation kinds[] = {Activation::gelu, Activation::quickGelu, Activation::geluTanh,
                                  Activation::relu};
  return kinds[toChoice(named, {"gelu", "quick_gelu", "gelu_tanh", "relu"})];
}

/// What all three have in common.
template <typename Config>
void readCommon(const Named& shape, Config& config) {
  config.vocabSize = size(shape, "vocabSize");
  config.intermediateSize = size(shape, "intermediateSize");
  config.layers = size(shape, "layers", kMostLayers);
  config.heads = size(shape, "heads");
  config.layerNormEps = static_cast<float>(toPositive(property(shape, "layerNormEps")));
  config.activation = toActivation(property(shape, "activation"));
}

std::unique_ptr<TextEncoder> makeEncoder(const Named& kind, const Named& shape, DType compute) {
  switch (toChoice(kind, {"clip", "bert", "t5"})) {
    case 0: {
      ClipTextConfig config;
      readCommon(shape, config);
      config.hiddenSize = size(shape, "width");
      config.maxPositions = size(shape, "maxPositions");
      config.eosTokenId = toInteger(property(shape, "eosTokenId"), 0, kMost);
      return std::make_unique<ClipText>(config, compute);
    }
    case 1: {
      BertConfig config;
      readCommon(shape, config);
      config.hiddenSize = size(shape, "width");
      config.maxPositions = size(shape, "maxPositions");
      config.typeVocabSize = size(shape, "typeVocabSize");
      return std::make_unique<BertEncoder>(config, compute);
    }
    default: {
      T5Config config;
      readCommon(shape, config);
      config.width = size(shape, "width");
      config.headSize = size(shape, "headSize");
      config.buckets = size(shape, "buckets");
      config.maxDistance = size(shape, "maxDistance");
      config.gated = toBoolean(property(shape, "gated"));
      return std::make_unique<T5Encoder>(config, compute);
    }
  }
}

/// Token ids and mask are copied: their checked values decide what memory is read.
struct TextInput {
  int64_t batch, length;
  std::vector<int32_t> inputIds;
  std::vector<uint8_t> attentionMask;

  explicit TextInput(const Named& named)
      : batch(toInteger(property(named, "batch"), 1, kMost)),
        length(toInteger(property(named, "length"), 1, kMost)) {
    const Named ids = property(named, "inputIds"), mask = property(named, "attentionMask");
    const std::span<const int32_t> idValues = toInts(ids);
    inputIds.assign(idValues.begin(), idValues.end());
    if (!mask.given()) return;
    const std::span<const uint8_t> maskValues = toBytes(mask);
    attentionMask.assign(maskValues.begin(), maskValues.end());
  }
};

struct HostStates {
  HostTensor last;
  std::vector<HostTensor> pooled, hidden, positionBias;  // one or none, some or none, one or none

  HostStates(const TextStates& states, int64_t batch, int64_t length)
      : last(HostTensor::copyOf(states.last.reshape({batch, length, states.last.columns()}))) {
    if (states.pooled.defined()) pooled.push_back(HostTensor::copyOf(states.pooled));
    for (const Tensor& state : states.hidden)
      hidden.push_back(HostTensor::copyOf(state.reshape({batch, length, state.columns()})));
    if (states.positionBias.defined()) positionBias.push_back(HostTensor::copyOf(states.positionBias));
  }
};

Napi::Value fromHostStates(Napi::Env env, HostStates states) {
  const auto object = Napi::Object::New(env);
  object.Set("lastHiddenState", fromHostTensor(env, std::move(states.last)));
  if (!states.pooled.empty())
    object.Set("poolerOutput", fromHostTensor(env, std::move(states.pooled.front())));
  if (!states.positionBias.empty())
    object.Set("positionBias", fromHostTensor(env, std::move(states.positionBias.front())));
  if (!states.hidden.empty()) {
    const auto layers = Napi::Array::New(env, states.hidden.size());
    for (size_t i = 0; i < states.hidden.size(); ++i)
      layers.Set(static_cast<uint32_t>(i), fromHostTensor(env, std::move(states.hidden[i])));
    object.Set("hiddenStates", layers);
  }
  return object;
}

class TextEncoderObject final : public FrozenModel<TextEncoderObject, TextEncoder> {
 public:
  static Napi::Function define(Napi::Env env) {
    using Self = TextEncoderObject;
    return DefineClass(env, "TextEncoder",
                       {InstanceMethod("load", &Self::load), InstanceMethod("encode", &Self::encode),
                        InstanceMethod("memory", &Self::memory), InstanceMethod("cancel", &Self::cancel),
                        InstanceMethod("dispose", &Self::dispose)});
  }

  explicit TextEncoderObject(const Napi::CallbackInfo& info) : FrozenModel(info) {
    guard(info.Env(), [&]() -> Napi::Value {
      const FrozenOptions options = toFrozenOptions(argument(info, 2, "options"));
      start(options, [&] {
        return makeEncoder(argument(info, 0, "kind"), argument(info, 1, "shape"), options.compute);
      });
      return info.Env().Undefined();
    });
  }

 private:
  Napi::Value encode(const Napi::CallbackInfo& info) {
    return guardPromise(info.Env(), [&] {
      TextInput input(argument(info, 0, "batch"));
      const Named everything = argument(info, 1, "everything");
      const bool all = everything.given() && toBoolean(everything);
      return run(
          info, {},
          [input = std::move(input), all](TextEncoder& encoder) {
            const TextBatch batch{input.batch, input.length, input.inputIds, input.attentionMask};
            return HostStates(encoder.encode(batch, all), input.batch, input.length);
          },
          fromHostStates);
    });
  }
};

}  // namespace

std::pair<Device, DType> toDeviceAndCompute(const Named& named) {
  if (!named.given()) return {};
  const Named where = property(named, "device"), type = property(named, "compute");
  const Device device = where.given() ? Device::named(toText(where)) : Device();
  const size_t choice = type.given() ? toChoice(type, {"fp32", "tf32", "bf16"}) : 0;
  return {choice == 1 ? device.withTf32() : device, choice == 2 ? DType::bf16 : DType::f32};
}

FrozenOptions toFrozenOptions(const Named& named) {
  FrozenOptions options;
  if (!named.given()) return options;
  std::tie(options.device, options.compute) = toDeviceAndCompute(named);
  const Named threads = property(named, "threads");
  if (threads.given()) options.threads = static_cast<int>(toInteger(threads, 0, kMostThreads));
  return options;
}

Napi::Function defineTextEncoder(Napi::Env env) { return TextEncoderObject::define(env); }

}  // namespace duet::binding
