#include "stickers/session.h"

#include <algorithm>
#include <cmath>

#include "io/safetensors.h"
#include "ops/kernels.h"
#include "stickers/latents.h"
#include "stickers/texts.h"

namespace duet {

namespace {

using FloatsByName = std::map<std::string, std::vector<float>>;

template <typename T>
bool same(std::span<const T> a, const std::vector<T>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

}  // namespace

struct StickerSession::State {
  State(const DfgnConfig& config, const RuntimeOptions& o)
      : compute(checked(o)), network(config, o.seed, o.initialise), arena(Arena::create()) {}

  static DType checked(const RuntimeOptions& o) {
    if (o.compute == Compute::fp32) return DType::f32;
    if (!backend().product.supports(DType::bf16))
      fail(Code::Unsupported,
           "Expected fp32 for compute on this machine but received bf16, which needs a processor with "
           "AVX-512");
    return DType::bf16;
  }

  DenoisingTraining& active() const {
    require(training != nullptr, "Expected startTraining before this call");
    return *training;
  }

  /// Where the values of a part lie for a parameter, e.g. its first moment.
  Tensor& valuesOf(Parameter& p, Part part) const;
  void weightsChanged() { keysAndValues.clear(); }
  void keepTexts(const PredictionBatch& batch);
  DfgnInputs inputsOf(const PredictionBatch& batch);

  const DType compute;
  Dfgn network;
  std::shared_ptr<Arena> arena;
  std::unique_ptr<DenoisingTraining> training;
  FloatsByName gradients;
  // Keys and values of the text of the last prediction: they are the same in every step of a generation.
  std::map<const void*, Tensor> keysAndValues;
  std::vector<float> lastText, lastT5;
  std::vector<int32_t> lastTokens;
  std::vector<uint8_t> lastDrop;
};

Tensor& StickerSession::State::valuesOf(Parameter& p, Part part) const {
  switch (part) {
    case Part::weights:
      return p.value;
    case Part::average:
      require(active().ema != nullptr, "Expected a training with emaDecay for the moving average");
      return const_cast<Tensor&>(active().ema->average(p));
    case Part::firstMoment:
      return active().optimizer.state(p).average;
    case Part::secondMoment:
      return active().optimizer.state(p).averageSquare;
  }
  fail(Code::Internal, "An unknown part of the training state");
}

StickerSession::StickerSession(const DfgnConfig& config, const RuntimeOptions& options)
    : state_(std::make_unique<State>(config, options)) {}
StickerSession::~StickerSession() = default;

std::vector<ParameterInfo> StickerSession::parameters() const {
  std::vector<ParameterInfo> result;
  for (const PublishedParameter& p : state_->network.parameters().all()) result.push_back({p.name, p.shape});
  return result;
}

FloatsByName StickerSession::read(const std::vector<std::string>& names) const {
  FloatsByName result;
  for (const std::string& name : names) {
    const PublishedParameter& p = state_->network.parameters().find(name);
    result[name] = p.copyOf(p.parameter->value);
  }
  return result;
}

void StickerSession::write(const std::map<std::string, std::span<const float>>& values) {
  const ParameterList& list = state_->network.parameters();
  for (const auto& [name, data] : values) {
    const PublishedParameter& p = list.find(name);
    require(static_cast<int64_t>(data.size()) == p.elements(), "Expected ", p.elements(), " values for ",
            name, " ", p.shape.text(), " but received ", data.size());
  }
  for (const auto& [name, data] : values) {
    const PublishedParameter& p = list.find(name);
    p.fromPublished(data.data(), p.parameter->value);
    p.parameter->changed();
  }
  state_->weightsChanged();
}

void StickerSession::load(const std::string& path, Part part) {
  state_->network.load(path, [&](const Parameter& p) -> const Tensor& {
    return state_->valuesOf(const_cast<Parameter&>(p), part);
  });
  state_->weightsChanged();
}

void StickerSession::save(const std::string& path, Part part) const {
  state_->network.save(path, [&](const Parameter& p) -> const Tensor& {
    return state_->valuesOf(const_cast<Parameter&>(p), part);
  });
}

void StickerSession::startTraining(const DenoisingOptions& options) {
  state_->training.reset();
  state_->training =
      std::make_unique<DenoisingTraining>(state_->network, state_->arena, state_->compute, options);
}

namespace {

PlannedStep plannedStep(std::span<const DenoisingBatch> batches, const DenoisingOptions& options) {
  PlannedStep step;
  for (const DenoisingBatch& b : batches) {
    step.clips = std::max(step.clips, b.clips);
    step.height = std::max(step.height, b.height);
    step.width = std::max(step.width, b.width);
    step.textTokens = std::max(step.textTokens, b.textTokens);
    step.t5Tokens = std::max(step.t5Tokens, b.t5Tokens);
  }
  step.checkpoint = options.checkpoint;
  step.ema = options.emaDecay.has_value();
  step.accumulate = batches.size() > 1;
  return step;
}

}  // namespace

DenoisingResult StickerSession::step(std::span<const DenoisingBatch> batches) {
  DenoisingTraining& t = state_->active();
  state_->weightsChanged();
  try {
    DenoisingResult result = t.step(batches);
    state_->gradients = std::move(t.gradients);
    return result;
  } catch (const Error& error) {
    AdamW::forget(t.trained);  // half a pass leaves no gradients behind
    if (error.code != Code::OutOfMemory) throw;
    fail(Code::OutOfMemory, error.what(), ". Training with such batches takes ",
         nameOf(planMemory(t.network.config(), t.compute, plannedStep(batches, t.options))));
  } catch (...) {
    AdamW::forget(t.trained);
    throw;
  }
}

DenoisingResult StickerSession::evaluate(const DenoisingBatch& batch, int64_t drawStep) {
  return state_->active().evaluate(batch, drawStep);
}

FloatsByName StickerSession::gradients() const { return state_->gradients; }

FloatsByName StickerSession::optimizerState() const {
  DenoisingTraining& t = state_->active();
  FloatsByName result;
  for (const PublishedParameter& p : state_->network.parameters().all()) {
    const AdamW::State* s = t.optimizer.find(*p.parameter);
    if (s && p.parameter->trainable) {
      result[p.name + ".exp_avg"] = p.copyOf(s->average);
      result[p.name + ".exp_avg_sq"] = p.copyOf(s->averageSquare);
    }
    if (t.ema) result[p.name + ".ema"] = p.copyOf(t.ema->average(*p.parameter));
  }
  result["step"] = {static_cast<float>(t.steps)};
  return result;
}

void StickerSession::setOptimizerState(const std::map<std::string, std::span<const float>>& state) {
  DenoisingTraining& t = state_->active();
  const std::pair<std::string, Part> parts[] = {
      {".exp_avg", Part::firstMoment}, {".exp_avg_sq", Part::secondMoment}, {".ema", Part::average}};
  struct Target {
    const PublishedParameter* parameter;
    Part part;
    const float* values;
  };
  std::vector<Target> targets;
  int64_t steps = t.steps;
  for (const auto& [key, data] : state) {
    if (key == "step") {
      require(data.size() == 1, "Expected one value for step but received ", data.size());
      steps = static_cast<int64_t>(data[0]);
      continue;
    }
    const size_t dot = key.rfind('.');
    const auto found = std::find_if(std::begin(parts), std::end(parts), [&](const auto& part) {
      return dot != std::string::npos && key.substr(dot) == part.first;
    });
    require(found != std::end(parts),
            "Expected '<parameter>.exp_avg', '.exp_avg_sq', '.ema' or 'step' but "
            "received '",
            key, "'");
    const PublishedParameter& p = state_->network.parameters().find(key.substr(0, dot));
    require(static_cast<int64_t>(data.size()) == p.elements(), "Expected ", p.elements(), " values for ", key,
            " but received ", data.size());
    targets.push_back({&p, found->second, data.data()});
  }
  for (const Target& target : targets)
    target.parameter->fromPublished(target.values,
                                    state_->valuesOf(*target.parameter->parameter, target.part));
  setSteps(steps);
}

int64_t StickerSession::steps() const { return state_->active().steps; }

void StickerSession::setSteps(int64_t steps) {
  DenoisingTraining& t = state_->active();
  require(steps >= 0, "Expected a step of 0 or more but received ", steps);
  t.steps = steps;
  if (t.ema) t.ema->updates = steps;
  for (Parameter* p : t.trained)
    if (steps > 0 || t.optimizer.find(*p)) t.optimizer.state(*p).step = steps;
}

void StickerSession::swapAverages() {
  DenoisingTraining& t = state_->active();
  require(t.ema != nullptr, "Expected a training with emaDecay for the moving average");
  t.ema->swap();
  state_->weightsChanged();
}

void StickerSession::State::keepTexts(const PredictionBatch& batch) {
  if (same(batch.text, lastText) && same(batch.t5, lastT5) && same(batch.tokens, lastTokens) &&
      same(batch.dropText, lastDrop))
    return;
  keysAndValues.clear();
  lastTokens.assign(batch.tokens.begin(), batch.tokens.end());
  lastDrop.assign(batch.dropText.begin(), batch.dropText.end());
  lastText.assign(batch.text.begin(), batch.text.end());
  lastT5.assign(batch.t5.begin(), batch.t5.end());
}

DfgnInputs StickerSession::State::inputsOf(const PredictionBatch& batch) {
  const DfgnConfig& config = network.config();
  require(batch.clips >= 1, "Expected at least one clip but received ", batch.clips);
  config.checkSize(batch.height, batch.width);
  DfgnInputs inputs;
  inputs.grid = {batch.clips, config.frames, batch.height, batch.width};
  inputs.noisy = {rowsOf(*arena, batch.noisyLatents, inputs.grid, config.channels), -1};
  inputs.image = {rowsOf(*arena, batch.imageLatents, inputs.grid, config.channels), -1};
  require(static_cast<int64_t>(batch.timesteps.size()) == batch.clips, "Expected ", batch.clips,
          " timesteps but received ", batch.timesteps.size());
  inputs.times.assign(batch.timesteps.begin(), batch.timesteps.end());
  takeTexts(inputs, {batch.textTokens, batch.t5Tokens, batch.text, batch.tokens, batch.t5, batch.dropText},
            config, *arena, true);
  if (config.maskPadding && !batch.frameMask.empty()) {
    require(static_cast<int64_t>(batch.frameMask.size()) == inputs.grid.pictures(), "Expected ",
            inputs.grid.pictures(), " values for frameMask but received ", batch.frameMask.size());
    for (int64_t copy = 0; copy < inputs.copies; ++copy)
      inputs.keep.insert(inputs.keep.end(), batch.frameMask.begin(), batch.frameMask.end());
  }
  return inputs;
}

std::vector<float> StickerSession::predict(const PredictionBatch& batch, const float* guidance) {
  State& s = *state_;
  s.keepTexts(batch);
  DfgnInputs inputs = s.inputsOf(batch);
  inputs.kept = &s.keysAndValues;
  PictureGrid grid = inputs.grid;
  require(!guidance || inputs.copies == 2, "Expected two texts a clip for guidance but received ",
          inputs.copies);
  Tape tape(s.arena, false);
  Context context{tape, s.compute, false, 0, 0};
  Tensor output = s.network.forward(context, inputs).value;
  if (guidance) {
    const int64_t half = output.elements() / 2;
    float *without = output.f32(), *with = without + half;  // without += guidance * (with - without)
    backend().elementwise.scale(without, -1.0f, with, half, true);
    backend().elementwise.scale(with, *guidance, without, half, true);
    output = output.rows(0, grid.rows());
  } else {
    grid.clips *= inputs.copies;
  }
  std::vector<float> values(static_cast<size_t>(output.elements()));
  publishedFrom(output, grid, values.data());
  return values;
}

std::vector<DfgnTrace::Entry> StickerSession::trace(const PredictionBatch& batch) {
  State& s = *state_;
  DfgnInputs inputs = s.inputsOf(batch);
  require(inputs.copies == 1, "Expected one text a clip for a trace but received ", inputs.copies);
  DfgnTrace trace;
  inputs.trace = &trace;
  Tape tape(s.arena, false);
  Context context{tape, s.compute, false, 0, 0};
  s.network.forward(context, inputs);
  return std::move(trace.entries);
}

Differentiated StickerSession::differentiate(const PredictionBatch& batch, std::span<const float> target,
                                             bool checkpoint) {
  State& s = *state_;
  DfgnInputs inputs = s.inputsOf(batch);
  inputs.checkpoint = checkpoint;
  const PictureGrid grid = inputs.grid;
  std::vector<uint8_t> real(static_cast<size_t>(grid.pictures()), 1);
  if (!batch.frameMask.empty()) {
    require(batch.frameMask.size() == real.size(), "Expected ", real.size(),
            " values for frameMask but received ", batch.frameMask.size());
    real.assign(batch.frameMask.begin(), batch.frameMask.end());
  }
  const Tensor wanted = rowsOf(*s.arena, target, grid, s.network.config().channels);
  const std::vector<Parameter*> trained = trainEverything(s.network);
  Differentiated result;
  try {
    Tape tape(s.arena, true);
    Context context{tape, s.compute, true, 0, 0};
    std::vector<std::pair<const char*, int>> slots;
    const auto track = [&](const char* name, Var& x) {
      if (!x.value.defined()) return;
      x = tape.track(x.value);
      slots.emplace_back(name, x.slot);
    };
    track("noisyLatents", inputs.noisy);
    track("imageLatents", inputs.image);
    track("text", inputs.text);
    track("t5", inputs.t5);
    const Var output = s.network.forward(context, inputs);
    MaskedLoss masked = maskedLoss(*s.arena, output.value, wanted, grid, real, false, true);
    result.loss = masked.loss;
    result.clipLosses = std::move(masked.clips);
    result.output.resize(static_cast<size_t>(output.value.elements()));
    publishedFrom(output.value, grid, result.output.data());
    tape.give(output, std::move(masked.gradient));
    tape.backward();
    for (const auto& [name, slot] : slots) {
      const Tensor gradient = tape.take(slot);
      std::vector<float>& values = result.inputGradients[name];
      values.resize(static_cast<size_t>(gradient.elements()));
      if (slot <= slots[1].second)
        publishedFrom(gradient, grid, values.data());
      else
        currentMemory().copyOut(values.data(), gradient.f32(), gradient.bytes());
    }
    s.gradients = heldGradients(s.network);
  } catch (...) {
    AdamW::forget(trained);
    throw;
  }
  AdamW::forget(trained);
  return result;
}

DfgnMemory StickerSession::memory() const {
  DfgnMemory memory;
  const ParameterList& list = state_->network.parameters();
  memory.parameterBytes = list.packedBytes();
  const DenoisingTraining* t = state_->training.get();
  for (const Parameter* p : list.distinct()) {
    memory.parameterBytes += p->value.bytes();
    if (p->gradient.defined()) memory.trainingBytes += p->gradient.bytes();
    if (t && t->optimizer.find(*p)) memory.trainingBytes += 2 * p->value.bytes();
    if (t && t->ema) memory.trainingBytes += p->value.bytes();
  }
  memory.arenaPeakBytes = state_->arena->peakBytes();
  return memory;
}

MemoryPlan StickerSession::memoryPlan(const PlannedStep& step) const {
  return planMemory(state_->network.config(), state_->compute, step);
}

}  // namespace duet
