// resizePicture and preparePictures, on libuv's pool beside the training.
#include <algorithm>

#include "binding/convert.h"
#include "binding/exports.h"
#include "binding/job.h"
#include "data/pictures.h"

namespace duet::binding {

namespace {

constexpr int64_t kLongestSide = 65535;

int toSide(const Named& named, int64_t least = 1) {
  return static_cast<int>(toInteger(named, least, kLongestSide));
}

std::array<float, 3> toChannels(const Named& named, double least) {
  const std::vector<Named> values = toList(named);
  if (values.size() != 3) failExpected("array of 3 numbers", named.name, named.value);
  std::array<float, 3> channels{};
  for (size_t i = 0; i < 3; ++i) channels[i] = static_cast<float>(toNumber(values[i], least, 1e6));
  return channels;
}

PictureSpec toSpec(const Named& named) {
  PictureSpec spec;
  spec.shortestEdge = toSide(property(named, "shortestEdge"));
  spec.longestEdge = toSide(property(named, "longestEdge"), 0);
  spec.sizeDivisor = toSide(property(named, "sizeDivisor"));
  spec.resize = toBoolean(property(named, "resize"));
  spec.rescaleFactor = toNumber(property(named, "rescaleFactor"), 0, 1e6);
  spec.mean = toChannels(property(named, "mean"), -1e6);
  spec.std = toChannels(property(named, "std"), 1e-6);
  if (const Named least = property(named, "minHeight"); least.given()) spec.minHeight = toSide(least, 0);
  if (const Named least = property(named, "minWidth"); least.given()) spec.minWidth = toSide(least, 0);
  return spec;
}

Napi::Value fromPrepared(Napi::Env env, PreparedPictures prepared) {
  const auto sizes = Napi::Array::New(env, prepared.sizes.size());
  for (size_t i = 0; i < prepared.sizes.size(); ++i) {
    const auto size = Napi::Object::New(env);
    size.Set("width", Napi::Number::New(env, prepared.sizes[i].width));
    size.Set("height", Napi::Number::New(env, prepared.sizes[i].height));
    size.Set("raised", Napi::Boolean::New(env, prepared.sizes[i].raised));
    sizes.Set(static_cast<uint32_t>(i), size);
  }
  const auto result = Napi::Object::New(env);
  result.Set("batch", Napi::Number::New(env, prepared.batch));
  result.Set("height", Napi::Number::New(env, prepared.height));
  result.Set("width", Napi::Number::New(env, prepared.width));
  result.Set("pixelValues", fromFloats(env, std::move(prepared.pixelValues)));
  result.Set("pixelMask", fromBytes(env, std::move(prepared.pixelMask)));
  result.Set("sizes", sizes);
  return result;
}

}  // namespace

Napi::Value resizePicture(const Napi::CallbackInfo& info) {
  const Named picture = argument(info, 0, "rgb");
  const int width = toSide(argument(info, 1, "width")), height = toSide(argument(info, 2, "height"));
  const int outWidth = toSide(argument(info, 3, "outWidth")),
            outHeight = toSide(argument(info, 4, "outHeight"));
  const auto rgb = toBytes(picture);
  return startJob(
      info.Env(), {.lane = Lane::files, .held = {picture.value}},
      [=] { return resizeBicubic(rgb, width, height, outWidth, outHeight); }, fromBytes);
}

Napi::Value preparePictures(const Napi::CallbackInfo& info) {
  const PictureSpec spec = toSpec(argument(info, 1, "spec"));
  std::vector<Named> pixels;
  std::vector<PictureView> views;
  for (const Named& picture : toList(argument(info, 0, "pictures"))) {
    pixels.push_back(property(picture, "rgb"));
    views.push_back({{}, toSide(property(picture, "width")), toSide(property(picture, "height"))});
  }
  std::vector<Napi::Value> held;
  for (size_t i = 0; i < views.size(); ++i) {
    views[i].rgb = toBytes(pixels[i]);
    held.push_back(pixels[i].value);
  }
  return startJob(
      info.Env(), {.lane = Lane::files, .held = std::move(held)},
      [views = std::move(views), spec] { return duet::preparePictures(views, spec); }, fromPrepared);
}

}  // namespace duet::binding
