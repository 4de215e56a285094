#include "stickers/denoising_step.h"

#include <algorithm>
#include <cmath>

#include "core/philox.h"
#include "ops/kernels.h"
#include "stickers/latents.h"
#include "stickers/texts.h"

namespace duet {

namespace {

constexpr int64_t kMicroBatches = 4096;  // of one step, at most
constexpr int64_t kDraws = 2;            // noise and times

Philox generatorOf(uint64_t seed, int64_t step, int64_t micro, int64_t draw) {
  return {seed, static_cast<uint64_t>((step * kMicroBatches + micro) * kDraws + draw)};
}

void expectSize(const char* what, size_t received, int64_t expected) {
  require(static_cast<int64_t>(received) == expected, "Expected ", expected, " values for ", what,
          " but received ", received);
}

bool endsWith(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

std::vector<Parameter*> trainEverything(Dfgn& network) {
  std::vector<Parameter*> trained;
  for (Parameter* p : network.parameters().distinct()) {
    p->forgetGradient();
    p->trainable = !endsWith(p->name, ".conv_layers.1.conv2.bias");
    if (p->trainable) trained.push_back(p);
  }
  return trained;
}

std::map<std::string, std::vector<float>> heldGradients(const Dfgn& network) {
  std::map<std::string, std::vector<float>> result;
  for (const PublishedParameter& p : network.parameters().all())
    if (p.parameter->hasGradient) result[p.name] = p.copyOf(p.parameter->gradient);
  return result;
}

MaskedLoss maskedLoss(Arena& arena, const Tensor& output, const Tensor& target, const PictureGrid& grid,
                      const std::vector<uint8_t>& keep, bool overKept, bool wantsGradient) {
  MaskedLoss result;
  result.clips.resize(static_cast<size_t>(grid.clips));
  if (wantsGradient) result.gradient = arena.empty(output.shape());
  MaskedSquaredError call{};
  call.output = output.f32();
  call.target = target.f32();
  call.keep = keep.data();
  call.clips = grid.clips;
  call.frames = grid.frames;
  call.values = grid.pixels() * output.columns();
  call.overKept = overKept;
  call.gradient = wantsGradient ? result.gradient.f32() : nullptr;
  call.clipLoss = result.clips.data();
  result.loss = backend().noise.maskedSquaredError(call);
  return result;
}

DenoisingTraining::DenoisingTraining(Dfgn& n, std::shared_ptr<Arena> memory, DType type,
                                     const DenoisingOptions& o)
    : network(n), arena(std::move(memory)), compute(type), options(o), optimizer(o.optimizer) {
  alphas = cumulativeAlphas(o.noise);
  trained = trainEverything(network);
  // Gradients take the place of activations that the way back has done with.
  for (Parameter* p : trained) p->gradientArena = arena;
  if (o.emaDecay) ema = std::make_unique<Ema>(network.parameters().distinct(), *o.emaDecay);
}

/// A batch as the network takes it.
struct DenoisingTraining::Prepared {
  DfgnInputs inputs;
  Tensor target;
  std::vector<uint8_t> real;  // clips x frames
  std::vector<int32_t> times;
  std::vector<float> noise;
};

/// Times and noise: those of the batch, or drawn.
void DenoisingTraining::draw(Prepared& p, const DenoisingBatch& batch, int64_t step, int64_t micro) const {
  const auto most = static_cast<int64_t>(alphas.size());
  if (batch.timesteps.empty()) {
    const Philox generator = generatorOf(options.seed, step, micro, 1);
    for (int64_t clip = 0; clip < batch.clips; ++clip) {
      const uint64_t word = generator.words(static_cast<uint64_t>(clip))[0];
      p.times.push_back(static_cast<int32_t>(word * static_cast<uint64_t>(most) >> 32));
    }
  } else {
    expectSize("timesteps", batch.timesteps.size(), batch.clips);
    p.times.assign(batch.timesteps.begin(), batch.timesteps.end());
  }
  for (int32_t t : p.times)
    require(t >= 0 && t < most, "Expected timesteps from 0 to ", most - 1, " but received ", t);
  if (batch.noise.empty()) {
    p.noise.resize(batch.latents.size());
    fillNormal(p.noise.data(), static_cast<int64_t>(p.noise.size()), 1.0f,
               generatorOf(options.seed, step, micro, 0));
  } else {
    expectSize("noise", batch.noise.size(), static_cast<int64_t>(batch.latents.size()));
    p.noise.assign(batch.noise.begin(), batch.noise.end());
  }
}

DenoisingTraining::Prepared DenoisingTraining::prepare(const DenoisingBatch& batch, int64_t step,
                                                       int64_t micro) const {
  const DfgnConfig& config = network.config();
  require(batch.clips >= 1, "Expected at least one clip but received ", batch.clips);
  config.checkSize(batch.height, batch.width);
  const PictureGrid grid{batch.clips, config.frames, batch.height, batch.width};
  const int64_t pictures = grid.pictures(), values = grid.pixels() * config.channels;
  expectSize("latents", batch.latents.size(), pictures * values);

  Prepared p;
  draw(p, batch, step, micro);
  p.real.assign(static_cast<size_t>(pictures), 1);
  if (!batch.frameMask.empty()) {
    expectSize("frameMask", batch.frameMask.size(), pictures);
    p.real.assign(batch.frameMask.begin(), batch.frameMask.end());
  }
  std::vector<uint8_t> given(static_cast<size_t>(pictures), 0);
  if (!batch.infoMask.empty()) {
    const bool each = static_cast<int64_t>(batch.infoMask.size()) == pictures;
    if (!each) expectSize("infoMask", batch.infoMask.size(), config.frames);
    for (int64_t i = 0; i < pictures; ++i)
      given[static_cast<size_t>(i)] = batch.infoMask[static_cast<size_t>(each ? i : i % config.frames)];
  }
  for (int64_t clip = 0; clip < batch.clips; ++clip) {
    const auto begin = p.real.begin() + clip * config.frames;
    require(std::any_of(begin, begin + config.frames, [](uint8_t kept) { return kept != 0; }),
            "Expected at least one real frame in every clip but the frame mask of clip ", clip, " has none");
  }

  const Tensor clean = rowsOf(*arena, batch.latents, grid, config.channels);
  const Tensor noise = rowsOf(*arena, p.noise, grid, config.channels);
  const Tensor noisy = arena->empty(clean.shape()), image = arena->empty(clean.shape());
  const bool velocity = options.prediction == Prediction::velocity;
  switch (options.prediction) {
    case Prediction::epsilon:
      p.target = noise;
      break;
    case Prediction::velocity:
      p.target = arena->empty(clean.shape());
      break;
    case Prediction::sample:
      p.target = clean;
      break;
  }
  for (int64_t i = 0; i < pictures; ++i) {
    const float left = alphas[static_cast<size_t>(p.times[static_cast<size_t>(i / config.frames)])];
    const float keep = std::sqrt(left), add = std::sqrt(1.0f - left);
    const bool shown = given[static_cast<size_t>(i)] && p.real[static_cast<size_t>(i)];
    const float *x = clean.f32() + i * values, *n = noise.f32() + i * values;
    const auto mix = [values](const float* a, float first, const float* b, float second, float* to) {
      backend().elementwise.scale(a, first, to, values, false);
      backend().elementwise.scale(b, second, to, values, true);
    };
    mix(x, keep, n, add, noisy.f32() + i * values);
    if (velocity) mix(n, keep, x, -add, p.target.f32() + i * values);
    if (shown)
      currentMemory().copy(image.f32() + i * values, x, static_cast<size_t>(values) * sizeof(float));
    else
      currentMemory().zero(image.f32() + i * values, static_cast<size_t>(values) * sizeof(float));
  }
  p.inputs.grid = grid;
  p.inputs.noisy = {noisy, -1};
  p.inputs.image = {image, -1};
  p.inputs.times.assign(p.times.begin(), p.times.end());
  require(batch.text.empty() || !config.captionEncoder,
          "Expected tokens for training a network with a caption_encoder but received text");
  takeTexts(p.inputs, {batch.textTokens, batch.t5Tokens, batch.text, batch.tokens, batch.t5, batch.dropText},
            config, *arena, false);
  if (config.maskPadding) p.inputs.keep = p.real;
  p.inputs.checkpoint = options.checkpoint;
  return p;
}

double DenoisingTraining::pass(const DenoisingBatch& batch, int64_t step, int64_t micro, int64_t micros,
                               bool learn, DenoisingResult& result) {
  Prepared p = prepare(batch, step, micro);
  const PictureGrid grid = p.inputs.grid;
  const auto published = [&](const Tensor& rows) {
    std::vector<float> values(static_cast<size_t>(rows.elements()));
    publishedFrom(rows, grid, values.data());
    return values;
  };
  if (options.keepOutputs) {
    result.noisyLatents = published(p.inputs.noisy.value);
    result.imageLatents = published(p.inputs.image.value);
  }
  Tape tape(arena, learn);
  Context context{tape, compute, true, options.seed, 0};
  const Var output = network.forward(context, p.inputs);
  MaskedLoss masked = maskedLoss(*arena, output.value, p.target, grid, p.real, options.lossOverKept, learn);
  if (!std::isfinite(masked.loss))
    fail(Code::NotFinite, "Expected a finite loss but that of ",
         learn ? str("step ", step + 1) : "an evaluation", " is ", masked.loss,
         "; the weights are as before this step: lower the learning rate or look at this batch's latents");
  if (options.keepOutputs) result.prediction = published(output.value);
  result.clipLosses.insert(result.clipLosses.end(), masked.clips.begin(), masked.clips.end());
  result.timesteps.insert(result.timesteps.end(), p.times.begin(), p.times.end());
  if (!learn) return masked.loss;
  if (micros > 1)
    backend().elementwise.scale(masked.gradient.f32(), 1.0f / static_cast<float>(micros),
                                masked.gradient.f32(), masked.gradient.elements(), false);
  tape.give(output, std::move(masked.gradient));
  tape.backward();
  return masked.loss;
}

DenoisingResult DenoisingTraining::step(std::span<const DenoisingBatch> batches) {
  const auto micros = static_cast<int64_t>(batches.size());
  require(micros >= 1 && micros <= kMicroBatches, "Expected 1 to ", kMicroBatches,
          " micro-batches but received ", micros);
  require(!ema || !ema->swapped(),
          "Expected the trained weights in place for a training step but their averages are; exchange them "
          "back with swapEma");
  gradients.clear();
  DenoisingResult result;
  for (int64_t micro = 0; micro < micros; ++micro)
    result.loss += pass(batches[static_cast<size_t>(micro)], steps, micro, micros, true, result) /
                   static_cast<double>(micros);
  if (options.keepGradients) gradients = heldGradients(network);
  const AdamW::Clipping clipping = AdamW::clip(trained, options.maxGradNorm);
  result.gradNorm = clipping.norm;
  if (!std::isfinite(result.gradNorm))
    fail(Code::NotFinite, "Expected finite gradients but their norm in step ", steps + 1, " is ",
         result.gradNorm,
         "; the weights are as before this step: lower the learning rate or look at this batch's latents");
  result.learningRate = learningRateAt(options.optimizer, options.schedule, steps);
  optimizer.update(trained, result.learningRate, ClearGradients::none, clipping.scale);
  if (ema) ema->update();
  result.step = ++steps;
  return result;
}

DenoisingResult DenoisingTraining::evaluate(const DenoisingBatch& batch, int64_t drawStep) {
  DenoisingResult result;
  result.loss = pass(batch, drawStep, 0, 1, false, result);
  result.step = steps;
  return result;
}

}  // namespace duet
