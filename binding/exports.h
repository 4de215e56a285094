// The functions that addon.cpp exports, by the file they are in. Their types and meaning for JavaScript
// are in src/native.ts.
#pragma once

#include "binding/napi_setup.h"

namespace duet::binding {

// io.cpp
Napi::Value readSafetensors(const Napi::CallbackInfo& info);
Napi::Value writeSafetensors(const Napi::CallbackInfo& info);

// pictures.cpp
Napi::Value resizePicture(const Napi::CallbackInfo& info);
Napi::Value preparePictures(const Napi::CallbackInfo& info);

// frames.cpp
Napi::Value resizeRgba(const Napi::CallbackInfo& info);
Napi::Value compositeOnWhite(const Napi::CallbackInfo& info);
Napi::Value stackClips(const Napi::CallbackInfo& info);
Napi::Value framesFromValues(const Napi::CallbackInfo& info);
Napi::Value resizeValues(const Napi::CallbackInfo& info);
Napi::Value clusterLabels(const Napi::CallbackInfo& info);
Napi::Value encodeGif(const Napi::CallbackInfo& info);

// ops.cpp
Napi::Value weightedAverage(const Napi::CallbackInfo& info);
Napi::Value accumulate(const Napi::CallbackInfo& info);
Napi::Value distance(const Napi::CallbackInfo& info);
Napi::Value runOp(const Napi::CallbackInfo& info);
Napi::Value opNames(const Napi::CallbackInfo& info);
Napi::Value productRate(const Napi::CallbackInfo& info);

// updates.cpp
Napi::Value noisyUpdate(const Napi::CallbackInfo& info);
Napi::Value encodeInt8(const Napi::CallbackInfo& info);
Napi::Value decodeInt8(const Napi::CallbackInfo& info);
Napi::Value encodeBf16(const Napi::CallbackInfo& info);
Napi::Value decodeBf16(const Napi::CallbackInfo& info);
Napi::Value allFinite(const Napi::CallbackInfo& info);

// system.cpp
Napi::Value systemInfo(const Napi::CallbackInfo& info);
Napi::Value describeDevices(const Napi::CallbackInfo& info);
Napi::Value setThreads(const Napi::CallbackInfo& info);

// vilt.cpp
Napi::Function defineVilt(Napi::Env env);

// dfgn.cpp
Napi::Function defineDfgn(Napi::Env env);

// text_encoder.cpp
Napi::Function defineTextEncoder(Napi::Env env);

// autoencoder_kl.cpp
Napi::Function defineAutoencoderKl(Napi::Env env);
Napi::Value gaussianOfMoments(const Napi::CallbackInfo& info);

}  // namespace duet::binding
