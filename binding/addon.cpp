// The export list of the addon; src/native.ts has the types.
#include "binding/errors.h"
#include "binding/exports.h"
#include "binding/job.h"

namespace {

Napi::Object exportAll(Napi::Env env, Napi::Object exports) {
  using namespace duet::binding;
  Environment::install(env);
  exports.Set("Vilt", defineVilt(env));
  exports.Set("Dfgn", defineDfgn(env));
  exports.Set("TextEncoder", defineTextEncoder(env));
  exports.Set("AutoencoderKl", defineAutoencoderKl(env));
  exports.Set("gaussianOfMoments", Napi::Function::New<safely<gaussianOfMoments>>(env, "gaussianOfMoments"));
  exports.Set("readSafetensors", Napi::Function::New<promising<readSafetensors>>(env, "readSafetensors"));
  exports.Set("writeSafetensors", Napi::Function::New<promising<writeSafetensors>>(env, "writeSafetensors"));
  exports.Set("resizePicture", Napi::Function::New<promising<resizePicture>>(env, "resizePicture"));
  exports.Set("preparePictures", Napi::Function::New<promising<preparePictures>>(env, "preparePictures"));
  exports.Set("resizeRgba", Napi::Function::New<promising<resizeRgba>>(env, "resizeRgba"));
  exports.Set("compositeOnWhite", Napi::Function::New<promising<compositeOnWhite>>(env, "compositeOnWhite"));
  exports.Set("stackClips", Napi::Function::New<promising<stackClips>>(env, "stackClips"));
  exports.Set("framesFromValues", Napi::Function::New<promising<framesFromValues>>(env, "framesFromValues"));
  exports.Set("resizeValues", Napi::Function::New<promising<resizeValues>>(env, "resizeValues"));
  exports.Set("clusterLabels", Napi::Function::New<promising<clusterLabels>>(env, "clusterLabels"));
  exports.Set("encodeGif", Napi::Function::New<promising<encodeGif>>(env, "encodeGif"));
  exports.Set("weightedAverage", Napi::Function::New<promising<weightedAverage>>(env, "weightedAverage"));
  exports.Set("accumulate", Napi::Function::New<promising<accumulate>>(env, "accumulate"));
  exports.Set("distance", Napi::Function::New<promising<distance>>(env, "distance"));
  exports.Set("noisyUpdate", Napi::Function::New<promising<noisyUpdate>>(env, "noisyUpdate"));
  exports.Set("encodeInt8", Napi::Function::New<safely<encodeInt8>>(env, "encodeInt8"));
  exports.Set("decodeInt8", Napi::Function::New<safely<decodeInt8>>(env, "decodeInt8"));
  exports.Set("encodeBf16", Napi::Function::New<safely<encodeBf16>>(env, "encodeBf16"));
  exports.Set("decodeBf16", Napi::Function::New<safely<decodeBf16>>(env, "decodeBf16"));
  exports.Set("allFinite", Napi::Function::New<safely<allFinite>>(env, "allFinite"));
  exports.Set("runOp", Napi::Function::New<promising<runOp>>(env, "runOp"));
  exports.Set("opNames", Napi::Function::New<safely<opNames>>(env, "opNames"));
  exports.Set("productRate", Napi::Function::New<promising<productRate>>(env, "productRate"));
  exports.Set("systemInfo", Napi::Function::New<safely<systemInfo>>(env, "systemInfo"));
  exports.Set("describeDevices", Napi::Function::New<safely<describeDevices>>(env, "describeDevices"));
  exports.Set("setThreads", Napi::Function::New<safely<setThreads>>(env, "setThreads"));
  return exports;
}

}  // namespace

NODE_API_MODULE(duet, exportAll)
