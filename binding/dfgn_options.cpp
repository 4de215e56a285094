#include "binding/dfgn_options.h"

#include <cfloat>

#include "binding/vilt_options.h"

namespace duet::binding {

namespace {

constexpr int64_t kMaxSafeInteger = 9007199254740991;
// Bounds that no real network comes near, chosen so that no product of a few sizes overflows.
constexpr int64_t kMostWidth = int64_t{1} << 16;
constexpr int64_t kMostLevels = 16;
constexpr int64_t kMostLayers = 64;
constexpr int64_t kMostPixels = 8192;
constexpr int64_t kMostFrames = 1024;
constexpr int64_t kMostChannels = 64;
constexpr int64_t kMostClips = 65536;
constexpr int64_t kMostWords = int64_t{1} << 20;

template <typename T>
std::vector<T> copied(std::span<const T> values) {
  return {values.begin(), values.end()};
}

/// The floats of a property that must be there, held.
std::span<const float> floatsOf(const Named& named, std::vector<Napi::Value>& held) {
  held.push_back(named.value);
  return toFloats(named);
}

std::span<const float> floatsIfGiven(const Named& named, std::vector<Napi::Value>& held) {
  return named.given() ? floatsOf(named, held) : std::span<const float>{};
}

std::vector<int32_t> intsIfGiven(const Named& named) {
  return named.given() ? copied(toInts(named)) : std::vector<int32_t>{};
}

std::vector<uint8_t> bytesIfGiven(const Named& named) {
  return named.given() ? copied(toBytes(named)) : std::vector<uint8_t>{};
}

template <typename Batch>
void sizesOf(Batch& batch, const Named& named) {
  batch.clips = toInteger(property(named, "clips"), 1, kMostClips);
  batch.height = toInteger(property(named, "height"), 1, kMostPixels);
  batch.width = toInteger(property(named, "width"), 1, kMostPixels);
  batch.textTokens = toInteger(property(named, "textTokens"), 1, kMostWidth);
  if (const Named given = property(named, "t5Tokens"); given.given())
    batch.t5Tokens = toInteger(given, 0, kMostWidth);
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
  options.decayAll = true;
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

}  // namespace

DfgnConfig toDfgnConfig(const Named& named) {
  const auto size = [&](const char* key, int64_t least, int64_t most) {
    return toInteger(property(named, key), least, most);
  };
  DfgnConfig config;
  config.channels = size("channels", 1, kMostChannels);
  config.blockChannels.clear();
  for (const Named& width : toList(property(named, "blockChannels")))
    config.blockChannels.push_back(toInteger(width, 1, kMostWidth));
  require(static_cast<int64_t>(config.blockChannels.size()) <= kMostLevels, "Expected at most ", kMostLevels,
          " widths for blockChannels but received ", config.blockChannels.size());
  config.layersPerBlock = size("layersPerBlock", 1, kMostLayers);
  config.normGroups = size("normGroups", 1, kMostWidth);
  config.textWidth = size("textWidth", 1, kMostWidth);
  config.t5Width = size("t5Width", 0, kMostWidth);
  config.headSize = size("headSize", 1, kMostWidth);
  config.frames = size("frames", 1, kMostFrames);
  constexpr StiVariant variants[] = {StiVariant::interaction, StiVariant::semantic, StiVariant::detail};
  config.sti = variants[toChoice(property(named, "sti"), {"interaction", "semantic", "detail"})];
  config.maskPadding = toBoolean(property(named, "maskPadding"));
  if (const Named encoder = property(named, "captionEncoder"); encoder.given()) {
    const auto of = [&](const char* key, int64_t most) { return toInteger(property(encoder, key), 1, most); };
    config.captionEncoder = CaptionEncoderConfig{of("vocabSize", kMostWords), of("maxLength", kMostWidth),
                                                 of("layers", kMostLayers), of("heads", kMostWidth)};
  }
  config.validate();
  return config;
}

DenoisingOptions toDenoisingOptions(const Named& named) {
  DenoisingOptions options;
  options.optimizer = toOptimizer(property(named, "optimizer"));
  options.schedule = toSchedule(property(named, "schedule"));
  if (const Named noise = property(named, "noise"); noise.given()) {
    options.noise.steps = toInteger(property(noise, "steps"), 1, 1 << 20);
    options.noise.betaStart = toPositive(property(noise, "betaStart"));
    options.noise.betaEnd = toPositive(property(noise, "betaEnd"));
  }
  if (const Named given = property(named, "prediction"); given.given())
    options.prediction = static_cast<Prediction>(toChoice(given, {"epsilon", "velocity", "sample"}));
  options.maxGradNorm.reset();
  if (const Named given = property(named, "maxGradNorm"); given.given())
    options.maxGradNorm = static_cast<float>(toPositive(given));
  if (const Named given = property(named, "emaDecay"); given.given())
    options.emaDecay = toNumber(given, 0, 1);
  if (const Named given = property(named, "lossOverKept"); given.given())
    options.lossOverKept = toBoolean(given);
  if (const Named given = property(named, "checkpoint"); given.given()) options.checkpoint = toBoolean(given);
  if (const Named given = property(named, "seed"); given.given()) options.seed = toSeed(given);
  if (const Named given = property(named, "keepGradients"); given.given())
    options.keepGradients = toBoolean(given);
  if (const Named given = property(named, "keepOutputs"); given.given())
    options.keepOutputs = toBoolean(given);
  return options;
}

PlannedStep toPlannedStep(const Named& named) {
  PlannedStep step;
  sizesOf(step, named);
  if (const Named given = property(named, "checkpoint"); given.given()) step.checkpoint = toBoolean(given);
  if (const Named given = property(named, "ema"); given.given()) step.ema = toBoolean(given);
  if (const Named given = property(named, "accumulate"); given.given()) step.accumulate = toBoolean(given);
  return step;
}

StickerSession::Part toPart(const Named& named) {
  using Part = StickerSession::Part;
  constexpr Part parts[] = {Part::weights, Part::average, Part::firstMoment, Part::secondMoment};
  if (!named.given()) return Part::weights;
  return parts[toChoice(named, {"weights", "average", "firstMoment", "secondMoment"})];
}

std::vector<DenoisingInput> toDenoisingInputs(const std::vector<Named>& batches,
                                              std::vector<Napi::Value>& held) {
  struct Properties {
    Named latents, noise, text, t5, timesteps, frameMask, infoMask, dropText, tokens;
  };
  // All properties of all batches before any memory: a getter could move it.
  std::vector<DenoisingInput> inputs(batches.size());
  std::vector<Properties> given;
  for (size_t i = 0; i < batches.size(); ++i) {
    const auto of = [&](const char* key) { return property(batches[i], key); };
    sizesOf(inputs[i].batch, batches[i]);
    given.push_back({of("latents"), of("noise"), of("text"), of("t5"), of("timesteps"), of("frameMask"),
                     of("infoMask"), of("dropText"), of("tokens")});
  }
  for (size_t i = 0; i < batches.size(); ++i) {
    const Properties& from = given[i];
    DenoisingInput& input = inputs[i];
    input.timesteps = intsIfGiven(from.timesteps);
    input.tokens = intsIfGiven(from.tokens);
    input.frameMask = bytesIfGiven(from.frameMask);
    input.infoMask = bytesIfGiven(from.infoMask);
    input.dropText = bytesIfGiven(from.dropText);
    input.batch.latents = floatsOf(from.latents, held);
    input.batch.noise = floatsIfGiven(from.noise, held);
    input.batch.text = floatsIfGiven(from.text, held);
    input.batch.t5 = floatsIfGiven(from.t5, held);
  }
  return inputs;
}

DenoisingBatch DenoisingInput::view() const {
  DenoisingBatch result = batch;
  result.timesteps = timesteps;
  result.tokens = tokens;
  result.frameMask = frameMask;
  result.infoMask = infoMask;
  result.dropText = dropText;
  return result;
}

PredictionInput toPredictionInput(const Named& named, std::vector<Napi::Value>& held) {
  PredictionInput input;
  sizesOf(input.batch, named);
  const Named noisy = property(named, "noisyLatents"), image = property(named, "imageLatents");
  const Named text = property(named, "text"), t5 = property(named, "t5");
  const Named timesteps = property(named, "timesteps"), frameMask = property(named, "frameMask");
  const Named tokens = property(named, "tokens"), dropText = property(named, "dropText");
  input.tokens = intsIfGiven(tokens);
  input.frameMask = bytesIfGiven(frameMask);
  input.dropText = bytesIfGiven(dropText);
  input.batch.noisyLatents = floatsOf(noisy, held);
  input.batch.imageLatents = floatsOf(image, held);
  input.batch.timesteps = floatsOf(timesteps, held);
  input.batch.text = floatsIfGiven(text, held);
  input.batch.t5 = floatsIfGiven(t5, held);
  return input;
}

PredictionBatch PredictionInput::view() const {
  PredictionBatch result = batch;
  result.tokens = tokens;
  result.frameMask = frameMask;
  result.dropText = dropText;
  return result;
}

}  // namespace duet::binding
