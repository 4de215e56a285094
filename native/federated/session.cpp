#include "federated/session.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "core/host_access.h"
#include "federated/feddat_step.h"
#include "models/vilt.h"
#include "ops/kernels.h"

namespace duet {

struct Session::State {
  State(const ViltConfig& config, const RuntimeOptions& o)
      : options(checked(o)), model(config, o.seed, o.initialise), arena(Arena::create()) {}

  static RuntimeOptions checked(const RuntimeOptions& o) {
    if (o.compute == Compute::bf16 && !backend().product.supports(DType::bf16))
      fail(Code::Unsupported,
           "Expected fp32 for compute on this machine but received bf16, which needs a processor with "
           "AVX-512");
    return o;
  }

  DType compute() const { return options.compute == Compute::bf16 ? DType::bf16 : DType::f32; }
  Training& training() {
    require(trainingNow != nullptr, "Expected startTraining before this call");
    return *trainingNow;
  }

  RuntimeOptions options;
  Vilt model;
  std::shared_ptr<Arena> arena;
  std::unique_ptr<Training> trainingNow;
};

Session::Session(const ViltConfig& config, const RuntimeOptions& options)
    : state_(std::make_unique<State>(config, options)) {}
Session::~Session() = default;

std::vector<ParameterInfo> Session::parameters() const {
  std::vector<ParameterInfo> result;
  for (const NamedParameter& p : state_->model.parameters()) result.push_back({p.name, p.shape});
  return result;
}

void Session::load(const std::string& path) {
  require(!state_->trainingNow || state_->trainingNow->options.method != Method::full,
          "Weights cannot be loaded while all of them are trained");
  state_->model.load(path);
}

void Session::addAdapters(int64_t reduction, uint64_t seed) { state_->model.addAdapters(reduction, seed); }

void Session::addHead(const std::string& task, int64_t classes, uint64_t seed) {
  state_->model.addHead(task, classes, seed);
}

std::map<std::string, std::vector<float>> Session::read(const std::vector<std::string>& names) const {
  std::map<std::string, std::vector<float>> result;
  for (const std::string& name : names) {
    const Tensor view = state_->model.find(name).view();
    result[name] = valuesOf(view);
  }
  return result;
}

void Session::write(const std::map<std::string, std::span<const float>>& values) {
  for (const auto& [name, data] : values) {
    const NamedParameter& p = state_->model.find(name);
    require(static_cast<int64_t>(data.size()) == p.shape.elements(), "Expected ", p.shape.elements(),
            " values for ", name, " ", p.shape.text(), " but received ", data.size());
  }
  for (const auto& [name, data] : values) {
    const NamedParameter& p = state_->model.find(name);
    p.parameter->own();
    copyIn(p.view(), data.data());
    p.parameter->changed();
  }
}

void Session::startTraining(const TrainingOptions& options) {
  state_->trainingNow.reset();
  state_->trainingNow =
      std::make_unique<Training>(state_->model, state_->arena, state_->options.compute, options);
}

StepResult Session::step(const ViltBatch& batch) {
  Training& t = state_->training();
  const auto wanted = static_cast<size_t>(batch.batch * t.head.classes());
  require(batch.targets.size() == wanted, "Expected targets of ", batch.batch, " x ", t.head.classes(),
          " scores but received ", batch.targets.size());
  try {
    return t.options.method == Method::feddat ? fedDatStep(t, batch) : plainStep(t, batch);
  } catch (...) {
    AdamW::forget(t.all);  // half a pass leaves no gradients behind
    throw;
  }
}

std::map<std::string, std::vector<float>> Session::gradients() const { return state_->training().gradients; }

std::map<std::string, std::vector<float>> Session::optimizerState() const {
  Training& t = state_->training();
  std::map<std::string, std::vector<float>> result;
  for (const NamedParameter& p : state_->model.parameters()) {
    const AdamW::State* s = t.optimizer.find(*p.parameter);
    if (!s) continue;
    const auto part = [&](const Tensor& whole) {
      const Tensor view = whole.rows(p.firstRow, p.firstRow + p.shape[0]);
      return valuesOf(view);
    };
    result[p.name + ".exp_avg"] = part(s->average);
    result[p.name + ".exp_avg_sq"] = part(s->averageSquare);
    result[p.name + ".step"] = {static_cast<float>(s->step)};
  }
  result["schedule.step"] = {static_cast<float>(t.scheduleStep)};
  result["schedule.batch"] = {static_cast<float>(t.batches)};
  return result;
}

void Session::setOptimizerState(const std::map<std::string, std::span<const float>>& state) {
  Training& t = state_->training();
  // All entries are checked before the first is applied.
  std::vector<std::function<void()>> changes;
  const auto count = [](const std::string& key, std::span<const float> data) {
    require(data.size() == 1, "Expected one value for ", key, " but received ", data.size());
    require(data[0] >= 0.0f && data[0] <= 9.0e15f && data[0] == std::floor(data[0]),
            "Expected a number of steps for ", key, " but received ", data[0]);
    return static_cast<int64_t>(data[0]);
  };
  for (const auto& [key, data] : state) {
    if (key == "schedule.step") {
      changes.push_back([&t, steps = count(key, data)] { t.scheduleStep = steps; });
      continue;
    }
    if (key == "schedule.batch") {
      changes.push_back([&t, batches = count(key, data)] { t.batches = batches; });
      continue;
    }
    const size_t dot = key.rfind('.');
    require(dot != std::string::npos, "Expected '<parameter>.exp_avg' and the like but received '", key, "'");
    const std::string field = key.substr(dot + 1);
    const NamedParameter& p = state_->model.find(key.substr(0, dot));
    require(std::find(t.all.begin(), t.all.end(), p.parameter) != t.all.end(), "Optimizer state for ", p.name,
            " does not fit this training, which does not train it");
    if (field == "step") {
      changes.push_back([&t, &p, steps = count(key, data)] { t.optimizer.state(*p.parameter).step = steps; });
      continue;
    }
    require(field == "exp_avg" || field == "exp_avg_sq",
            "Expected exp_avg, exp_avg_sq or step but received '", key, "'");
    require(static_cast<int64_t>(data.size()) == p.shape.elements(), "Expected ", p.shape.elements(),
            " values for ", key, " but received ", data.size());
    changes.push_back([&t, &p, field, data] {
      AdamW::State& s = t.optimizer.state(*p.parameter);
      const Tensor& whole = field == "exp_avg" ? s.average : s.averageSquare;
      copyIn(whole.rows(p.firstRow, p.firstRow + p.shape[0]), data.data());
    });
  }
  for (const auto& change : changes) change();
}

std::vector<float> Session::evaluate(const ViltBatch& batch, const std::string& task, AdapterMode mode) {
  State& s = *state_;
  ViltHead& head = s.model.head(task);
  ViltPlan plan = planBatch(s.model.config(), batch, *s.arena, Padding::drop);
  Tape tape(s.arena, false);
  Context context{tape, s.compute(), false, 0, 0};
  const Tensor logits = s.model.classify(context, s.model.pooled(context, plan, mode), head).value;
  return valuesOf(logits);
}

HiddenStates Session::hiddenStates(const ViltBatch& batch, AdapterMode mode) {
  State& s = *state_;
  ViltPlan plan = planBatch(s.model.config(), batch, *s.arena, Padding::keep);
  Tape tape(s.arena, false);
  Context context{tape, s.compute(), false, 0, 0};
  const int64_t b = plan.batch, t = plan.tokensEach, d = s.model.config().hiddenSize;
  const auto persistent = [&](const Tensor& from, const Shape& shape) {
    const Tensor made = Tensor::zeros(shape);
    copy(made, from);
    return made;
  };
  const auto list = [&](const std::vector<int64_t>& values, const Shape& shape) {
    const Tensor made = Tensor::zeros(shape, DType::i64);
    currentMemory().copyIn(made.raw(), values.data(), made.bytes());
    return made;
  };
  HiddenStates result;
  std::vector<Tensor> states = s.model.hiddenStates(context, plan, mode);
  const Tensor last = states.back();
  states.pop_back();
  for (const Tensor& state : states) result.hiddenStates.push_back(persistent(state, {b, t, d}));
  result.lastHiddenState = persistent(last, {b, t, d});
  Tensor first = s.arena->empty({b, d});
  for (int64_t i = 0; i < b; ++i)
    currentMemory().copy(first.f32() + i * d, last.f32() + i * t * d, static_cast<size_t>(d) * 4);
  result.poolerOutput = persistent(s.model.pool(context, Var{first, -1}).value, {b, d});
  result.attentionMask = list({plan.keyMask.begin(), plan.keyMask.end()}, {b, t});
  const int64_t each = static_cast<int64_t>(plan.patchRow->size()) / b;
  result.patchIndex = list({plan.patchGridIndex.begin(), plan.patchGridIndex.end()}, {b, each, 2});
  return result;
}

size_t Session::parameterBytes() const {
  size_t bytes = state_->model.packedBytes();
  for (const NamedParameter& p : state_->model.parameters())
    bytes += static_cast<size_t>(p.shape.elements()) * 4;
  return bytes;
}

size_t Session::arenaPeakBytes() const { return state_->arena->peakBytes(); }

}  // namespace duet
