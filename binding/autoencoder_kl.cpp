// Class AutoencoderKl: a frozen autoencoder for JavaScript, pictures to latents and back.
#include "models/autoencoder_kl.h"

#include "binding/exports.h"
#include "binding/frozen_model.h"

namespace duet::binding {

namespace {

constexpr int64_t kMostChannels = int64_t{1} << 16;
constexpr int64_t kMostPixels = 65536;
constexpr int64_t kMostPictures = int64_t{1} << 24;

AutoencoderConfig toConfig(const Named& named) {
  const auto size = [&](const char* key) { return toInteger(property(named, key), 1, kMostChannels); };
  AutoencoderConfig config;
  config.inChannels = size("inChannels");
  config.outChannels = size("outChannels");
  config.latentChannels = size("latentChannels");
  config.layersPerBlock = toInteger(property(named, "layersPerBlock"), 1, 1024);
  config.groups = size("groups");
  config.scalingFactor = static_cast<float>(toPositive(property(named, "scalingFactor")));
  config.channels.clear();
  for (const Named& channels : toList(property(named, "channels")))
    config.channels.push_back(toInteger(channels, 1, kMostChannels));
  return config;
}

/// { clips, frames, height, width } of pictures
PictureGrid toGrid(const Named& named) {
  PictureGrid grid;
  grid.clips = toInteger(property(named, "clips"), 1, kMostPictures);
  grid.frames = toInteger(property(named, "frames"), 1, kMostPictures);
  grid.height = toInteger(property(named, "height"), 1, kMostPixels);
  grid.width = toInteger(property(named, "width"), 1, kMostPixels);
  require(grid.clips * grid.frames <= kMostPictures, "Expected at most ", kMostPictures,
          " pictures but received ", grid.clips, " clips of ", grid.frames, " frames");
  constexpr int64_t most = int64_t{1} << 36;
  require(grid.rows() <= most, "Expected at most ", most, " pixels in all but received ", grid.rows());
  return grid;
}

class AutoencoderObject final : public FrozenModel<AutoencoderObject, AutoencoderKl> {
 public:
  static Napi::Function define(Napi::Env env) {
    using Self = AutoencoderObject;
    return DefineClass(env, "AutoencoderKl",
                       {InstanceMethod("load", &Self::load), InstanceMethod("moments", &Self::moments),
                        InstanceMethod("encode", &Self::encode), InstanceMethod("decode", &Self::decode),
                        InstanceMethod("memory", &Self::memory), InstanceMethod("cancel", &Self::cancel),
                        InstanceMethod("dispose", &Self::dispose)});
  }

  explicit AutoencoderObject(const Napi::CallbackInfo& info) : FrozenModel(info) {
    guard(info.Env(), [&]() -> Napi::Value {
      const AutoencoderConfig config = toConfig(argument(info, 0, "shape"));
      const FrozenOptions options = toFrozenOptions(argument(info, 1, "options"));
      start(options, [&] { return std::make_unique<AutoencoderKl>(config, options.compute); });
      return info.Env().Undefined();
    });
  }

 private:
  Napi::Value moments(const Napi::CallbackInfo& info) {
    return guardPromise(info.Env(), [&] {
      const PictureGrid grid = toGrid(argument(info, 1, "grid"));
      const Named pictures = argument(info, 0, "pictures");
      return run(
          info, {pictures.value},
          [values = toFloats(pictures), grid](AutoencoderKl& model) { return model.moments(values, grid); },
          fromFloats);
    });
  }

  Napi::Value encode(const Napi::CallbackInfo& info) {
    return guardPromise(info.Env(), [&] {
      const PictureGrid grid = toGrid(argument(info, 1, "grid"));
      const Named pictures = argument(info, 0, "pictures"), given = argument(info, 2, "noise");
      std::span<const float> noise;
      if (given.given()) {
        noise = toFloats(given);
        require(!noise.empty(), "Expected one value of noise a latent value but received an empty list");
      }
      return run(
          info, {pictures.value, given.value},
          [values = toFloats(pictures), grid, noise](AutoencoderKl& model) {
            return model.encode(values, grid, noise);
          },
          fromFloats);
    });
  }

  Napi::Value decode(const Napi::CallbackInfo& info) {
    return guardPromise(info.Env(), [&] {
      const PictureGrid grid = toGrid(argument(info, 1, "grid"));
      const Named latents = argument(info, 0, "latents");
      return run(
          info, {latents.value},
          [values = toFloats(latents), grid](AutoencoderKl& model) { return model.decode(values, grid); },
          fromFloats);
    });
  }
};

}  // namespace

Napi::Function defineAutoencoderKl(Napi::Env env) { return AutoencoderObject::define(env); }

/// gaussianOfMoments(moments, pictures): { mean, deviation }
Napi::Value gaussianOfMoments(const Napi::CallbackInfo& info) {
  const int64_t pictures = toInteger(argument(info, 1, "pictures"), 1, kMostPictures);
  const std::span<const float> moments = toFloats(argument(info, 0, "moments"));
  require(moments.size() % static_cast<size_t>(2 * pictures) == 0, "Expected moments divisible into ",
          pictures, " pictures of mean and log-variance but received ", moments.size(), " values");
  std::vector<float> mean(moments.size() / 2), deviation(moments.size() / 2);
  duet::gaussianOfMoments(moments, pictures, mean.data(), deviation.data());
  const auto object = Napi::Object::New(info.Env());
  object.Set("mean", fromFloats(info.Env(), std::move(mean)));
  object.Set("deviation", fromFloats(info.Env(), std::move(deviation)));
  return object;
}

}  // namespace duet::binding
