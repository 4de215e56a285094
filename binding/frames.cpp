// Frames of animated stickers (native/data/frames.h), on libuv's pool beside the training.
#include "data/frames.h"

#include "binding/convert.h"
#include "binding/exports.h"
#include "binding/job.h"
#include "data/gif.h"
#include "data/key_frames.h"

namespace duet::binding {

namespace {

constexpr int64_t kLongestSide = 65535;

int toSide(const Named& named) { return static_cast<int>(toInteger(named, 1, kLongestSide)); }

}  // namespace

Napi::Value resizeRgba(const Napi::CallbackInfo& info) {
  const Named strip = argument(info, 0, "rgba");
  const int count = toSide(argument(info, 1, "frames"));
  const int width = toSide(argument(info, 2, "width")), height = toSide(argument(info, 3, "height"));
  const int outWidth = toSide(argument(info, 4, "outWidth")),
            outHeight = toSide(argument(info, 5, "outHeight"));
  const auto rgba = toBytes(strip);
  return startJob(
      info.Env(), {.lane = Lane::files, .held = {strip.value}},
      [=] { return duet::resizeRgba(rgba, count, width, height, outWidth, outHeight); }, fromBytes);
}

Napi::Value compositeOnWhite(const Napi::CallbackInfo& info) {
  const Named pixels = argument(info, 0, "rgba");
  const bool keepAlpha = toBoolean(argument(info, 1, "keepAlpha"));
  const auto rgba = toBytes(pixels);
  return startJob(
      info.Env(), {.lane = Lane::files, .held = {pixels.value}},
      [=] { return duet::compositeOnWhite(rgba, keepAlpha); }, fromBytes);
}

Napi::Value stackClips(const Napi::CallbackInfo& info) {
  const int frames = toSide(argument(info, 1, "frames")), height = toSide(argument(info, 2, "height"));
  const int width = toSide(argument(info, 3, "width")), channels = toSide(argument(info, 4, "channels"));
  std::vector<Named> strips;
  std::vector<ClipView> clips;
  for (const Named& clip : toList(argument(info, 0, "clips"))) {
    strips.push_back(property(clip, "strip"));
    clips.push_back({{}, static_cast<int>(toInteger(property(clip, "frames"), 0, kLongestSide))});
  }
  std::vector<Napi::Value> held;
  for (size_t i = 0; i < clips.size(); ++i) {
    clips[i].strip = toBytes(strips[i]);
    held.push_back(strips[i].value);
  }
  return startJob(
      info.Env(), {.lane = Lane::files, .held = std::move(held)},
      [=, clips = std::move(clips)] { return duet::stackClips(clips, frames, height, width, channels); },
      fromFloats);
}

Napi::Value framesFromValues(const Napi::CallbackInfo& info) {
  const Named given = argument(info, 0, "values");
  const int frames = toSide(argument(info, 1, "frames")), height = toSide(argument(info, 2, "height"));
  const int width = toSide(argument(info, 3, "width")), channels = toSide(argument(info, 4, "channels"));
  const auto values = toFloats(given);
  return startJob(
      info.Env(), {.lane = Lane::files, .held = {given.value}},
      [=] { return duet::framesFromValues(values, frames, height, width, channels); }, fromBytes);
}

Napi::Value resizeValues(const Napi::CallbackInfo& info) {
  const Named given = argument(info, 0, "values");
  const int height = toSide(argument(info, 1, "height")), width = toSide(argument(info, 2, "width"));
  const int outHeight = toSide(argument(info, 3, "outHeight")),
            outWidth = toSide(argument(info, 4, "outWidth"));
  const auto values = toFloats(given);
  return startJob(
      info.Env(), {.lane = Lane::files, .held = {given.value}},
      [=] { return duet::resizeValues(values, height, width, outHeight, outWidth); }, fromFloats);
}

Napi::Value clusterLabels(const Napi::CallbackInfo& info) {
  const Named given = argument(info, 0, "features");
  const int frames = toSide(argument(info, 1, "frames")), clusters = toSide(argument(info, 2, "clusters"));
  const auto features = toDoubles(given);
  return startJob(
      info.Env(), {.lane = Lane::files, .held = {given.value}},
      [=] { return duet::clusterLabels(features, frames, clusters); }, fromInts);
}

Napi::Value encodeGif(const Napi::CallbackInfo& info) {
  const Named pixels = argument(info, 0, "rgba");
  const int width = toSide(argument(info, 1, "width")), height = toSide(argument(info, 2, "height"));
  std::vector<int> delays;
  for (const Named& delay : toList(argument(info, 3, "delays")))
    delays.push_back(static_cast<int>(toInteger(delay, 0, 65535)));
  const int plays = static_cast<int>(toInteger(argument(info, 4, "plays"), 0, 65535));
  const int colors = static_cast<int>(toInteger(argument(info, 5, "colors"), 1, 255));
  const auto rgba = toBytes(pixels);
  return startJob(
      info.Env(), {.lane = Lane::files, .held = {pixels.value}},
      [=, delays = std::move(delays)] { return duet::encodeGif(rgba, width, height, delays, plays, colors); },
      fromBytes);
}

}  // namespace duet::binding
