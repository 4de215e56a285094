#include "binding/vilt_options.h"

#include <cfloat>

#include "binding/frozen_model.h"

namespace duet::binding {

namespace {

constexpr int64_t kMaxSafeInteger = 9007199254740991;
// Bounds that no real model comes near, chosen so that no product of two or three sizes overflows.
constexpr int64_t kMostRows = int64_t{1} << 31;
constexpr int64_t kMostWidth = int64_t{1} << 20;
constexpr int64_t kMostLayers = 4096;
constexpr int64_t kMostPixels = 65535;
constexpr int64_t kMostPatchPixels = 4096;
constexpr int64_t kMostChannels = 1024;

float toFloat(const Named& named, double least, double most) {
  return static_cast<float>(toNumber(named, least, most));
}

AdamWOptions toOptimizer(const Named& named) {
  AdamWOptions options;
  options.learningRate = toNumber(property(named, "learningRate"), 0, FLT_MAX);
  const Named betas = property(named, "betas");
  const std::vector<Named> pair = toList(betas);
  if (pair.size() != 2) failExpected("array of 2 numbers", betas.name, betas.value);
  options.beta1 = toNumber(pair[0], 0, 1);
  options.beta2 = toNumber(pair[1], 0, 1);
  if (options.beta1 == 1 || options.beta2 == 1) failExpected("numbers below 1", betas.name, betas.value);
  options.epsilon = toPositive(property(named, "epsilon"));
  options.weightDecay = toNumber(property(named, "weightDecay"), 0, FLT_MAX);
  return options;
}

ScheduleOptions toSchedule(const Named& named) {
  using Kind = ScheduleOptions::Kind;
  constexpr Kind kinds[] = {Kind::linear, Kind::constant, Kind::cosine};
  ScheduleOptions options;
  options.kind = kinds[toChoice(property(named, "kind"), {"linear", "constant", "cosine"})];
  options.warmupSteps = toInteger(property(named, "warmupSteps"), 0, kMaxSafeInteger);
  options.maxSteps = toInteger(property(named, "maxSteps"), 1, kMaxSafeInteger);
  return options;
}

template <typename T>
std::vector<T> copied(std::span<const T> values) {
  return {values.begin(), values.end()};
}

}  // namespace

uint64_t toSeed(const Named& named) { return static_cast<uint64_t>(toInteger(named, 0, kMaxSafeInteger)); }

ViltConfig toViltConfig(const Named& named) {
  const auto size = [&](const char* key, int64_t most) { return toInteger(property(named, key), 1, most); };
  ViltConfig config;
  config.vocabSize = size("vocabSize", kMostRows);
  config.typeVocabSize = size("typeVocabSize", kMostRows);
  config.maxPositionEmbeddings = size("maxPositionEmbeddings", kMostRows);
  config.hiddenSize = size("hiddenSize", kMostWidth);
  config.layers = size("layers", kMostLayers);
  config.heads = size("heads", kMostWidth);
  config.intermediateSize = size("intermediateSize", kMostWidth);
  config.imageSize = size("imageSize", kMostPixels);
  config.patchSize = size("patchSize", kMostPatchPixels);
  config.channels = size("channels", kMostChannels);
  config.modalityTypes = size("modalityTypes", 3);
  config.layerNormEps = static_cast<float>(toPositive(property(named, "layerNormEps")));
  config.hiddenDropout = toFloat(property(named, "hiddenDropout"), 0, 1);
  config.attentionDropout = toFloat(property(named, "attentionDropout"), 0, 1);
  config.qkvBias = toBoolean(property(named, "qkvBias"));
  config.validate();
  return config;
}

ViltOptions toViltOptions(const Named& named) {
  ViltOptions options;
  if (!named.given()) return options;
  if (const Named given = property(named, "seed"); given.given()) options.runtime.seed = toSeed(given);
  if (const Named given = property(named, "initialise"); given.given())
    options.runtime.initialise = toBoolean(given);
  if (const Named given = property(named, "threads"); given.given()) {
    options.threads = static_cast<int>(toInteger(given, 0, kMostThreads));
  }
  const auto [device, compute] = toDeviceAndCompute(named);
  options.device = device;
  options.runtime.compute = compute == DType::bf16 ? Compute::bf16 : Compute::fp32;
  return options;
}

AdapterMode toAdapterMode(const Named& named) {
  constexpr AdapterMode modes[] = {AdapterMode::gated, AdapterMode::adapter0, AdapterMode::adapter1,
                                   AdapterMode::none};
  return modes[toChoice(named, {"gated", "adapter_0", "adapter_1", "none"})];
}

TrainingOptions toTrainingOptions(const Named& named) {
  constexpr Method methods[] = {Method::feddat, Method::single, Method::full};
  constexpr AdapterMode adapters[] = {AdapterMode::adapter0, AdapterMode::adapter1, AdapterMode::none};
  TrainingOptions options;
  options.method = methods[toChoice(property(named, "method"), {"feddat", "single", "full"})];
  options.task = toText(property(named, "task"));
  if (const Named given = property(named, "adapter"); given.given()) {
    options.adapter = adapters[toChoice(given, {"adapter_0", "adapter_1", "none"})];
  }
  options.optimizer = toOptimizer(property(named, "optimizer"));
  options.schedule = toSchedule(property(named, "schedule"));
  if (const Named given = property(named, "temperature"); given.given()) {
    options.temperature = static_cast<float>(toPositive(given));
  }
  if (const Named given = property(named, "order"); given.given()) {
    options.order = toChoice(given, {"merged", "published"}) == 0 ? PassOrder::merged : PassOrder::published;
  }
  if (const Named given = property(named, "clearGradients"); given.given()) {
    options.clearGradients =
        toChoice(given, {"none", "zero"}) == 0 ? ClearGradients::none : ClearGradients::zero;
  }
  if (const Named given = property(named, "maxGradNorm"); given.given()) {
    options.maxGradNorm = static_cast<float>(toPositive(given));
  }
  if (const Named given = property(named, "seed"); given.given()) options.seed = toSeed(given);
  if (const Named given = property(named, "keepGradients"); given.given())
    options.keepGradients = toBoolean(given);
  if (const Named given = property(named, "keepOutputs"); given.given())
    options.keepOutputs = toBoolean(given);
  return options;
}

BatchInput toBatch(const Named& named) {
  BatchInput input;
  input.batch = toInteger(property(named, "batch"), 1, kMostWidth);
  input.textLength = toInteger(property(named, "textLength"), 1, kMostWidth);
  input.height = toInteger(property(named, "height"), 1, kMostPixels);
  input.width = toInteger(property(named, "width"), 1, kMostPixels);
  // All properties before any memory: a getter could move it.
  const Named inputIds = property(named, "inputIds"), tokenTypeIds = property(named, "tokenTypeIds");
  const Named attentionMask = property(named, "attentionMask"), pixelMask = property(named, "pixelMask");
  const Named pixelValues = property(named, "pixelValues"), targets = property(named, "targets");
  input.inputIds = copied(toInts(inputIds));
  input.tokenTypeIds = copied(toInts(tokenTypeIds));
  input.attentionMask = copied(toBytes(attentionMask));
  input.pixelMask = copied(toBytes(pixelMask));
  input.pixelValues = toFloats(pixelValues);
  input.held = {pixelValues.value};
  if (targets.given()) {
    input.targets = toFloats(targets);
    input.held.push_back(targets.value);
  }
  return input;
}

ViltBatch BatchInput::view() const {
  return {batch,        textLength,    height,      width,     inputIds,
          tokenTypeIds, attentionMask, pixelValues, pixelMask, targets};
}

}  // namespace duet::binding
